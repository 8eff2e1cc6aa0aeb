"""FreeCP against its authors' own outputs on tiny models (shared/golden/label_filter)."""

import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

import clearclip
from clearclip.classify import freecp
from clearclip.classify.grid import LogitGrid
from clearclip.decompose import read
from clearclip.encode.windows import plan_windows

BASES = {
    "ClearCLIP": "clearclip",
    "SCLIP": "sclip[residual=drop]",
    "MaskCLIP": "maskclip[residual=drop]",
    "vanilla": "vanilla[residual=drop]",
    "GEM": "gem",
}
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def golden(shared):
    def tensors(name):
        with safe_open(shared / "golden" / "label_filter" / f"{name}.safetensors", "pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()  # noqa: SIM118

    (expected, metadata), (inputs, constants) = tensors("freecp"), tensors("inputs")
    mean, std = (torch.tensor(json.loads(constants[name])).view(3, 1, 1) for name in ("mean", "std"))
    pictures = {key: value for key, value in (inputs | expected).items() if value.dtype == torch.uint8}
    pictures = {
        key: (value.float() - mean) / std
        for key, value in pictures.items()
        if value.ndim in (3, 4) and value.shape[-3] == 3
    }
    return expected, pictures, json.loads(metadata["hyper"])


@pytest.fixture(scope="module")
def backbone(shared):
    return clearclip.load_backbone(f"local-dir:{shared / 'golden' / 'label_filter'}")


class Road:
    """From windows to what the filter makes of them, with the golden file's words: b background words, then classes."""

    def __init__(self, golden, backbone, base, *, background=True):
        self.expected, _, hyper = golden
        self.backbone, self.row = backbone, clearclip.parse_method(BASES[base])
        self.settings, self.scale = freecp.FreeCP(hyper["rp"], hyper["ap"]), hyper["logit_scale"]
        words = hyper["bkg"]
        classes = len(self.expected["query_features"]) - words
        self.owners = [0] * words + [*range(1, 1 + classes)] if background else [*range(classes)]
        self.background = 0 if background else None
        self.first = 0 if background else words

    def text(self, name="llm_query_features"):
        return F.normalize(self.expected[name][self.first :], dim=-1)

    def features(self, windows):
        size = self.backbone.patch_size
        whole = [length // size * size for length in windows.shape[2:]]
        cut = windows[..., : whole[0], : whole[1]]
        grid_size = (whole[0] // size, whole[1] // size)
        parts = read(self.backbone, cut, [self.row], grid_size=grid_size, early=True)[self.row]
        return F.normalize(parts.features, dim=-1), parts.early

    def probabilities(self, features):
        cosines = features @ self.text("query_features").T
        return (self.scale * cosines).softmax(dim=-1).movedim(-1, -3)

    def look(self, window):
        return partial(freecp.crop_features, self.backbone, window, positions=self.row.positions)

    def filter(self, window, probabilities, attention, text):
        return freecp.filter_window(
            probabilities,
            attention,
            owners=self.owners,
            background=self.background,
            settings=self.settings,
            look=self.look(window),
            text=text,
        )


@pytest.fixture
def check():
    worst = {}

    def compare(name, ours, theirs):
        assert ours.shape == theirs.shape, name
        if theirs.dtype.is_floating_point:
            worst[name] = ((ours - theirs).abs().max() / theirs.abs().max()).item()
            assert worst[name] < TOLERANCE, name
        else:
            worst[name] = 0.0
            assert torch.equal(ours.to(theirs.dtype), theirs), name

    yield compare
    for name, difference in worst.items():
        print(f"DIFF {name} {difference:.2e}")


def sizes(golden):
    return sorted({key.split("/")[1] for key in golden[0] if key.startswith("tokens/")})


def test_boxes(golden, check):
    maps = [key for key in golden[0] if key.startswith("boxes/") and key.endswith("map")]
    assert maps
    for key in maps:
        found = freecp.boxes(golden[0][key][None])[:, 1:].tolist()
        name = key.replace("map", "boxes")
        check(name, torch.tensor(sorted(found)), golden[0][name].long())


@pytest.mark.parametrize("base", BASES)
@torch.no_grad()
def test_windows(golden, backbone, check, base):
    """Every stage of the filter, each from what ours gave before."""
    expected, pictures, hyper = golden
    road = Road(golden, backbone, base)
    for size in sizes(golden):
        window = pictures[f"images/{size}"][0] if f"images/{size}" in pictures else pictures[f"windows/{size}"]
        (features,), (attention,) = road.features(window[None])
        probabilities = road.probabilities(features)
        relative = freecp.stretched(probabilities)[hyper["bkg"] :]
        maps = freecp.refined(relative, attention)
        overlap = freecp.overlap(probabilities[hyper["bkg"] :], maps)
        candidates = (overlap > road.settings.redundancy).nonzero()[:, 0]
        groups = freecp.ambiguous(maps[candidates], road.settings.ambiguity)
        numbers, all_boxes, logits = torch.empty(len(candidates), dtype=torch.long), [], []
        for number, group in enumerate(groups):
            numbers[group] = number
            if len(group) > 1:
                places = freecp.boxes(maps[candidates[group]].mean(dim=0)[None])[:, 1:].tolist()
                all_boxes += places
                full = [place for place in places if place[0] < place[2] and place[1] < place[3]]
                text = road.text()[hyper["bkg"] :][candidates[group]]
                logits += [(road.scale * road.look(window)(full) @ text.T).flatten()] if full else []
        found = road.filter(window, probabilities, attention, road.text())
        plain = road.filter(window, probabilities, attention, road.text("query_features"))
        assert not found.unseen
        assert found.kept.long().sum() <= len(candidates)
        assert torch.equal(~found.redundant[1:], overlap > road.settings.redundancy)
        assert not found.kept[0]
        window_maps = F.interpolate(found.maps[None, 1:], size=window.shape[1:], mode="bilinear")[0]
        answers = {
            "features": features.flatten(0, 1),
            "probs": probabilities,
            "attention": attention,
            "box_masks": freecp.box_masks(relative),
            "refined": maps,
            "overlap": overlap,
            "kept_redundancy": candidates,
            "soft_iou": freecp.soft_iou(maps[candidates]),
            "groups": numbers,
            "crop_boxes": torch.tensor(sorted(all_boxes)).reshape(-1, 4),
            "crop_logits": torch.cat([torch.empty(0), *logits]).sort().values,
            "kept": found.kept[1:].nonzero()[:, 0],
            "kept_plain_text": plain.kept[1:].nonzero()[:, 0],
            "window_logits": window_maps[:, ::4, ::4],
        }
        prefix = f"tokens/{size}/{base}/"
        names = {key.removeprefix(prefix) for key in expected if key.startswith(prefix)}
        assert names <= answers.keys()
        assert names >= answers.keys() - {"attention", "features", "window_logits"}
        for name in names:
            check(prefix + name, answers[name], expected[prefix + name])


@pytest.mark.parametrize("background", [True, False], ids=["background", "no_background"])
@pytest.mark.parametrize("mode", ["slide", "whole"])
@pytest.mark.parametrize("base", ["ClearCLIP", "GEM"])
@torch.no_grad()
def test_images(golden, backbone, check, base, mode, background):
    expected, pictures, hyper = golden
    prefix = f"segment/{base}/{mode}/{'background' if background else 'no_background'}/"
    wanted = {key.removeprefix(prefix) for key in expected if key.startswith(prefix)}
    if not wanted:
        assert (base, mode) == ("GEM", "whole")  # its authors' code stops there (trap 9)
        return
    road, image = Road(golden, backbone, base, background=background), pictures["segment/image"][0]
    crop, stride = (hyper["crop"], hyper["stride"]) if mode == "slide" else (0, 1)
    plan = plan_windows(
        tuple(image.shape[1:]), crop_size=crop, stride=stride, patch_size=backbone.patch_size, fit="drop"
    )
    windows = plan.cut(image)
    features, early = road.features(windows)
    found = [road.filter(*one, road.text()) for one in zip(windows, road.probabilities(features), early, strict=True)]
    size = tuple(hyper["ori"])
    shown = plan if mode == "slide" else freecp.straight(plan, size)
    grid = LogitGrid.empty(max(road.owners) + 1, plan=shown, size=size, device=torch.device("cpu"))
    for place, one in zip(grid.windows(), found, strict=True):
        place.copy_(one.maps.movedim(0, -1))
    skip = int(background)
    labels, values = freecp.label(grid, background=road.background)
    maps = grid.logits()[skip:]
    answers = {
        "kept": torch.stack([one.kept[skip:] for one in found]),
        "logits": maps[:, ::2, ::2],
        "pred": labels,
    }
    assert wanted >= {"kept", "pred"}
    for name in wanted:
        check(prefix + name, answers[name], expected[prefix + name])
    best = maps.amax(dim=0)
    torch.testing.assert_close(values, best.maximum(1 - best) if background else best)
