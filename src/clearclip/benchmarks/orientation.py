"""Whether a label map was drawn on a photograph as it is stored, or as its EXIF shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clearclip.errors import ImageError

QUARTER_TURNS = (
    Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270, Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE,
)  # fmt: skip
CLEARLY = 1.2
"""So much higher is the contrast at the borders of a label map where it lies on the right pixels."""


def stored_size(image: Path) -> tuple[tuple[int, int], Image.Transpose | None]:
    """`(width, height)` of an image file's pixels as stored, and how its EXIF turns them; nothing is decoded."""
    from clearclip.encode.images import exif_turn, open_image

    try:
        with open_image(image) as opened:
            turn = exif_turn(opened)
            is_shown = opened.format == "TIFF" and turn in QUARTER_TURNS  # Pillow has turned the size already
            return opened.size[::-1] if is_shown else opened.size, turn
    except ImageError:  # it is told when its turn comes
        return (0, 0), None


def turned(raw: npt.NDArray[np.integer[Any]], turn: Image.Transpose) -> npt.NDArray[np.integer[Any]]:
    """A label map `(H, W)`, turned as EXIF turns its image."""
    return np.asarray(Image.fromarray(raw.astype(np.int32)).transpose(turn))


def contrast(image: npt.NDArray[np.uint8], raw: npt.NDArray[np.integer[Any]]) -> float:
    """Mean difference of grey levels between neighbours of an image `(H, W, 3)` whose labels `(H, W)` differ."""
    grey = image.mean(axis=2)
    steps = [np.abs(np.diff(grey, axis=axis))[np.diff(raw, axis=axis) != 0] for axis in (0, 1)]
    found = np.concatenate(steps)
    return float(found.mean()) if found.size else 0.0
