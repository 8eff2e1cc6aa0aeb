"""Pictures of a label map: palette PNG, grey PNG, preview with legend, RGBA layer, one mask per label. Pillow only."""

from __future__ import annotations

import numpy as np
from PIL import Image

from clearclip.files.label_maps import save_image, save_label_map
from clearclip.files.names import safe_stem
from clearclip.formats.base import Format, Record, Sample

OPACITY = 140
LABEL_BYTES = 160


class LabelPng(Format):
    """`<stem>.png`: pixel values are label indices, coloured by a palette; 16-bit grey for more than 256 labels."""

    name = "png"
    image_file = "{stem}.png"

    def write(self, sample: Sample) -> Record:
        save_label_map(
            sample.result.label_map, self.place(sample), palette=sample.result.palette, info=sample.all_texts
        )
        return {}


class MaskPng(Format):
    """`mask/<stem>.png`: pixel values are label indices and their grey levels, whoever reads it; 16 bits above 256."""

    name = "mask"
    image_file = "mask/{stem}.png"

    def write(self, sample: Sample) -> Record:
        kind = np.uint8 if len(sample.run.vocabulary.names) <= 256 else np.uint16
        image = Image.fromarray(sample.result.label_map.astype(kind))
        save_image(image, self.place(sample), info=sample.all_texts)
        return {}


class Preview(Format):
    """`<stem>.overlay.jpg`: the image with its labels' colours and a legend, to look at."""

    name = "preview"
    image_file = "{stem}.overlay.jpg"

    def write(self, sample: Sample) -> Record:
        save_image(sample.result.overlay(), self.place(sample), info=sample.all_texts)
        return {}


class Overlay(Format):
    """`overlay/<stem>.png`: the labels' colours, half transparent, to lay over the image; the background is clear."""

    name = "overlay"
    image_file = "overlay/{stem}.png"

    def write(self, sample: Sample) -> Record:
        vocabulary = sample.run.vocabulary
        alpha = np.full((len(vocabulary.names), 1), OPACITY, dtype=np.uint8)
        if vocabulary.background_index is not None:
            alpha[vocabulary.background_index] = 0
        colors = np.concatenate([vocabulary.palette, alpha], axis=1)
        save_image(Image.fromarray(colors[sample.result.label_map]), self.place(sample), info=sample.all_texts)
        return {}


class Masks(Format):
    """`masks/<stem>/<index>-<label>.png`: black and white, one for every label of the run, present or not."""

    name = "masks"
    image_file = "masks/{stem}"  # the folder, as the names in it follow from the labels

    def write(self, sample: Sample) -> Record:
        folder = self.place(sample)
        folder.mkdir(exist_ok=True)
        for index, name in enumerate(sample.run.vocabulary.names):
            info = {**sample.texts, "label": name, "index": str(index)}
            save_image(Image.fromarray(sample.result.label_map == index), folder / mask_name(index, name), info=info)
        return {}


def mask_name(index: int, label: str) -> str:
    """Name of a label's mask, whatever letters the label has; the index keeps apart labels that become equal."""
    short = label.encode("utf-8", "replace")[:LABEL_BYTES].decode("utf-8", "ignore")
    return f"{index:03d}-{safe_stem(short)}.png"
