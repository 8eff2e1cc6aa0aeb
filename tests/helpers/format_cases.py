"""Label maps with everything that outlines stumble over."""

from __future__ import annotations

import numpy as np
import torch

from clearclip import Segmentation, Vocabulary

NAMES = ["sky/sea", "sky:sea", "Straße 🚗", "a \"<b>\" & 'c' -- d", "nowhere"]  # nothing is ever "nowhere"
INFO = {"software": "clearclip test", "model": "tiny & <small>", "method": "clearclip", "versions": "one, two"}


def ring(size=15):
    """Rings in rings, so that there are holes with regions and holes in them."""
    y, x = np.mgrid[:size, :size]
    distance = np.maximum(abs(y - size // 2), abs(x - size // 2))
    return (distance // 2 % 2).astype(np.int32)


def noise(height, width, labels=4, seed=0):
    return np.random.default_rng(seed).integers(0, labels, (height, width)).astype(np.int32)


def blobs(height=60, width=83, labels=4, seed=1):
    coarse = torch.rand(labels, 1, 6, 8, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return fine[:, 0].argmax(dim=0).numpy().astype(np.int32)


LABEL_MAPS = {
    "blobs": blobs(),
    "noise": noise(23, 31),
    "rings": ring(),
    "one-pixel": np.eye(7, 9, dtype=np.int32) * 2,
    "diagonals": (np.indices((9, 8)).sum(axis=0) % 2).astype(np.int32),
    "one-wide": noise(40, 1),
    "one-high": noise(1, 40),
    "single": np.full((1, 1), 3, dtype=np.int32),
    "full": np.full((5, 6), 2, dtype=np.int32),
}


def make(label_map, names=NAMES, *, background=None, info=INFO):
    """A segmentation with random scores."""
    height, width = label_map.shape
    generator = torch.Generator().manual_seed(height * 1000 + width)
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    vocabulary = Vocabulary.parse(list(names), background=background)
    return Segmentation(label_map, vocabulary, image, info, _scores=torch.rand(height, width, generator=generator))
