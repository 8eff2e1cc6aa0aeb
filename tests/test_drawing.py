"""Overlays: letters and borders that can be seen on pictures of any size."""

from __future__ import annotations

import numpy as np
import pytest

from clearclip.files.drawing import draw_overlay

PALETTE = np.array([[255, 0, 0], [0, 0, 255]], dtype=np.uint8)


@pytest.mark.parametrize(("height", "width", "letters", "border"), [(256, 320, 14, 1), (3000, 4000, 56, 4)])
def test_letters_and_borders_grow_with_the_picture(height, width, letters, border):
    image, label_map = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.int32)
    label_map[:, width // 2 :] = 1
    drawn = np.asarray(draw_overlay(image, label_map, PALETTE, names=["sky", "tree"], opacity=1.0))
    assert np.count_nonzero(drawn[height // 2, :, 1] > 100) == border
    legend = drawn[height:]
    square = np.flatnonzero((legend == (255, 0, 0)).all(axis=2).any(axis=1))
    assert len(square) == pytest.approx(letters, abs=2)
