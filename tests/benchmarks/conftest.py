"""A small CLIP with random weights that reads words, and folders in the benchmarks' layouts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clearclip

ROOT = Path(__file__).parents[2]

torch.set_num_threads(1)  # the model is tiny: more threads only wait for one another


def small_segmenter(**options):
    """Eight blocks, so that GEM's depth of six fits; random weights from a fixed seed."""
    import open_clip

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(
            embed_dim=32,
            vision_cfg={"image_size": 32, "layers": 8, "width": 64, "head_width": 16, "patch_size": 8},
            text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        )
    backbone = clearclip.view(model)
    options = {"method": "clearclip", "device": "cpu", "dtype": "float32", "templates": "a photo of a {}.", **options}
    return clearclip.Segmenter(backbone, cache=False, show_progress=False, **options)


@pytest.fixture(scope="session")
def segmenter():
    return small_segmenter()


@pytest.fixture(scope="session")
def samples():
    shared = Path(os.environ.get("CLEARCLIP_SHARED", ROOT.parent / "shared"))
    folder = shared / "samples"
    if not folder.is_dir():
        pytest.skip(f"no real photographs in {folder} (set CLEARCLIP_SHARED)")
    return folder


def write_pair(image: Path, labels: Path, label_map, *, seed=0):
    """A photograph of noise and its label map."""
    label_map = np.asarray(label_map, dtype=np.uint8)
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*label_map.shape, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image)
    Image.fromarray(label_map).save(labels)


@pytest.fixture
def voc(tmp_path):
    """Six pairs in VOC's layout; every label occurs, 255 too."""
    root = tmp_path / "VOC2012"
    names = [f"2007_{number:06d}" for number in range(6)]
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        blocks = rng.choice([0, *range(21), 255], (5, 6)).repeat(8, axis=0).repeat(8, axis=1)
        write_pair(root / f"JPEGImages/{name}.jpg", root / f"SegmentationClass/{name}.png", blocks, seed=number)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names) + "\n")
    return root
