"""Drawing label maps over images, with a legend that covers nothing. Pillow only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from clearclip.files.lettering import width_of, write

BACKGROUND = (255, 255, 255)
INK = (20, 20, 20)


def draw_overlay(
    image: npt.NDArray[np.uint8],
    label_map: npt.NDArray[Any],
    palette: npt.NDArray[np.uint8],
    *,
    names: Sequence[str] | None = None,
    opacity: float = 0.55,
) -> Image.Image:
    """An image `(H, W, 3)` as RGB with its labels' colours over it, their borders, and with `names` a legend below.

    `label_map` `(H, W)` holds indices into the palette `(n, 3)`; other values (ignored pixels) stay uncoloured. Letters
    and borders grow with the picture.
    """
    longest = max(label_map.shape)
    thick = max(1, round(longest / 1000))
    known = (label_map >= 0) & (label_map < len(palette))
    colors = palette[np.where(known, label_map, 0)]
    weight = np.where(known, opacity, 0.0)[..., None]
    blended = np.rint(image * (1 - weight) + colors * weight).astype(np.uint8)
    border = np.zeros(label_map.shape, dtype=bool)
    border[:, thick:] |= label_map[:, thick:] != label_map[:, :-thick]
    border[thick:] |= label_map[thick:] != label_map[:-thick]
    blended[border] = (blended[border] * 0.35 + 255 * 0.65).astype(np.uint8)
    picture = Image.fromarray(blended)
    if names is None:
        return picture
    shares = np.bincount(label_map[known].ravel(), minlength=len(palette)) / max(1, label_map.size)
    present = [int(index) for index in np.argsort(-shares, kind="stable") if shares[index] > 0]
    entries = [(f"{names[index]}  {shares[index]:.1%}", palette[index].tolist()) for index in present]
    return stack([picture, draw_legend(entries, width=max(picture.width, 160), size=letter_size(longest))])


def letter_size(longest: int) -> int:
    """Height in pixels of the letters beside a picture whose longer side has so many."""
    return max(14, round(longest / 72))


def draw_legend(entries: Iterable[tuple[str, Sequence[int]]], *, width: int, size: int = 14) -> Image.Image:
    """A white strip of coloured squares with texts, wrapped to a width; `size` is the letters' height in pixels."""
    pad, line = size // 2, size + size * 5 // 7
    places, x, y = [], pad, pad
    for text, color in entries:
        shown = _fit(text, size, width - size - 4 * pad)
        advance = size + pad + int(width_of(shown, size)) + 2 * pad
        if x > pad and x + advance > width:
            x, y = pad, y + line
        places.append((x, y, shown, color))
        x += advance
    strip = Image.new("RGB", (width, y + line), BACKGROUND)
    pen = ImageDraw.Draw(strip)
    for x, y, text, color in places:
        pen.rectangle((x, y, x + size, y + size), fill=tuple(color), outline=INK)
        write(pen, (x + size + pad, y - 1), text, size=size, fill=INK)
    return strip


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """At least one picture, one below the other on white, as wide as the widest."""
    canvas = Image.new("RGB", (max(part.width for part in pictures), sum(part.height for part in pictures)), BACKGROUND)
    top = 0
    for part in pictures:
        canvas.paste(part, (0, top))
        top += part.height
    return canvas


def _fit(text: str, size: int, width: int) -> str:
    if width_of(text, size) <= width:
        return text
    while len(text) > 1 and width_of(text + "…", size) > width:
        text = text[:-1]
    return text + "…"
