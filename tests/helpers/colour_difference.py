"""How different two colours look: CIEDE2000 of sRGB, for normal and colour-blind eyes. A plain reference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE = (0.95047, 1.0, 1.08883)
EYES = {
    "normal": np.eye(3),
    "protanopia": (
        (0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881),
    ),
}  # fmt: skip
"""What linear RGB becomes to such eyes at severity 1 (Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009)."""


def difference(first: Sequence[int], second: Sequence[int], *, eyes: str = "normal") -> float:
    """CIEDE2000 of two sRGB colours, 0 to 255 each."""
    return ciede2000(lab(first, eyes), lab(second, eyes))


def lab(rgb: Sequence[int], eyes: str) -> tuple[float, ...]:
    """An sRGB colour in CIELAB, as such eyes see it."""
    part = np.asarray(rgb) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(EYES[eyes]) @ linear, 0, 1)
    x, y, z = (
        value ** (1 / 3) if value > 216 / 24389 else (24389 / 27 * value + 16) / 116
        for value in np.asarray(XYZ) @ seen / WHITE
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def ciede2000(first: Sequence[float], second: Sequence[float]) -> float:
    """The difference of two CIELAB colours (Sharma, Wu and Dalal, Color Research & Application 30(1), 2005)."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    mean = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * math.sqrt(mean**7 / (mean**7 + 25**7))
    c1, c2 = math.hypot(stretch * a1, b1), math.hypot(stretch * a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    hue = h1 + h2 if c1 * c2 == 0 else (h1 + turn / 2) % 360
    dl, dc, dh = l2 - l1, c2 - c1, 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn / 2))
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2

    def wave(times: int, phase: float) -> float:
        return math.cos(math.radians(times * hue + phase))

    t = 1 - 0.17 * wave(1, -30) + 0.24 * wave(2, 0) + 0.32 * wave(3, 6) - 0.2 * wave(4, -63)
    sl = 1 + 0.015 * (light - 50) ** 2 / math.sqrt(20 + (light - 50) ** 2)
    sc, sh = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    turned = 60 * math.exp(-(((hue - 275) / 25) ** 2))
    rt = -math.sin(math.radians(turned)) * 2 * math.sqrt(chroma**7 / (chroma**7 + 25**7))
    squares = (dl / sl) ** 2 + (dc / sc) ** 2 + (dh / sh) ** 2 + rt * dc / sc * dh / sh
    return math.sqrt(max(0.0, squares))
