"""Windows: every pixel is covered, constants stay constant, the matrices are what torch computes."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from clearclip.encode.windows import LONGEST, bilinear_matrix, plan_windows, window_starts

lengths = st.integers(1, 200)


@st.composite
def plans(draw, longest=90):
    crop = draw(st.integers(1, 80))
    size = (draw(st.integers(1, longest)), draw(st.integers(1, longest)))
    numbers = {
        "crop_size": crop,
        "stride": draw(st.integers(1, crop)),
        "patch_size": draw(st.integers(1, 20)),
        "fit": draw(st.sampled_from(["pad", "drop", "resize"])),
    }
    return size, numbers


@given(length=lengths, crop=lengths, data=st.data())
def test_starts_cover_every_pixel(length, crop, data):
    stride = data.draw(st.integers(1, crop))
    starts = window_starts(length, crop, stride)
    window = min(crop, length)
    covered = {pixel for start in starts for pixel in range(start, start + window)}
    assert covered == set(range(length))
    assert list(starts) == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] + window == length
    assert all(start == index * stride for index, start in enumerate(starts[:-1]))
    # As many as the protocol's formula gives.
    assert len(starts) == max(length - crop + stride - 1, 0) // stride + 1


@given(plans())
def test_windows_are_cut_where_the_plan_says(drawn):
    size, numbers = drawn
    plan = plan_windows(size, **numbers)
    assume(plan.count <= 100)
    image = torch.arange(3 * size[0] * size[1], dtype=torch.float32).view(3, *size) + 1
    windows = plan.cut(image)
    patch = numbers["patch_size"]
    gh, gw = plan.grid_size
    assert windows.shape == (plan.count, 3, gh * patch, gw * patch)
    if numbers["fit"] == "resize":
        side = -(-numbers["crop_size"] // patch) * patch
        assert windows.shape[2:] == (side, side)
        return
    places = [(y, x) for y in plan.y.starts for x in plan.x.starts]
    for window, (y, x) in zip(windows, places, strict=True):
        top, left = plan.y.padding, plan.x.padding
        inner = window[:, top : top + plan.y.window, left : left + plan.x.window]
        assert torch.equal(inner, image[:, y : y + inner.shape[1], x : x + inner.shape[2]])
        assert window.count_nonzero() == inner.count_nonzero()  # the rest is zero
        for axis, seen in ((plan.y, inner.shape[1]), (plan.x, inner.shape[2])):
            if axis.fit == "pad":
                assert seen == axis.window
                assert 0 <= (axis.encoded - seen - axis.padding) - axis.padding <= 1  # the smaller half comes first
            else:
                assert 0 <= axis.window - seen < patch


@given(plans(), st.integers(1, 120), st.integers(1, 120), st.floats(-5, 5, width=32))
def test_constant_windows_give_the_constant(drawn, out_height, out_width, value):
    size, numbers = drawn
    plan = plan_windows(size, **numbers)
    rows, columns = plan.y.matrix(out_height), plan.x.matrix(out_width)
    assert (rows >= 0).all()
    assert (columns >= 0).all()
    stitched = rows @ torch.full((rows.shape[1], columns.shape[1]), value) @ columns.T
    torch.testing.assert_close(stitched, torch.full((out_height, out_width), value), rtol=1e-5, atol=1e-5)


@given(length=st.integers(1, 60), out_length=st.integers(1, 150))
def test_bilinear_matrix_is_what_torch_computes(length, out_length):
    signal = torch.randn(1, 1, length, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(signal, size=out_length, mode="linear", align_corners=False)[0, 0]
    torch.testing.assert_close(bilinear_matrix(length, out_length) @ signal[0, 0], expected)


@pytest.mark.parametrize(
    ("length", "crop", "stride", "starts"),
    [
        (448, 448, 224, (0,)),
        (449, 448, 224, (0, 1)),
        (672, 448, 224, (0, 224)),
        (700, 448, 224, (0, 224, 252)),
        (300, 448, 224, (0,)),
        (448, 224, 224, (0, 224)),
    ],
)
def test_starts_of_the_paper(length, crop, stride, starts):
    assert window_starts(length, crop, stride) == starts


def test_blip_windows_are_resized_to_squares():
    image = torch.randn(3, 50, 70)
    plan = plan_windows((50, 70), crop_size=64, stride=32, patch_size=16, fit="resize")
    windows = plan.cut(image)
    assert plan.grid_size == (4, 4)
    for window, x in zip(windows, plan.x.starts, strict=True):
        part = image[None, :, :, x : x + 64]
        expected = F.interpolate(part, size=(64, 64), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(window, expected)


@given(plans(), st.integers(1, 120))
def test_between_knots_the_matrix_is_linear(drawn, out_length):
    size, numbers = drawn
    way = plan_windows(size, **numbers).y.upsampling(out_length)
    knots = way.knots.tolist()
    assert (knots[0], knots[-1]) == (0, out_length - 1)
    for first, last in pairwise(knots):
        assert last - first <= LONGEST
        weights = torch.linspace(0, 1, last - first + 1)[:, None]
        expected = torch.lerp(way.matrix[first], way.matrix[last], weights)
        torch.testing.assert_close(way.matrix[first : last + 1], expected, rtol=0, atol=1e-6)


def test_some_windows_are_cut_as_all_are():
    image = torch.randn(3, 50, 70)
    plan = plan_windows((50, 70), crop_size=32, stride=16, patch_size=16)
    assert plan.count > 4
    assert torch.equal(plan.cut(image, start=1, stop=4), plan.cut(image)[1:4])


def test_the_whole_image_can_be_one_window():
    plan = plan_windows((50, 70), crop_size=0, stride=16, patch_size=16, fit="drop")
    assert (plan.count, plan.grid_size) == (1, (3, 4))
    image = torch.randn(3, 50, 70)
    assert torch.equal(plan.cut(image)[0], image[:, :48, :64])
    cells = torch.randn(1, 1, 3, 4)
    expected = F.interpolate(cells, size=(50, 70), mode="bilinear", align_corners=False)
    torch.testing.assert_close(plan.y.matrix(50) @ cells[0, 0] @ plan.x.matrix(70).T, expected[0, 0])
