"""Outlines: filled again by the libraries that read them, they are the mask."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from clearclip.formats.polygons import exact_polygons, filled_polygon
from clearclip.formats.regions import connected
from format_cases import LABEL_MAPS, blobs, ring

cv2 = pytest.importorskip("cv2")
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


def check_filled(mask):
    for part, _ in connected(mask):
        polygon = filled_polygon(part)
        assert len(polygon) >= 3
        assert np.array_equal(filled(polygon, part.shape), part)


@pytest.mark.parametrize("name", [name for name, mask in MASKS.items() if mask.any()])
def test_hard_masks(name):
    check_exact(MASKS[name])
    check_filled(MASKS[name])


@given(masks)
def test_any_mask_along_the_edges(mask):
    check_exact(mask)


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
