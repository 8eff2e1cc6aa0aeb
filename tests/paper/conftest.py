"""A model whose patches are coarse, for the paper's protocol resizes every image to 448 pixels."""

from __future__ import annotations

import pytest

import tiny_models


@pytest.fixture(scope="session")
def coarse_folder(tmp_path_factory):
    vision = {"image_size": 64, "patch_size": 32}
    model = tiny_models.open_clip_model(vision=vision)
    return tiny_models.save_open_clip(model, tmp_path_factory.mktemp("models") / "coarse", vision=vision)
