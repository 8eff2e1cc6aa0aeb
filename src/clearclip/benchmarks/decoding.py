"""What the values of a label map on disk mean, as lookup tables. Pure numpy; where files lie stands in `rows`.

A table turns a raw value (0…255) into the benchmark's own label space: a class index, `IGNORE`, or `INVALID`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clearclip.errors import ImageError, UsageError

IGNORE = 255
INVALID = -1

COCO_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Raw ids of COCO's stuff-thing maps that no class has (https://github.com/nightrome/cocostuff, labels.txt)."""

CITYSCAPES_TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""`labelIds` of the 19 evaluated classes, in order (https://github.com/mcordts/cityscapesScripts, labels.py)."""


@dataclass(frozen=True)
class LabelForm:
    """One form in which a benchmark's label maps lie on disk.

    Attributes:
        suffix: What follows an image's id in the file's name.
        table: For each raw value 0…255 the class index, `IGNORE` or `INVALID`.
        about: Its usual name.
        is_own: Whether it was made from a user's words about own files.
    """

    suffix: str
    table: tuple[int, ...]
    about: str
    is_own: bool = False

    def decode(self, raw: npt.NDArray[np.integer], *, source: str) -> npt.NDArray[np.uint8]:
        """Raw values `(H, W)` → class indices and `IGNORE`, uint8; `ImageError` names wrong values and their counts."""
        table = np.array(self.table, dtype=np.int16)
        if raw.size and (raw.min() < 0 or raw.max() > 255):
            wrong = int(raw.max() if raw.max() > 255 else raw.min())
            raise ImageError(f"{source} holds the label {wrong}: {self.describe()}")
        decoded = table[raw]
        invalid = decoded == INVALID
        if invalid.any():
            values, counts = np.unique(raw[invalid], return_counts=True)
            listed = ", ".join(f"{value} ({count:,} pixels)" for value, count in zip(values[:5], counts, strict=False))
            more = f" and {len(values) - 5} other values" if len(values) > 5 else ""
            raise ImageError(f"{source} holds labels outside the range: {listed}{more}; {self.describe()}")
        return np.asarray(decoded, dtype=np.uint8)

    def describe(self) -> str:
        """The allowed values as a clause: `index maps allow 0–20, 255 (*.png)`."""
        allowed = [value for value, index in enumerate(self.table) if index != INVALID]
        lows = [value for value in allowed if value - 1 not in allowed]
        highs = [value for value in allowed if value + 1 not in allowed]
        hint = "; --ignored 0 where 0 means unlabelled and 1 is the first label" if self.is_own else ""
        spelled = ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in zip(lows, highs, strict=True))
        return f"{self.about} allow {spelled} (*{self.suffix}){hint}"


def own_form(labels: int, *, ignored: Sequence[int], values: Sequence[int] | None) -> LabelForm:
    """The form of a user's own maps: the value of each label, by default the first that are not ignored; 255 is.

    `UsageError` for values that are none, or not one for each label.
    """
    kept = [value for value in range(255) if value not in ignored][:labels] if values is None else list(values)
    if wrong := [value for value in (*ignored, *kept) if not 0 <= value <= 255]:
        raise UsageError(f"a label map has values from 0 to 255, {wrong[0]} is none")
    if len(set(kept)) != len(kept) or set(kept) & set(ignored):
        raise UsageError("a value of the label maps was given twice: each is one label's, or ignored")
    if len(kept) != labels:
        raise UsageError(f"{len(kept)} values for {labels} labels: give one for each, at most 255 beside the ignored")
    lost = () if 255 in kept else (255,)
    return LabelForm(".png", from_order(kept, ignored=(*ignored, *lost)), f"index maps of {labels} labels", is_own=True)


def indices(classes: int, *, ignored: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Table of maps with class indices below classes, 255 ignored; the indices after an ignored one move down."""
    kept = [value for value in range(classes) if value not in ignored]
    return from_order(kept, ignored=(*ignored, 255))


def from_order(raw: list[int] | tuple[int, ...], *, ignored: tuple[int, ...]) -> tuple[int, ...]:
    """Table that gives raw values the indices 0, 1, 2, … in the order of a list; all others are `INVALID`."""
    table = [INVALID] * 256
    for value in ignored:
        table[value] = IGNORE
    for index, value in enumerate(raw):
        table[value] = index
    return tuple(table)


def coco_stuff_raw() -> tuple[int, ...]:
    """COCO's raw stuff-thing maps → 171 classes: the order is kept, the gaps are closed, 255 is ignored."""
    return from_order([value for value in range(182) if value not in COCO_GAPS], ignored=(255,))


def coco_object_raw() -> tuple[int, ...]:
    """COCO's raw stuff-thing maps → background and 80 things: every stuff id and 255 are background, none ignored."""
    return _things_and_background(coco_stuff_raw(), things=80)


def coco_object_from_stuff() -> tuple[int, ...]:
    """COCO-Stuff's 171 train ids → background and 80 things, as `coco_object_raw`."""
    return _things_and_background(indices(171), things=80)


def _things_and_background(stuff: tuple[int, ...], *, things: int) -> tuple[int, ...]:
    return tuple(index if index == INVALID else index + 1 if index < things else 0 for index in stuff)


def cityscapes_label_ids() -> tuple[int, ...]:
    """Cityscapes' `labelIds` → 19 train ids; everything else is ignored."""
    others = tuple(value for value in range(256) if value not in CITYSCAPES_TRAINED)
    return from_order(CITYSCAPES_TRAINED, ignored=others)
