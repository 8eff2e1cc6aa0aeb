"""The small CLIP, real photographs, and folders in the benchmarks' layouts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark_cases import small_segmenter, write_pair

ROOT = Path(__file__).parents[2]

torch.set_num_threads(1)  # the model is tiny: more threads only wait for one another


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
