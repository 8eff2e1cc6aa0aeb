"""Masks → polygons, two kinds, each exact where its readers fill it.

`exact_polygons` runs along the pixels' edges, holes kept, by GEOS (shapely): whoever asks which pixel centres lie
inside gets the mask back. OpenCV cannot give it: its contours run through the centres of the border's pixels, so they
lose half a pixel on each side and a region of one pixel has no area. But readers of YOLO's text fill with OpenCV,
which counts the contour as inside, so `filled_polygon` gives OpenCV's own contours.

Belongs here: tracing outlines. Does not: files, coordinates on Earth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clearclip.files.optional import require


def exact_polygons(mask: npt.NDArray[np.bool_], *, offset: tuple[int, int] = (0, 0), simplify: float = 0.0) -> Any:
    """The outline of a mask along its pixels' edges.

    Args:
        mask: `(H, W)` bool with at least one pixel.
        offset: `(x, y)` of its first pixel.
        simplify: About how far, in pixels, the outline may move to need fewer points (GEOS's Douglas-Peucker).

    Returns:
        A valid shapely `MultiPolygon`, one polygon for each 4-connected part, outer rings counter-clockwise as numbers.

    Raises:
        UsageError: shapely is not installed.
    """
    shapely = require("shapely", extra="formats", purpose="tracing polygons")
    lines = shapely.linestrings(_edges(mask))
    faces = shapely.get_parts(shapely.polygonize([shapely.multilinestrings(lines)]))
    faces = shapely.orient_polygons(faces, exterior_cw=False)
    rings = shapely.get_exterior_ring(faces)
    first, second = (shapely.get_coordinates(shapely.get_point(rings, index)) for index in (0, 1))
    along = np.sign(second - first)  # counter-clockwise, so that the inside is to the left
    within = first + 0.5 * along + 0.5 * np.stack([-along[:, 1], along[:, 0]], axis=1)
    column, row = np.floor(within).astype(np.int64).T
    outline = shapely.multipolygons(faces[mask[row, column]])
    if simplify > 0:
        outline = shapely.simplify(outline, simplify, preserve_topology=True)
    return shapely.transform(outline, lambda points: points + np.asarray(offset, dtype=np.float64))


def _edges(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Straight pieces `(n, 2, 2)` between pixels in and out of a mask, ending wherever another direction begins."""
    padded = np.pad(mask, 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]  # (H + 1, W): from (x, y) to (x + 1, y)
    down = padded[1:-1, 1:] != padded[1:-1, :-1]  # (H, W + 1): from (x, y) to (x, y + 1)
    y, left, right = _pieces(across, _ends(down.T).T)
    x, top, bottom = _pieces(down.T, _ends(across).T)
    horizontal = np.stack([left, y, right, y], axis=1)
    vertical = np.stack([x, top, x, bottom], axis=1)
    return np.concatenate([horizontal, vertical]).reshape(-1, 2, 2).astype(np.float64)


def _ends(edges: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Corners that an edge along the second axis touches."""
    corners = np.zeros((edges.shape[0], edges.shape[1] + 1), dtype=bool)
    corners[:, :-1] |= edges
    corners[:, 1:] |= edges
    return corners


def _pieces(
    edges: npt.NDArray[np.bool_], breaks: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Runs of edges along the second axis, cut where there is a break: row, first corner, last corner."""
    inner = breaks[:, 1:-1]
    border = np.ones((len(edges), 1), dtype=bool)
    begins = edges & np.concatenate([border, ~edges[:, :-1] | inner], axis=1)
    ends = edges & np.concatenate([~edges[:, 1:] | inner, border], axis=1)
    row, first = np.nonzero(begins)
    return row, first, np.nonzero(ends)[1] + 1


def filled_polygon(mask: npt.NDArray[np.bool_], *, simplify: float = 0.0) -> npt.NDArray[np.int64]:
    """The outline of a connected mask as one ring through its border's pixels, for readers that fill with OpenCV.

    A hole hangs on the ring by a cut of no width, there and back over the mask's own pixels to its left: filled by
    the even-odd rule, as `cv2.fillPoly` does, the ring gives exactly the mask.

    Args:
        mask: `(H, W)` bool, 8-connected.
        simplify: How far, in pixels, the ring may move to need fewer points.

    Returns:
        `(n, 2)` pixels `(x, y)`, n of at least 3: a shorter ring repeats its points.

    Raises:
        UsageError: OpenCV is not installed.
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
