"""Label maps → regions: what is where, how large, how sure; things object by object. NumPy and OpenCV.

Belongs here: what all annotation formats start from. Does not: any file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clearclip.formats.base import Choices, require

if TYPE_CHECKING:
    from clearclip.segmentation import Segmentation


@dataclass(frozen=True)
class Region:
    """The pixels of a label in one image (stuff), or one connected region of it (a thing).

    Attributes:
        label: Index of the label.
        box: `(x, y, width, height)` in whole pixels, the smallest that holds the region.
        mask: `(height, width)` bool, the region within its box.
        score: Mean of the pixels' best probabilities, 0–1.
        is_thing: Whether it is one object of several.
    """

    label: int
    box: tuple[int, int, int, int]
    mask: npt.NDArray[np.bool_]
    score: float
    is_thing: bool

    @property
    def area(self) -> int:
        """Pixels of the region."""
        return int(np.count_nonzero(self.mask))

    def full_mask(self, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The region within its image.

        Args:
            size: `(height, width)` of the image.

        Returns:
            `(height, width)` uint8 of 0 and 1, in Fortran order as pycocotools wants it.
        """
        x, y, width, height = self.box
        full = np.zeros(size, dtype=np.uint8, order="F")
        full[y : y + height, x : x + width] = self.mask
        return full


def find_regions(result: Segmentation, choices: Choices) -> list[Region]:
    """The regions of a segmentation: labels in order, a thing's objects from top to bottom.

    Args:
        result: The segmentation; its scores are computed.
        choices: Which labels are things, and how small a region may be.

    Returns:
        Regions of at least `choices.min_area` pixels; together they hold every pixel if that is at most 1.

    Raises:
        UsageError: A label is a thing and OpenCV is not installed.
    """
    regions: list[Region] = []
    label_map, scores = result.label_map, result.scores
    for label in np.flatnonzero(np.bincount(label_map.ravel(), minlength=len(result.labels))).tolist():
        whole = label_map == label
        y, x = (np.flatnonzero(whole.any(axis=axis)) for axis in (1, 0))
        top, left, bottom, right = int(y[0]), int(x[0]), int(y[-1]) + 1, int(x[-1]) + 1
        mask, confidence = whole[top:bottom, left:right], scores[top:bottom, left:right]
        if result.labels[label] in choices.things:
            for part, (row, column) in _connected(mask):
                part_scores = confidence[row : row + part.shape[0], column : column + part.shape[1]]
                box = (left + column, top + row, part.shape[1], part.shape[0])
                regions.append(Region(label, box, part, float(part_scores[part].mean(dtype=np.float64)), True))
        else:
            box = (left, top, right - left, bottom - top)
            regions.append(Region(label, box, mask, float(confidence[mask].mean(dtype=np.float64)), False))
    return [region for region in regions if region.area >= choices.min_area]


def _connected(mask: npt.NDArray[np.bool_]) -> list[tuple[npt.NDArray[np.bool_], tuple[int, int]]]:
    """The 8-connected parts of a mask, each cut out, with its place `(row, column)`."""
    cv2 = require("cv2", extra="formats", purpose="telling things apart")
    count, parts, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    found = []
    for index in range(1, count):
        x, y, width, height = (int(number) for number in boxes[index, :4])
        found.append((parts[y : y + height, x : x + width] == index, (y, x)))
    return sorted(found, key=lambda part: part[1])
