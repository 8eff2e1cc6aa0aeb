"""Masks → polygons along the pixels' edges, exact, with holes. NumPy only.

Belongs here: tracing outlines. Does not: files.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ring: TypeAlias = list[list[int]]
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up, as (x, y)
_UP = 3


def polygons(mask: npt.NDArray[np.bool_]) -> list[list[Ring]]:
    """The outlines of a mask, each 4-connected region with its holes.

    Args:
        mask: `(H, W)` bool.

    Returns:
        Polygons as GeoJSON nests them, without its repeated last point: the outer ring (clockwise on the screen), then
        its holes (counter-clockwise); a point is `[x, y]`, a corner of pixels from `[0, 0]` to `[W, H]`.
    """
    rings, owner = _trace(mask)
    starts = np.maximum.accumulate(np.where(owner >= 0, np.arange(mask.shape[1]), 0), axis=1)
    region: dict[int, int] = {}
    found: list[list[Ring]] = []
    for index in sorted(range(len(rings)), key=lambda index: min(y for _, y in rings[index])):
        if _area(rings[index]) > 0:
            region[index] = len(found)
            found.append([rings[index]])
    for index in sorted(set(range(len(rings))) - region.keys(), key=lambda index: min(y for _, y in rings[index])):
        y, x = min((y, x) for x, y in rings[index])
        # The mask's pixel above a hole's top: where its run begins is an edge of the same region, and one that is
        # known already, because it lies higher.
        region[index] = region[int(owner[y - 1, starts[y - 1, x]])]
        found[region[index]].append(rings[index])
    return found


def _trace(mask: npt.NDArray[np.bool_]) -> tuple[list[Ring], npt.NDArray[np.int64]]:
    """Walks along the edges with the mask on the right; for each pixel with an edge at its left, the ring of it."""
    padded = np.pad(mask, 1).astype(np.int8)
    across, down = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    leaving: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for edges, sign, direction, (dx, dy) in (
        (across, 1, 0, (0, 0)),
        (across, -1, 2, (1, 0)),
        (down, -1, 1, (0, 0)),
        (down, 1, _UP, (0, 1)),
    ):
        for y, x in np.argwhere(edges == sign).tolist():
            leaving[x + dx, y + dy].append(direction)
    owner = np.full(mask.shape, -1, dtype=np.int64)
    rings: list[Ring] = []
    while leaving:
        point, ways = next(iter(leaving.items()))
        ring: Ring = []
        direction, before = ways[0], -1
        while direction in leaving.get(point, ()):
            leaving[point].remove(direction)
            if not leaving[point]:
                del leaving[point]
            if direction != before:
                ring.append([*point])
            point = (point[0] + _STEPS[direction][0], point[1] + _STEPS[direction][1])
            if direction == _UP:
                owner[point[1], point[0]] = len(rings)
            before = direction
            ways = leaving.get(point, [])
            right = (direction + 1) % 4  # right first, so that regions that only touch at a corner stay apart
            direction = right if right in ways or len(ways) != 1 else ways[0]
        if _straight(ring[-1], ring[0], ring[1]):
            ring.pop(0)
        rings.append(ring)
    return rings, owner


def _straight(before: list[int], point: list[int], after: list[int]) -> bool:
    return (point[0] - before[0]) * (after[1] - point[1]) == (point[1] - before[1]) * (after[0] - point[0])


def _area(ring: Ring) -> int:
    return sum(x * after[1] - after[0] * y for (x, y), after in zip(ring, [*ring[1:], ring[0]], strict=True))
