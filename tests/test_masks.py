"""Grids of cosines → label maps: equal to the protocol written out plainly, whatever the sizes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clearclip.classify import winners
from clearclip.classify.grid import LogitGrid
from clearclip.encode.windows import plan_windows


def plain_logits(features, text, plan, size):
    """Protocol, inference step 6, window by window: interpolate, crop the padding, add, divide, interpolate."""
    height, width = plan.y.length, plan.x.length
    total = torch.zeros(len(text), height, width)
    count = torch.zeros(1, height, width)
    places = [(y, x) for y in plan.y.starts for x in plan.x.starts]
    for window, (y, x) in zip(features, places, strict=True):
        cosines = torch.einsum("qe,hwe->qhw", text, window)
        size_of = [axis.encoded if axis.fit == "pad" else axis.window for axis in (plan.y, plan.x)]
        encoded = F.interpolate(cosines[None], size=size_of, mode="bilinear")[0]
        top, left = plan.y.padding, plan.x.padding
        inner = encoded[:, top : top + plan.y.window, left : left + plan.x.window]
        total[:, y : y + plan.y.window, x : x + plan.x.window] += inner
        count[:, y : y + plan.y.window, x : x + plan.x.window] += 1
    return F.interpolate((total / count)[None], size=size, mode="bilinear", align_corners=False)[0]


def make(size, out, *, queries=5, crop=48, stride=24, patch=16, fit="pad", seed=0):
    plan = plan_windows(size, crop_size=crop, stride=stride, patch_size=patch, fit=fit)
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(plan.count, *plan.grid_size, 12, generator=generator), dim=-1)
    text = F.normalize(torch.randn(queries, 12, generator=generator), dim=-1)
    return LogitGrid.from_features(features, text, plan=plan, size=out), plain_logits(features, text, plan, out)


def check(grid, plain):
    """Logits, winners, scores and probabilities against the plain tensor."""
    torch.testing.assert_close(grid.logits(), plain, rtol=1e-4, atol=1e-5)
    probabilities = (plain * 50).softmax(dim=0)
    index, scores = grid.best(logit_scale=50)
    torch.testing.assert_close(scores, probabilities.amax(dim=0), rtol=1e-3, atol=1e-4)
    # Where two queries are as good as equal either may win; nowhere may a worse one.
    best = plain.gather(0, index[None])[0]
    assert (plain.amax(dim=0) - best).max() < 1e-5
    alone, nothing = grid.best(logit_scale=50, scores=False)
    assert nothing is None
    assert torch.equal(alone, index)
    chosen = [0, len(plain) - 1]
    expected = probabilities[chosen].amax(dim=0)
    torch.testing.assert_close(grid.probability(chosen, logit_scale=50), expected, rtol=1e-3, atol=1e-4)
    y, x = plain.shape[1] - 1, plain.shape[2] // 2
    torch.testing.assert_close(grid.ranking(y, x, logit_scale=50), probabilities[:, y, x], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fit", ["pad", "drop", "resize"])
@pytest.mark.parametrize("queries", [1, 2, 17, 128, 379])
def test_many_queries(queries, fit):
    check(*make((60, 75), (41, 53), queries=queries, fit=fit))


@pytest.mark.parametrize(
    ("size", "out"),
    [
        ((1, 1), (1, 1)),
        ((1, 90), (1, 300)),
        ((64, 64), (128, 128)),
        ((64, 64), (128 + 1, 2 * 128 - 1)),
        ((33, 97), (7, 391)),
        ((200, 20), (150, 15)),
    ],
)
@pytest.mark.parametrize("fit", ["pad", "drop", "resize"])
def test_sizes_that_fit_neither_tile_nor_patch(size, out, fit):
    check(*make(size, out, fit=fit))


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    out=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    crop=st.integers(5, 64),
    patch=st.integers(1, 20),
    fit=st.sampled_from(["pad", "drop", "resize"]),
    queries=st.integers(1, 9),
    data=st.data(),
)
def test_equal_to_the_plain_protocol(size, out, crop, patch, fit, queries, data):
    stride = data.draw(st.integers(max(1, crop // 3), crop))
    small_blocks = data.draw(st.booleans())
    with pytest.MonkeyPatch.context() as patched:
        if small_blocks:
            patched.setattr(winners, "PIXELS", 40)
            patched.setattr(winners, "intervals_of_a_block", lambda queries: 2)
        check(*make(size, out, queries=queries, crop=crop, stride=stride, patch=max(patch, crop // 12), fit=fit))


def test_blocks_are_disjoint_and_cover_the_output():
    grid, _ = make((60, 75), (128 + 40, 2 * 128 + 3), queries=300)
    hits = torch.zeros(grid.size)
    for block in grid.blocks():
        for place, _ in block.cosines(torch.tensor([0])):
            hits[place] += 1
    assert (hits == 1).all()


def test_no_queries_have_no_probability():
    grid, _ = make((30, 30), (30, 30))
    assert not grid.probability([], logit_scale=50).any()


def test_large_logit_scales_stay_finite():
    grid, plain = make((40, 40), (40, 40))
    index, scores = grid.best(logit_scale=5000)
    assert scores.isfinite().all()
    assert (scores > 0.2 - 1e-6).all()
    assert (scores <= 1 + 1e-5).all()
    assert (plain.argmax(dim=0) == index).float().mean() > 0.99
