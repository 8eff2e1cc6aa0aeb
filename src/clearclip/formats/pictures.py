"""Pictures of a label map: palette PNG, preview with legend, RGBA layer, one binary mask per label. Pillow only.

Belongs here: image files that a viewer opens. Does not: annotations (COCO, polygons, annotation tools).
"""

from __future__ import annotations

from pathlib import Path

from clearclip.formats.base import Format, Record, Sample
from clearclip.outputs import save_image, save_label_map

PREVIEW_SUFFIX = ".overlay.jpg"


class LabelPng(Format):
    """`<stem>.png`: pixel values are label indices, coloured by a palette."""

    name = "png"

    def files(self, folder: Path, stem: str) -> tuple[Path, ...]:
        """As `Format.files`."""
        return (folder / f"{stem}.png",)

    def write(self, sample: Sample) -> Record:
        """As `Format.write`."""
        (file,) = self.files(sample.run.folder, sample.stem)
        save_label_map(sample.result.label_map, file, palette=sample.result.palette, info=sample.texts)
        return {}


class Preview(Format):
    """`<stem>.overlay.jpg`: the image with its labels' colours and a legend, to look at."""

    name = "preview"

    def files(self, folder: Path, stem: str) -> tuple[Path, ...]:
        """As `Format.files`."""
        return (folder / f"{stem}{PREVIEW_SUFFIX}",)

    def write(self, sample: Sample) -> Record:
        """As `Format.write`."""
        (file,) = self.files(sample.run.folder, sample.stem)
        save_image(sample.result.overlay(), file)
        return {}
