"""Pictures of a label map: palette PNG, preview with legend, RGBA layer, one binary mask per label. Pillow only.

Belongs here: image files that a viewer opens. Does not: annotations (COCO, polygons, annotation tools).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from clearclip.files.label_maps import save_image, save_label_map
from clearclip.files.names import safe_stem
from clearclip.formats.base import Format, Record, Sample

PREVIEW_SUFFIX = ".overlay.jpg"
OPACITY = 140
LABEL_BYTES = 160


class LabelPng(Format):
    """`<stem>.png`: pixel values are label indices, coloured by a palette; 16-bit grey for more than 256 labels."""

    name = "png"

    def files(self, folder: Path, stem: str) -> tuple[Path, ...]:
        """As `Format.files`."""
        return (folder / f"{stem}.png",)

    def write(self, sample: Sample) -> Record:
        """As `Format.write`."""
        (file,) = self.files(sample.run.folder, sample.stem)
        save_label_map(sample.result.label_map, file, palette=sample.result.palette, info=sample.all_texts)
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
        save_image(sample.result.overlay(), file, info=sample.all_texts)
        return {}


class Overlay(Format):
    """`overlay/<stem>.png`: the labels' colours, half transparent, to lay over the image; the background is clear."""

    name = "overlay"

    def files(self, folder: Path, stem: str) -> tuple[Path, ...]:
        """As `Format.files`."""
        return (folder / "overlay" / f"{stem}.png",)

    def write(self, sample: Sample) -> Record:
        """As `Format.write`."""
        (file,) = self.files(sample.run.folder, sample.stem)
        file.parent.mkdir(exist_ok=True)
        vocabulary = sample.run.vocabulary
        alpha = np.full((len(vocabulary.names), 1), OPACITY, dtype=np.uint8)
        if vocabulary.background_index is not None:
            alpha[vocabulary.background_index] = 0
        colors = np.concatenate([vocabulary.palette, alpha], axis=1)
        save_image(Image.fromarray(colors[sample.result.label_map]), file, info=sample.all_texts)
        return {}


class Masks(Format):
    """`masks/<stem>/<index>-<label>.png`: black and white, one for every label of the run, present or not."""

    name = "masks"

    def files(self, folder: Path, stem: str) -> tuple[Path, ...]:
        """As `Format.files`: the folder, as the names in it follow from the labels."""
        return (folder / "masks" / stem,)

    def write(self, sample: Sample) -> Record:
        """As `Format.write`."""
        (folder,) = self.files(sample.run.folder, sample.stem)
        folder.mkdir(parents=True, exist_ok=True)
        names = sample.run.vocabulary.names
        wanted = [folder / mask_name(index, name) for index, name in enumerate(names)]
        for index, file in enumerate(wanted):
            info = {**sample.texts, "label": names[index], "index": str(index)}
            save_image(Image.fromarray(sample.result.label_map == index), file, info=info)
        return {}


def mask_name(index: int, label: str) -> str:
    """Name of a label's mask, whatever letters the label has.

    Args:
        index: The label's; it keeps apart labels that become equal.
        label: Its name.

    Returns:
        A file name.
    """
    short = label.encode("utf-8", "replace")[:LABEL_BYTES].decode("utf-8", "ignore")
    return f"{index:03d}-{safe_stem(short)}.png"
