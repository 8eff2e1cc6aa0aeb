"""The authors' own outputs on tiny models (shared/golden): tokens, logits, label maps, the resize."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

import clearclip
from clearclip.encode.images import resize, resized_size
from clearclip.protocol import PROTOCOLS

METHOD_OF = {
    "vanilla": "vanilla",
    "MaskCLIP": "maskclip",
    "SCLIP": "sclip",
    "ClearCLIP": "clearclip",
}
SIZES = ("64x64", "96x112")


def spelling(author_name, variant):
    """Our spelling of a golden key."""
    kept = variant == "residual_and_ffn_kept"
    if author_name == "GEM":
        return "gem" if kept else "gem+clearclip"
    return f"{METHOD_OF[author_name]}[residual={'keep' if kept else 'drop'},ffn={'keep' if kept else 'drop'}]"


def relative_error(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.fixture(scope="module")
def golden(shared):
    def read(name):
        with safe_open(shared / "golden" / name, "pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()  # noqa: SIM118

    return read


@pytest.fixture(scope="module")
def expected(golden):
    return golden("expected.safetensors")


@pytest.fixture(scope="module")
def backbone(shared):
    return clearclip.load_backbone(f"local-dir:{shared / 'golden'}")


@pytest.fixture(scope="module")
def blip(shared):
    return clearclip.load_backbone(shared / "golden" / "blip_vision_salesforce_names.safetensors")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", ["residual_and_ffn_kept", "residual_and_ffn_dropped"])
@pytest.mark.parametrize("name", [*METHOD_OF, "GEM"])
def test_tokens(expected, backbone, name, variant, size):
    tensors, _ = expected
    features = clearclip.dense_features(backbone, tensors[f"tokens/{size}/image"], method=spelling(name, variant))
    height, width = map(int, size.split("x"))
    assert features.shape == (2, height // 16, width // 16, 32)
    assert relative_error(features.flatten(1, 2), tensors[f"tokens/{size}/{name}/{variant}"]) < 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_tokens_of_all_methods_in_one_call(expected, backbone, size):
    tensors, _ = expected
    prefix = f"tokens/{size}/"
    wanted = {
        clearclip.parse_method(spelling(*key.removeprefix(prefix).split("/"))).spelling: tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix) and not key.endswith("image")
    }
    assert len(wanted) == 10
    features = clearclip.dense_features(backbone, tensors[f"{prefix}image"], method=list(wanted))
    assert list(features) == list(wanted)
    for key, tensor in wanted.items():
        assert relative_error(features[key].flatten(1, 2), tensor) < 1e-5, key


@pytest.mark.parametrize("size", ["64x64", "96x96"])
@pytest.mark.parametrize(("name", "method"), [("vanilla", "vanilla"), ("ClearCLIP", "clearclip")])
def test_blip_tokens(golden, blip, name, method, size):
    tensors, _ = golden("blip_expected.safetensors")
    features = clearclip.dense_features(blip, tensors[f"tokens/{size}/image"], method=method)
    assert relative_error(features.flatten(1, 2), tensors[f"tokens/{size}/{name}"]) < 1e-5


@pytest.fixture(scope="module")
def segment(expected, backbone):
    """A segmenter with the golden run's numbers, its tensors and its settings."""
    tensors, metadata = expected
    numbers = json.loads(metadata["segment"])
    return clearclip.Segmenter(backbone, device="cpu", dtype="float32", cache=False), tensors, numbers


@pytest.fixture(scope="module")
def stitched(segment):
    segmenter, tensors, numbers = segment
    return segmenter.logits(
        tensors["segment/image"],
        tensors["segment/query_features"],
        crop_size=numbers["crop"],
        stride=numbers["stride"],
        size=tuple(numbers["ori"]),
    )


def test_segment_logits(segment, stitched):
    _, tensors, _ = segment
    assert stitched.shape == tensors["segment/logits"].shape
    assert (stitched - tensors["segment/logits"]).abs().max() < 1e-5


@pytest.mark.parametrize("threshold", [0.0, 0.9914])
def test_segment_label_maps(segment, stitched, threshold):
    """Through the grid of cosines that label maps are really made of, not through the full-size logits."""
    import torch.nn.functional as F

    from clearclip.classify.grid import LogitGrid
    from clearclip.encode.windows import plan_windows

    segmenter, tensors, numbers = segment
    image = tensors["segment/image"]
    plan = plan_windows(tuple(numbers["size"]), crop_size=numbers["crop"], stride=numbers["stride"], patch_size=16)
    features = clearclip.dense_features(segmenter.backbone, plan.cut(image[0]), method="clearclip")
    grid = LogitGrid.from_features(
        F.normalize(features, dim=-1),
        F.normalize(tensors["segment/query_features"], dim=-1),
        plan=plan,
        size=tuple(numbers["ori"]),
    )
    torch.testing.assert_close(grid.logits(), stitched[0], rtol=0, atol=1e-6)
    winners, scores = grid.best(logit_scale=numbers["logit_scale"])
    label_map = torch.tensor(numbers["query_idx"])[winners]
    label_map[scores < threshold] = 0
    answer = tensors[f"segment/pred/threshold={threshold}"][0].long()
    assert torch.equal(label_map, answer)
    assert len(answer.unique()) > 1


def test_segment_small(segment):
    """An image smaller than a window, and no multiple of the patch size."""
    segmenter, tensors, numbers = segment
    logits = segmenter.logits(
        tensors["segment_small/image"],
        tensors["segment/query_features"],
        crop_size=numbers["crop"],
        stride=numbers["stride"],
    )
    assert (logits - tensors["segment_small/logits"]).abs().max() < 1e-5


@pytest.mark.parametrize("direction", ["down", "up"])
def test_resize(golden, direction):
    tensors, _ = golden("resize.safetensors")
    image, theirs = (tensors[f"{direction}/{part}"].numpy() for part in ("image", "resized"))
    size = resized_size(*image.shape[:2], PROTOCOLS["paper"])
    assert size == theirs.shape[:2]
    difference = np.abs(resize(image, size).astype(int) - theirs.astype(int))
    assert difference.max() <= 1
