"""Masks → polygons, two kinds, each exact where its readers fill it.

`outlines` run along the pixels' edges, holes kept: whoever asks which pixel centres lie inside gets the mask back.
Readers of YOLO's text fill with OpenCV, which counts a contour through the border's pixels as inside: `filled_polygon`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from clearclip.files.optional import require


def outlines(mask: npt.NDArray[np.bool_]) -> list[list[list[tuple[int, int]]]]:
    """The polygons of a mask `(H, W)` along its pixels' edges, one for each 4-connected part: outer ring, then holes.

    A ring is its corners `(x, y)`, the first not repeated; counter-clockwise as numbers (clockwise on the screen, as y
    points down), holes the other way. Traced by GDAL (`rasterio.features.shapes`).
    """
    features = require("rasterio.features", extra="formats", purpose="tracing polygons")
    traced = features.shapes(mask.astype(np.uint8), mask=mask, connectivity=4)
    return [[_turned(ring, hole=place > 0) for place, ring in enumerate(shape["coordinates"])] for shape, _ in traced]


def _turned(ring: Iterable[tuple[float, float]], *, hole: bool) -> list[tuple[int, int]]:
    corners = [(int(x), int(y)) for x, y in ring]
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(corners))
    return corners[:-1] if (area < 0) == hole else corners[:0:-1]


def exact_polygons(mask: npt.NDArray[np.bool_], *, offset: tuple[int, int] = (0, 0), simplify: float = 0.0) -> Any:
    """The `outlines` of a mask with at least one pixel as a valid shapely `MultiPolygon`.

    `offset` is the place `(x, y)` of the mask's first pixel; `simplify` about how far, in pixels, the outline may move
    to need fewer points (GEOS's Douglas-Peucker).
    """
    shapely = require("shapely", extra="formats", purpose="tracing polygons")
    outline = shapely.MultiPolygon([(rings[0], rings[1:]) for rings in outlines(mask)])
    if simplify > 0:
        outline = shapely.simplify(outline, simplify, preserve_topology=True)
    return shapely.transform(outline, lambda points: points + offset)


def filled_polygon(mask: npt.NDArray[np.bool_], *, simplify: float = 0.0) -> npt.NDArray[np.int64]:
    """The outline of a connected mask as one ring through its border's pixels, for readers that fill with OpenCV.

    Of an 8-connected mask `(H, W)` come `(n, 2)` pixels `(x, y)`, at least 3: a shorter ring repeats its points. A hole
    hangs on the ring by a cut of no width, there and back over the mask's own pixels to its left: filled by the
    even-odd rule, as `cv2.fillPoly` does, the ring gives exactly the mask. `simplify` is how far, in pixels, it may
    move to need fewer points.
    """
    cv2 = require("cv2", extra="formats", purpose="tracing polygons")
    contours, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer = [index for index in range(len(contours)) if hierarchy[0][index][3] < 0]
    if len(outer) != 1:
        raise ValueError(f"the mask has {len(outer)} parts: one is needed")
    ring = contours[outer[0]][:, 0].astype(np.int64)
    holes = [contour[:, 0].astype(np.int64) for index, contour in enumerate(contours) if index != outer[0]]
    for hole in sorted(holes, key=lambda hole: int(hole[:, 0].min())):
        start = int(np.lexsort((hole[:, 1], hole[:, 0]))[0])
        x, y = hole[start].tolist()
        gaps = np.flatnonzero(~mask[y, :x])
        at = np.flatnonzero((ring == (int(gaps[-1]) + 1 if len(gaps) else 0, y)).all(axis=1))[0]
        around = np.concatenate([np.roll(hole, -start, axis=0), hole[start : start + 1]])
        ring = np.concatenate([ring[: at + 1], around, ring[at:]])
    if simplify > 0:
        ring = cv2.approxPolyDP(ring.astype(np.int32)[:, None], simplify, True)[:, 0].astype(np.int64)
    else:
        ring = _corners(ring)
    return ring if len(ring) >= 3 else np.resize(ring, (3, 2))


def _corners(ring: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A closed ring without the points that lie straight on the way."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = (np.sign(before) != np.sign(after)).any(axis=1)
    steps = (np.abs(before).max(axis=1) > 1) | (np.abs(after).max(axis=1) > 1)
    return ring[turns | steps] if (turns | steps).any() else ring[:1]
