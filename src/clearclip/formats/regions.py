"""Label maps → regions: what is where, how large, how sure; things object by object. NumPy and OpenCV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from clearclip.errors import UsageError
from clearclip.files.optional import require
from clearclip.vocabulary import Vocabulary


class Result(Protocol):
    """What formats read of a segmentation; see `clearclip.Segmentation`."""

    @property
    def label_map(self) -> npt.NDArray[np.int32]: ...
    @property
    def vocabulary(self) -> Vocabulary: ...
    @property
    def info(self) -> Mapping[str, str]: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def palette(self) -> npt.NDArray[np.uint8]: ...
    @property
    def has_scores(self) -> bool: ...
    @property
    def scores(self) -> npt.NDArray[np.float32]: ...
    def probability_maps(self) -> Iterator[npt.NDArray[np.float32]]: ...
    def overlay(self, *, opacity: float = ..., legend: bool = ...) -> Image.Image: ...


@dataclass(frozen=True)
class Choices:
    """What several formats let a user choose; `UsageError` for a negative number."""

    things: tuple[str, ...] = ()
    """Names of countable labels: each connected region is an object of its own. Of others there is one per image."""
    min_area: int = 1
    """Regions of fewer pixels are left out."""
    simplify: float = 0.0
    """About how far, in pixels, a polygon may leave the region to need fewer points; 0 keeps it exact."""

    def __post_init__(self) -> None:
        for name in ("min_area", "simplify"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name}={getattr(self, name)!r}: a number of pixels, at least 0, is needed")


@dataclass(frozen=True, eq=False)
class Region:
    """The pixels of a label in one image (stuff), or one connected region of it (a thing)."""

    label: int
    """Index of the label."""
    box: tuple[int, int, int, int]
    """`(x, y, width, height)` in whole pixels, the smallest that holds the region."""
    mask: npt.NDArray[np.bool_]
    """`(height, width)`, the region within its box."""
    is_thing: bool
    result: Result = field(repr=False)

    @property
    def name(self) -> str:
        """The label's name."""
        return self.result.labels[self.label]

    @cached_property
    def area(self) -> int:
        """Pixels of the region."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def score(self) -> float | None:
        """Mean of the pixels' best probabilities, 0–1; `None` for a label map from elsewhere, which has none."""
        if not self.result.has_scores:
            return None
        x, y, width, height = self.box
        scores = self.result.scores[y : y + height, x : x + width]
        return round(float(scores[self.mask].mean(dtype=np.float64)), 6)

    @property
    def scored(self) -> dict[str, float]:
        """The score as a member of an annotation, if there is one."""
        return {} if self.score is None else {"score": self.score}

    @property
    def full_mask(self) -> npt.NDArray[np.uint8]:
        """The region within its image: `(H, W)` uint8 of 0 and 1."""
        return self._in_image("C")

    @cached_property
    def rle(self) -> str:
        """The region within its image as COCO's compressed run lengths (pycocotools)."""
        coco_masks = require("pycocotools.mask", extra="formats", purpose="run-length encoding")
        counts: bytes = coco_masks.encode(self._in_image("F"))["counts"]
        return counts.decode("ascii")

    def _in_image(self, order: Literal["C", "F"]) -> npt.NDArray[np.uint8]:
        x, y, width, height = self.box
        full = np.zeros(self.result.label_map.shape, dtype=np.uint8, order=order)
        full[y : y + height, x : x + width] = self.mask
        return full


def find_regions(result: Result, choices: Choices) -> list[Region]:
    """The regions of at least `choices.min_area` pixels: labels in order, a thing's objects from top to bottom.

    `UsageError` if a label is a thing and OpenCV is not installed.
    """
    regions: list[Region] = []
    label_map = result.label_map
    for label in np.flatnonzero(np.bincount(label_map.ravel(), minlength=len(result.labels))).tolist():
        whole = label_map == label
        y, x = (np.flatnonzero(whole.any(axis=axis)) for axis in (1, 0))
        top, left, bottom, right = int(y[0]), int(x[0]), int(y[-1]) + 1, int(x[-1]) + 1
        mask = whole[top:bottom, left:right]
        is_thing = result.labels[label] in choices.things
        for part, (row, column) in connected(mask) if is_thing else [(mask, (0, 0))]:
            box = (left + column, top + row, part.shape[1], part.shape[0])
            regions.append(Region(label, box, part, is_thing, result))
    return [region for region in regions if region.area >= choices.min_area]


def connected(mask: npt.NDArray[np.bool_]) -> list[tuple[npt.NDArray[np.bool_], tuple[int, int]]]:
    """The 8-connected parts of a mask `(H, W)`, each cut out, with its place `(row, column)`, from top to bottom."""
    cv2 = require("cv2", extra="formats", purpose="telling things apart")
    count, parts, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    found = []
    for index, (x, y, width, height) in enumerate(boxes[1:count, :4].tolist(), start=1):
        found.append((parts[y : y + height, x : x + width] == index, (y, x)))
    return sorted(found, key=lambda part: part[1])
