"""Backbones without a class token and with registers go the whole road, with query-key norm and rotary positions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clearclip
from clearclip.encode.images import normalize
from clearclip.methods import METHODS
from clearclip.protocol import Protocol
from made_vit import MadeVit

KINDS_OF_PREFIX = [(0, 0), (1, 1), (5, 1), (5, 0), (5, 5)]
WORDS = ["sky", "water", "tree", "a", "zz", "Q", "!!", "jjjj", "0", "~"]
PROTOCOL = Protocol(short_side=32, long_side=64, crop_size=32, stride=16)


@pytest.mark.parametrize(("prefix", "placed"), KINDS_OF_PREFIX)
def test_features_are_the_plain_ones(prefix, placed):
    model = MadeVit(prefix, placed)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = clearclip.dense_features(model.view(), images, method=["clearclip", "vanilla"])
    torch.testing.assert_close(found["clearclip"], model.plain(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["vanilla"], model.plain(images, clearclip=False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("prefix", "placed"), KINDS_OF_PREFIX)
def test_every_method_runs_away_from_the_native_size(prefix, placed):
    rows = [row for row in METHODS.values() if row.depth <= 3 and (prefix or row.residual != "class")]
    rows = [row for row in rows if row.streams != "each" and row.mix == "none"]  # cliper is below
    rows = [replace(row, pre=1) if row.name == "scclip" else row for row in rows]  # three blocks are too few for 8/12
    images = torch.randn(1, 3, 40, 24, generator=torch.Generator().manual_seed(1))
    found = clearclip.dense_features(MadeVit(prefix, placed).view(), images, method=rows)
    assert all(features.shape == (1, 5, 3, 24) and features.isfinite().all() for features in found.values())
    assert len(torch.stack([features.flatten() for features in found.values()]).unique(dim=0)) == len(rows)
    every = clearclip.dense_features(MadeVit(prefix, placed).view(), images, method="cliper")
    assert every.shape == (1, 3, 5, 3, 24)
    assert every.isfinite().all()


@pytest.mark.parametrize(("prefix", "placed"), KINDS_OF_PREFIX)
def test_whole_road_to_labels(prefix, placed):
    model = MadeVit(prefix, placed)
    segmenter = clearclip.Segmenter(
        model.view(), protocol=PROTOCOL, templates=["a {}"], cache=False, device="cpu", dtype="float32"
    )
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    result = segmenter(image, WORDS)
    pixels = normalize(image, mean=clearclip.protocol.CLIP_MEAN, std=clearclip.protocol.CLIP_STD)
    features = F.normalize(model.plain(torch.stack([pixels[:, :, :32], pixels[:, :, 16:]])), dim=-1)
    text = segmenter.embed(WORDS)
    cosines = F.interpolate((features @ text.T).permute(0, 3, 1, 2), size=(32, 32), mode="bilinear")
    total, count = torch.zeros(len(WORDS), 32, 48), torch.zeros(48)
    for window, start in zip(cosines, (0, 16), strict=True):
        total[:, :, start : start + 32] += window
        count[start : start + 32] += 1
    assert np.array_equal(result.label_map, (total / count).argmax(dim=0).numpy())
    assert len(np.unique(result.label_map)) > 1


def test_a_class_token_that_is_not_there_is_refused():
    with pytest.raises(clearclip.UsageError, match="adds the class token, which made has not"):
        clearclip.dense_features(MadeVit(0, 0).view(), torch.zeros(1, 3, 32, 32), method="scclip[pre=1]")
