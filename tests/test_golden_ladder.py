"""Methods after ClearCLIP against their authors' own outputs on tiny models (shared/golden/clip_only)."""

import json

import pytest
import torch
from safetensors import safe_open

import clearclip
from clearclip.attention import KINDS, Site, gaussian_prior
from clearclip.decompose import run_trunk
from clearclip.protocol import Protocol

NACLIP = {
    "reduced/naclip": "naclip",
    "reduced/nonly": "naclip[attention=uniform]",
    "reduced/kk": "naclip[prior=none]",
    "reduced/vanilla": "naclip[attention=qk,prior=none]",
    "vanilla/naclip": "naclip[residual=keep,ffn=keep]",
    "vanilla/nonly": "vanilla[attention=uniform,prior=gaussian:5]",
    "vanilla/kk": "vanilla[attention=kk]",
    "vanilla/csa": "sclip",
    "vanilla/vanilla": "vanilla",
}


@pytest.fixture(scope="module")
def golden(shared):
    def read(name):
        with safe_open(shared / "golden" / "clip_only" / f"{name}.safetensors", "pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()  # noqa: SIM118

    return read


@pytest.fixture(scope="module")
def backbone(shared):
    return clearclip.load_backbone(f"local-dir:{shared / 'golden' / 'clip_only'}")


@pytest.fixture(scope="module")
def inputs(golden):
    """The pictures, normalised."""
    tensors, metadata = golden("inputs")
    mean, std = (torch.tensor(json.loads(metadata[name])).view(3, 1, 1) for name in ("mean", "std"))
    pictures = {key: (value.float() - mean) / std for key, value in tensors.items() if value.dtype == torch.uint8}
    return tensors | pictures


@pytest.fixture(scope="module")
def naclip(golden):
    return golden("naclip")


def close(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < tolerance


def test_naclip_features(naclip, inputs, backbone):
    tensors, _ = naclip
    checked = set()
    for key, expected in tensors.items():
        kind, size, *rest = key.split("/")
        if kind != "tokens" or "/".join(rest) not in NACLIP:
            continue
        picture = inputs[f"images/{size}"][: len(expected)]
        whole = [length // 16 * 16 for length in picture.shape[2:]]  # NACLIP does not see the remainder
        found = clearclip.dense_features(backbone, picture[..., : whole[0], : whole[1]], method=NACLIP["/".join(rest)])
        close(found.flatten(1, 2), expected)
        checked.add("/".join(rest))
    assert checked == set(NACLIP)


@pytest.mark.parametrize("strategy", ["naclip", "nonly"])
def test_naclip_attention(naclip, inputs, backbone, strategy):
    tensors, _ = naclip
    row = clearclip.parse_method(NACLIP[f"reduced/{strategy}"])
    last = len(backbone.blocks) - 1
    streams = run_trunk(backbone, inputs["images/96x96"][:1], positions="native", wanted=[last])
    site = Site(backbone.blocks[last], streams[last], backbone.heads, 1, (6, 6))
    term = KINDS[row.attention[0]](site, row)
    expected = tensors[f"tokens/96x96/attention/{strategy}"]
    close(term.weights()[0].expand_as(expected), expected)
    torch.testing.assert_close(term.apply(site.v), term.weights() @ site.v, rtol=1e-4, atol=1e-5)


def test_naclip_prior(naclip):
    tensors, _ = naclip
    for key, grid_size, sigma in (("prior/3x5/std=1.5", (3, 5), 1.5), ("tokens/120x168/prior", (7, 10), 5.0)):
        expected = tensors[key]
        assert not expected[0].any()
        assert not expected[:, 0].any()
        close(gaussian_prior(grid_size, sigma), expected[1:, 1:])


@pytest.mark.parametrize("windows", ["slide", "whole"])
def test_naclip_whole_road(naclip, inputs, backbone, windows):
    tensors, metadata = naclip
    hyper = json.loads(metadata["hyper"])
    crop, stride = (hyper["slide_crop"], hyper["slide_stride"]) if windows == "slide" else (0, 1)
    protocol = Protocol(short_side=112, long_side=2048, crop_size=crop, stride=stride, remainder="drop")
    segmenter = clearclip.Segmenter(
        backbone, method="naclip", protocol=protocol, device="cpu", dtype="float32", cache=False
    )
    text = inputs["query_features"]
    logits = segmenter.logits(inputs["segment/image"], text, size=tuple(hyper["ori"]))[0]
    close(logits, tensors[f"segment/{windows}/plain/logits"])
    probabilities = (hyper["logit_scale"] * logits).softmax(dim=0)
    classes = inputs["query_idx"].long()
    per_class = torch.stack([probabilities[classes == index].amax(dim=0) for index in classes.unique()])
    best, labels = per_class.max(dim=0)
    labels[best < hyper["prob_thd"]] = 0
    assert (labels != tensors[f"segment/{windows}/plain/pred"].long()).sum() <= 1  # a tie of 1.7e-6 (shared README)
