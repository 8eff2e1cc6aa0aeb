"""Numbers that papers print, to stand beside measured ones. They are quoted (`published.csv`), never computed."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Published:
    """One printed number: mIoU in percent, and its paper and table."""

    miou: float
    source: str


def published_number(benchmark: str, *, model: str, method: str) -> Published | None:
    """The printed mIoU of one cell, or `None`; model is a checkpoint's friendly name, method a spelling.

    benchmark may be a preset's, as `voc21:naclip`: those of refused presets are there to be read alone.
    The table's BLIP row "ViT-L/14" is `blip-l16`; its MaskCLIP, SCLIP and GEM rows run on OpenAI's CLIP.
    """
    return _table().get((benchmark, model, method))


@functools.cache
def _table() -> dict[tuple[str, str, str], Published]:
    text = resources.files(__package__).joinpath("published.csv").read_text(encoding="utf-8")
    return {
        (row["benchmark"], row["model"], row["method"]): Published(float(row["miou"]), row["source"])
        for row in csv.DictReader(text.splitlines())
    }
