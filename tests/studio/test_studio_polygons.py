"""Polygons against plain filling."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clearclip.studio.polygons import polygons


def winding(rings, shape):
    """How often rings go around each pixel's centre, clockwise counted as +1."""
    turns = np.zeros(shape, dtype=int)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
            if x0 == x1:
                turns[min(y0, y1) : max(y0, y1), :x0] += 1 if y1 > y0 else -1
    return turns


@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_polygons_fill_exactly_the_mask(mask):
    filled = np.zeros(mask.shape, dtype=int)
    for polygon in polygons(mask):
        own = winding(polygon, mask.shape)
        assert set(np.unique(own)) <= {0, 1}, "a hole lies outside its polygon"
        filled += own
    assert (filled == mask).all(), "polygons overlap, or leave something out"


@given(hnp.arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 8))))
def test_outer_rings_are_the_regions(mask):
    regions = np.zeros(mask.shape, dtype=int)
    count = 0
    for y, x in np.argwhere(mask).tolist():
        if regions[y, x]:
            continue
        count += 1
        todo = [(y, x)]
        while todo:
            row, column = todo.pop()
            inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
            if inside and mask[row, column] and not regions[row, column]:
                regions[row, column] = count
                todo += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    assert len(polygons(mask)) == count


def test_corners_only_and_a_hole():
    mask = np.zeros((10, 10), dtype=bool)
    mask[1:9, 2:8] = True
    mask[3:5, 3:5] = False
    assert polygons(mask) == [[[[2, 1], [8, 1], [8, 9], [2, 9]], [[3, 5], [5, 5], [5, 3], [3, 3]]]]
