"""FreeCP's filter: its boxes beside OpenCV's, its by-products beside plain ones, and windows that are hard on it."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clearclip
from clearclip.attention import Site
from clearclip.classify import freecp
from clearclip.classify.grid import LogitGrid
from clearclip.decompose import Trunk, class_features, read, run_trunk
from clearclip.encode.windows import plan_windows
from clearclip.errors import UsageError
from made_vit import MadeVit

BASES = ("clearclip", "sclip[residual=drop]", "maskclip[residual=drop]", "vanilla[residual=drop]", "gem")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def never(places):
    raise AssertionError("no crop is needed here")


def test_boxes_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(5)
    for size in [(1, 1), (1, 7), (6, 1), (5, 6), (13, 9), (24, 24)] * 8:
        values = random.random(size, dtype=np.float32) ** random.integers(1, 6)
        if random.random() < 0.5:
            values = cv2.GaussianBlur(values, (3, 3), 0)
        grey = np.floor(255 * values).astype(np.uint8)
        _, on = cv2.threshold(grey, int(0.4 * grey.max()), 255, cv2.THRESH_BINARY)
        contours, _ = cv2.findContours(on, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        expected = []
        for x, y, width, height in map(cv2.boundingRect, contours):
            expected.append([x, y, min(x + width, size[1] - 1), min(y + height, size[0] - 1)])
        found = freecp.boxes(torch.from_numpy(values)[None])[:, 1:].tolist()
        assert sorted(found) == sorted(expected or [[0, 0, 0, 0]])


def test_boxes_of_many_maps_are_those_of_each():
    maps = noise(9, 7, 11).clamp_(0, 1)
    maps[4] = 0
    together = freecp.boxes(maps)
    for index, one in enumerate(maps):
        alone = freecp.boxes(one[None])[:, 1:].tolist()
        assert sorted(together[together[:, 0] == index, 1:].tolist()) == sorted(alone)


def test_a_hole_is_a_box():
    ring = torch.zeros(1, 7, 8)
    ring[0, 1:6, 1:6] = 1
    ring[0, 3, 3] = 0
    assert sorted(freecp.boxes(ring)[:, 1:].tolist()) == [[1, 1, 6, 6], [2, 2, 5, 5]]
    ring[0, 2, 4] = 0  # touches the hole at a corner only, which does not connect cells that are off
    assert len(freecp.boxes(ring)) == 3


@pytest.mark.parametrize("prefix", [0, 1, 5])
@torch.no_grad()
def test_early_attention_is_the_mean_of_the_blocks(prefix):
    backbone = MadeVit(prefix, min(prefix, 1)).view()
    images, rows = noise(2, 3, 24, 40), [clearclip.parse_method("clearclip"), clearclip.parse_method("gem[depth=2]")]
    inputs = run_trunk(backbone, images, positions="offset", wanted=range(3))
    weights = []
    for index in range(2):
        site = Site(backbone.blocks[index], inputs[index], backbone.heads, prefix, (3, 5))
        weights.append((site.q @ site.k.mT * site.head_dim**-0.5).softmax(dim=-1)[..., prefix:, prefix:])
    expected = torch.stack(weights)
    found = read(backbone, images, rows[:1], grid_size=(3, 5), early=True)[rows[0]]
    torch.testing.assert_close(found.early, expected.mean(dim=(0, 2)))
    gem = read(
        backbone, images, [clearclip.parse_method("gem[depth=2,positions=offset]")], grid_size=(3, 5), early=True
    )
    torch.testing.assert_close(next(iter(gem.values())).early, expected[:, :, 0].mean(dim=0))  # its first head alone


@torch.no_grad()
def test_early_attention_is_made_on_request_and_kept():
    backbone, trunk = MadeVit(1, 1).view(), Trunk()
    row, images = clearclip.parse_method("clearclip"), noise(1, 3, 32, 32)
    plain = read(backbone, images, [row], grid_size=(4, 4), trunk=trunk)[row]
    assert plain.early is None
    for _ in range(2):
        found = read(backbone, images, [row], grid_size=(4, 4), trunk=trunk, early=True)[row]
        assert trunk.passes == 2
    assert found.early.shape == (1, 16, 16)
    assert torch.equal(found.features, plain.features)


@torch.no_grad()
def test_class_features_are_the_library_s(clip_model, backbone, blip_model):
    images = noise(2, 3, 32, 32)
    torch.testing.assert_close(class_features(backbone, images, positions="model"), clip_model.encode_image(images))
    blip = clearclip.view(blip_model)
    side = blip.native_size
    images = noise(2, 3, side, side)
    states = blip_model.vision_model(images).last_hidden_state
    torch.testing.assert_close(class_features(blip, images, positions="model"), blip_model.vision_proj(states[:, 0]))


def test_a_model_without_a_class_token_is_refused():
    with pytest.raises(UsageError, match="made has no class token to read whole images with: use a CLIP or"):
        freecp.crop_features(MadeVit(0, 0).view(), noise(3, 32, 32), [(0, 0, 2, 2)], positions="model")


@torch.no_grad()
def test_crops_are_stretched(backbone):
    window, places = noise(3, 32, 48), [(1, 0, 4, 2), (0, 3, 5, 4)]
    found = freecp.crop_features(backbone, window, places, positions="model")
    for features, cut in zip(found, (window[:, :16, 8:32], window[:, 24:, :40]), strict=True):
        image = F.interpolate(cut[None], size=(112, 112), mode="bilinear", align_corners=False)
        expected = F.normalize(class_features(backbone, image, positions="model"), dim=-1)[0]
        torch.testing.assert_close(features, expected)


def window_of(backbone, method, *, queries, size=(40, 24), scale=20.0):
    """`filter_window`'s arguments for a window of noise and words of noise."""
    row, window = clearclip.parse_method(method), noise(3, *size)
    grid_size = (size[0] // backbone.patch_size, size[1] // backbone.patch_size)
    pixels = window[None].to(backbone.dtype)
    with torch.no_grad():
        parts = read(backbone, pixels, [row], grid_size=grid_size, early=True)[row]
    text = F.normalize(noise(queries, backbone.embed_dim, seed=1), dim=-1)
    cosines = F.normalize(parts.features[0].float(), dim=-1) @ text.T
    look = partial(freecp.crop_features, backbone, window, positions=row.positions)
    return (scale * cosines).softmax(dim=-1).movedim(-1, 0), parts.early[0], {"look": look, "text": text}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("base", BASES)
def test_every_base_and_number_format(base, dtype):
    import tiny_models

    backbone = clearclip.view(tiny_models.open_clip_model()).to(torch.device("cpu"), dtype)
    for size in [(40, 24), (8, 64), (32, 8), (8, 8)]:
        probabilities, early, rest = window_of(backbone, base, queries=7, size=size)
        found = freecp.filter_window(
            probabilities, early, owners=[0, 0, 1, 2, 3, 4, 5], background=0, settings=freecp.FreeCP(0.05, 0.3), **rest
        )
        assert found.maps.shape == (6, size[0] // 8, size[1] // 8)
        assert found.maps.isfinite().all()
        assert 0 <= found.maps.min() <= found.maps.max() <= 1
        assert not found.maps[~found.kept].any()
        assert not (found.kept & found.redundant).any()


def test_one_label_alone_competes(backbone):
    probabilities, early, rest = window_of(backbone, "clearclip", queries=1)
    assert (probabilities == 1).all()
    found = freecp.filter_window(
        probabilities, early, owners=[0], background=None, settings=freecp.FreeCP(), **rest | {"look": never}
    )
    assert found.kept.all()
    assert found.maps.isfinite().all()


def test_no_label_at_all_is_left(backbone):
    """No cell is on for the labels beside the background: nothing competes, and all of it is background."""
    probabilities, early, rest = window_of(backbone, "clearclip", queries=4)
    probabilities = torch.full_like(probabilities, 1e-4)
    probabilities[0, 1] = 1
    found = freecp.filter_window(
        probabilities, early, owners=[0, 1, 2, 3], background=0, settings=freecp.FreeCP(), **rest | {"look": never}
    )
    assert not found.maps.any()
    assert not found.kept.any()
    assert found.redundant.tolist() == [False, True, True, True]
    labels, values = freecp.label(grid_of(found.maps, size=(50, 30)), background=0)
    assert (labels == 0).all()
    assert (values == 1).all()


def test_of_several_queries_the_best_counts(backbone):
    probabilities, early, rest = window_of(backbone, "clearclip", queries=6)
    once = freecp.filter_window(
        probabilities, early, owners=[2, 0, 1, 3, 4, 5], background=2, settings=freecp.FreeCP(0.05, 0.3), **rest
    )
    twice = freecp.filter_window(
        torch.cat([probabilities, probabilities[[2]] / 2]),
        early,
        owners=[2, 0, 1, 3, 4, 5, 1],
        background=2,
        settings=freecp.FreeCP(0.05, 0.3),
        **rest | {"text": torch.cat([rest["text"], rest["text"][[2]]])},
    )
    assert torch.equal(once.maps, twice.maps)
    assert 0 < once.kept.sum() < 5


@pytest.mark.parametrize("most", [64, 0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_equal_labels_are_told_apart_by_crops(monkeypatch, most, mirrored):
    """The crop's nearest survives; both do where a box is empty, or where boxes are too many to look at."""
    monkeypatch.setattr(freecp, "MOST_CROPS", most)
    attention = torch.eye(25)
    if mirrored:  # what is in the second column appears in the last one too, where boxes are empty
        cells = torch.arange(25).view(5, 5)
        attention = (attention + attention[cells[:, [0, 4, 2, 3, 1]].flatten()]) / 2
    probabilities = torch.zeros(3, 5, 5)
    probabilities[0] = 1
    probabilities[0, 1:3, 1] = 0
    probabilities[1:, 1:3, 1] = 0.5
    text, asked = F.normalize(noise(3, 8), dim=-1), []

    def look(places):
        asked.extend(places)
        return text[[2]].expand(len(places), -1)

    found = freecp.filter_window(
        probabilities, attention, owners=[0, 1, 2], background=0, settings=freecp.FreeCP(), look=look, text=text
    )
    assert not found.redundant.any()
    assert (found.unseen > 0) == (most == 0)
    if most and not mirrored:
        assert asked == [(1, 1, 2, 3)]
        assert found.kept.tolist() == [False, False, True]
    else:
        assert not asked
        assert found.kept.tolist() == [False, True, True]


def test_groups_are_joined_by_others():
    maps = torch.zeros(4, 1, 12)
    for index, (start, stop) in enumerate([(0, 6), (8, 12), (2, 8), (4, 10)]):
        maps[index, 0, start:stop] = 1
    groups = freecp.ambiguous(maps, 0.5)
    assert [group.tolist() for group in groups] == [[0, 2, 3], [1]]
    assert freecp.ambiguous(maps[:0], 0.5) == []


def grid_of(maps, *, size):
    plan = plan_windows((maps.shape[1] * 8, maps.shape[2] * 8), crop_size=0, stride=8, patch_size=8)
    grid = LogitGrid.empty(len(maps), plan=plan, size=size, device=torch.device("cpu"))
    next(grid.windows()).copy_(maps.movedim(0, -1))
    return grid


@pytest.mark.parametrize("background", [None, 0, 3])
def test_labels_are_those_at_full_size(background):
    maps = noise(40, 9, 13).clamp_(min=0) / 4
    maps[:, :4, :5] = 0  # nothing at all is here
    if background is not None:
        maps[background] = 0
    grid = grid_of(maps, size=(150, 170))
    labels, values = freecp.label(grid, background=background)
    full = grid.logits()
    if background is not None:
        full[background] = 1 - full.amax(dim=0)
    expected, winners = full.max(dim=0)
    if background is not None:
        winners[full[background] == expected] = background
    torch.testing.assert_close(values, expected)
    assert (labels == winners).float().mean() > 0.9999
    assert (labels[:40, :40] == (background or 0)).all()


@pytest.mark.parametrize("values", [{"redundancy": 1.5}, {"ambiguity": -0.1}, {"redundancy": float("nan")}])
def test_thresholds_are_shares(values):
    ((name, value),) = values.items()
    with pytest.raises(UsageError, match=f"{name}={value}: a threshold from 0 to 1 is needed"):
        freecp.FreeCP(**values)
