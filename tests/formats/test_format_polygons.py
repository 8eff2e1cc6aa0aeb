"""Outlines: filled again by the libraries that read them, they are the mask."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from clearclip.formats.polygons import exact_polygons, filled_polygon, outlines
from clearclip.formats.regions import connected
from format_cases import LABEL_MAPS, blobs, ring

cv2 = pytest.importorskip("cv2")
pytest.importorskip("rasterio")
shapely = pytest.importorskip("shapely")

MASKS = {f"{name}-{value}": label_map == value for name, label_map in LABEL_MAPS.items() for value in range(2)}
masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)).filter(np.any)


def inside(outline, shape):
    """Which pixel centres lie within."""
    y, x = np.indices(shape) + 0.5
    return shapely.contains_xy(outline, x, y)


def filled(polygon, shape):
    canvas = np.zeros(shape, dtype=np.uint8)
    cv2.fillPoly(canvas, [polygon.astype(np.int32)], 1)
    return canvas.astype(bool)


def check_exact(mask):
    outline = exact_polygons(mask)
    assert outline.geom_type == "MultiPolygon"
    assert outline.is_valid
    assert outline.area == mask.sum()
    assert np.array_equal(inside(outline, mask.shape), mask)
    for part in outline.geoms:
        assert part.exterior.is_ccw
        assert not any(hole.is_ccw for hole in part.interiors)


def parts_of(mask):
    """The 4-connected regions of a mask by a plain walk over its pixels, each a mask."""
    todo, parts = {*map(tuple, np.argwhere(mask).tolist())}, []
    while todo:
        part, edge = np.zeros_like(mask), [todo.pop()]
        while edge:
            y, x = edge.pop()
            part[y, x] = True
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & todo
            todo -= near
            edge += near
        parts.append(part)
    return parts


def edges_of(part):
    """The unit edges of a mask, its pixels to the left of each as numbers (to the right on the screen)."""
    y, x = np.nonzero(part)
    corners = [(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)]
    edges = {
        edge
        for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True)
        for edge in zip(x0.tolist(), y0.tolist(), x1.tolist(), y1.tolist(), strict=True)
    }
    return {(x0, y0, x1, y1) for x0, y0, x1, y1 in edges if (x1, y1, x0, y0) not in edges}


def unit_edges(ring):
    """The steps of a ring; every corner is one."""
    steps = np.roll(ring, -1, axis=0) - np.array(ring)
    assert (np.count_nonzero(steps, axis=1) == 1).all(), "a step is diagonal or empty"
    assert ((steps[:, 0] == 0) != (np.roll(steps, 1, axis=0)[:, 0] == 0)).all(), "a point lies straight on the way"
    for (x, y), (dx, dy) in zip(ring, steps.tolist(), strict=True):
        length = abs(dx + dy)
        dx, dy = dx // length, dy // length
        for at in range(length):
            yield x + at * dx, y + at * dy, x + (at + 1) * dx, y + (at + 1) * dy


def even_odd(rings, shape):
    """Which pixel centres a ray from the left reaches across an odd number of edges."""
    crossings = np.zeros((shape[0], shape[1] + 1), dtype=int)
    for x0, y0, x1, y1 in (edge for each in rings for edge in unit_edges(each)):
        if x0 == x1:
            crossings[min(y0, y1), x0] += 1
    return (crossings.cumsum(axis=1) % 2 == 1)[:, :-1]


def check_outlines(mask):
    """Against plain walks: a polygon for each region, no edge twice, rings that do not cross, holes within."""
    found = outlines(mask)
    parts = {part.tobytes(): part for part in parts_of(mask)}
    assert len(found) == len(parts)
    for rings in found:
        part = parts.pop(even_odd(rings, mask.shape).tobytes())
        edges = [edge for ring in rings for edge in unit_edges(ring)]
        assert len(edges) == len(set(edges))
        assert set(edges) == edges_of(part), "an edge is missing, or runs the wrong way"
        outer, *holes = (even_odd([ring], mask.shape) for ring in rings)
        assert len(parts_of(outer)) == 1
        assert (outer | part == outer).all()
        assert np.sum(holes, axis=0, dtype=int).max(initial=0) <= 1, "holes overlap"
        assert all((hole & outer & ~part == hole).all() for hole in holes)
        for each in rings:
            starts = [edge[:2] for edge in unit_edges(each)]
            assert len(starts) == len(set(starts)), "a ring touches itself"


def check_filled(mask):
    for part, _ in connected(mask):
        polygon = filled_polygon(part)
        assert len(polygon) >= 3
        assert np.array_equal(filled(polygon, part.shape), part)


@pytest.mark.parametrize("name", [name for name, mask in MASKS.items() if mask.any()])
def test_hard_masks(name):
    check_exact(MASKS[name])
    check_outlines(MASKS[name])
    check_filled(MASKS[name])


@given(masks)
def test_any_mask_along_the_edges(mask):
    check_exact(mask)
    check_outlines(mask)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (9, 6), (17, 23), (40, 31)])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_random_masks_against_plain_walks(size, share):
    for seed in range(10):
        mask = np.random.default_rng(seed).random(size) < share
        check_outlines(mask)
        if mask.any():
            check_exact(mask)


def test_outlines_of_nothing():
    assert outlines(np.zeros((3, 4), dtype=bool)) == []


def test_corners_from_one_edge_to_the_other_and_a_hole():
    mask = np.zeros((10, 10), dtype=bool)
    mask[1:9, 2:8] = True
    mask[3:5, 3:5] = False
    ((outer, hole),) = outlines(mask)
    assert outer in turns_of([(2, 1), (8, 1), (8, 9), (2, 9)])
    assert hole in turns_of([(3, 5), (5, 5), (5, 3), (3, 3)])


def turns_of(ring):
    return [ring[at:] + ring[:at] for at in range(len(ring))]


@given(masks)
def test_any_connected_mask_filled_by_opencv(mask):
    check_filled(mask)


def test_large_masks_with_many_holes():
    mask = np.random.default_rng(5).random((150, 170)) < 0.75
    check_exact(mask)
    check_filled(mask)


def test_holes_and_offset():
    outline = exact_polygons(ring(15) == 1, offset=(100, 1000))
    assert [len(part.interiors) for part in outline.geoms] == [1, 1]
    assert outline.bounds == (100, 1000, 115, 1015)


def test_corners_only():
    (part,) = exact_polygons(np.ones((4, 9), dtype=bool)).geoms
    assert len(part.exterior.coords) == 5
    assert len(filled_polygon(np.ones((4, 9), dtype=bool))) == 4


@pytest.mark.parametrize("simplify", [0.8, 2.0, 5.0])
@pytest.mark.parametrize("value", range(4))
def test_simplified_outlines_stay_near(simplify, value):
    mask = blobs() == value
    exact, simple = exact_polygons(mask), exact_polygons(mask, simplify=simplify)
    assert simple.is_valid
    assert shapely.get_num_coordinates(simple) < 0.7 * shapely.get_num_coordinates(exact)
    assert exact.boundary.hausdorff_distance(simple.boundary) <= 1.25 * simplify  # GEOS may move a ring's first point
    for part, _ in connected(mask):
        ring_, short = filled_polygon(part), filled_polygon(part, simplify=simplify)
        assert len(short) <= len(ring_)
        assert shapely.hausdorff_distance(shapely.linearrings(ring_), shapely.linearrings(short)) <= 1.25 * simplify


@given(masks, st.floats(0.1, 3))
def test_any_simplified_outline_is_valid(mask, simplify):
    simple = exact_polygons(mask, simplify=simplify)
    assert simple.is_valid
    assert not simple.is_empty


def test_a_mask_of_two_parts_is_refused():
    with pytest.raises(ValueError, match="2 parts"):
        filled_polygon(np.array([[1, 0, 1]], dtype=bool))
