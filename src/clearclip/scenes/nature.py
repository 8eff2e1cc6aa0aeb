"""How things of nature look: plants, rocks, animals and people, and what hangs in the sky; drawers as in `made`."""

from __future__ import annotations

import numpy as np

from .canvas import Pen, Point, jitter, mix, shade
from .classes import RGB

_BARK: RGB = (112, 78, 50)
_SKIN: tuple[RGB, ...] = ((245, 205, 170), (225, 170, 125), (160, 105, 70), (100, 65, 45))
_SHIRTS: tuple[RGB, ...] = (
    (200, 60, 60),
    (60, 110, 190),
    (240, 200, 70),
    (90, 160, 100),
    (230, 230, 230),
    (150, 80, 160),
)


def tree(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A leafy tree: a trunk under a crown of lit puffs."""
    del colour
    pen.shadow(0.35)
    bark = jitter(rng, _BARK)
    pen.part("trunk")
    pen.polygon([(-0.06, 0), (0.07, 0), (0.045, 0.5), (-0.04, 0.5)], bark)
    pen.polygon([(0.02, 0), (0.07, 0), (0.045, 0.5), (0.02, 0.5)], shade(bark, 0.75), mark=False)
    pen.part("leaves")
    leaves = jitter(rng, (58, 140, 52), 22)
    puffs: list[tuple[Point, float]] = [((0.0, 0.72), 0.27)]
    for turn in np.linspace(0, 2 * np.pi, 6, endpoint=False) + rng.uniform(0, 1):
        puffs.append(((0.2 * float(np.cos(turn)), 0.68 + 0.16 * float(np.sin(turn))), float(rng.uniform(0.14, 0.19))))
    for (x, y), radius in puffs:
        pen.ellipse((x + 0.015, y - 0.02), (radius, radius * 0.95), shade(leaves, 0.78))
    for (x, y), radius in puffs:
        pen.ellipse((x - 0.02, y + 0.02), (radius * 0.8, radius * 0.76), leaves, mark=False)
    for (x, y), radius in puffs[1:]:
        pen.ellipse((x - 0.05, y + 0.06), (radius * 0.42, radius * 0.36), shade(leaves, 1.18), mark=False)
    if rng.random() < 0.25:
        for x, y in rng.uniform((-0.27, 0.52), (0.27, 0.9), (9, 2)):
            pen.ellipse((x, y), (0.022, 0.022), (205, 50, 45), mark=False)


def pine(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A conifer of four stacked tiers, sometimes with snow on them (`colour` light enough: winter)."""
    pen.shadow(0.3)
    pen.box((-0.04, 0), (0.04, 0.2), jitter(rng, shade(_BARK, 0.85)))
    needles = jitter(rng, (28, 92, 68), 14)
    snowy = sum(colour) > 600
    for tier in range(4):
        low, high, half = 0.14 + 0.19 * tier, 0.5 + 0.17 * tier, 0.31 - 0.062 * tier
        pen.polygon([(-half, low), (half, low), (0, high)], shade(needles, 0.82 + 0.07 * tier))
        pen.polygon([(-half, low), (-half * 0.15, low), (0, high)], shade(needles, 1.12), mark=False)
        if snowy:
            pen.polygon([(-half * 0.62, low + 0.14), (half * 0.2, low + 0.17), (0, high)], (236, 242, 250), mark=False)


def cactus(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A saguaro with two raised arms."""
    del colour
    pen.shadow(0.28)
    green = jitter(rng, (66, 150, 92), 14)
    left, right = rng.uniform(0.3, 0.5), rng.uniform(0.35, 0.55)
    for side, height in ((-1.0, float(left)), (1.0, float(right))):
        pen.line([(0, height), (side * 0.24, height), (side * 0.24, height + 0.22)], 0.11, shade(green, 0.9))
        pen.ellipse((side * 0.24, height + 0.22), (0.055, 0.055), shade(green, 0.9))
        pen.ellipse((side * 0.24, height), (0.055, 0.055), shade(green, 0.9))
    pen.box((-0.1, 0), (0.1, 0.9), green)
    pen.ellipse((0, 0.9), (0.1, 0.1), green)
    for x in (-0.06, 0.0, 0.06):
        pen.line([(x, 0.02), (x, 0.93)], 0.014, shade(green, 0.74), mark=False)
    if rng.random() < 0.4:
        pen.ellipse((0, 1.0), (0.05, 0.035), (235, 90, 140))


def bush(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A low round shrub, sometimes with berries."""
    del colour
    pen.shadow(0.6)
    pen.part("leaves")
    leaves = jitter(rng, (92, 128, 46), 16)
    puffs = [
        (float(x), float(rng.uniform(0.36, 0.62)), float(rng.uniform(0.24, 0.34))) for x in np.linspace(-0.5, 0.5, 5)
    ]
    for x, y, radius in puffs:
        pen.ellipse((x, y * 0.75), (radius, min(radius * 1.2, y * 0.75)), shade(leaves, 0.76))
    for x, y, radius in puffs:
        pen.ellipse((x - 0.03, y * 0.8), (radius * 0.75, radius * 0.7), leaves, mark=False)
        pen.ellipse((x - 0.08, y * 0.95), (radius * 0.36, radius * 0.3), shade(leaves, 1.2), mark=False)
    if rng.random() < 0.5:
        for x, y in rng.uniform((-0.6, 0.12), (0.6, 0.6), (10, 2)):
            pen.ellipse((x, y), (0.04, 0.04), (190, 40, 80), mark=False)


def flower(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A stem with two leaves and one big blossom."""
    stem = (62, 140, 58)
    pen.line([(0, 0), (0.03, 0.35), (0, 0.68)], 0.07, stem)
    for side in (-1.0, 1.0):
        pen.polygon([(0.02, 0.18), (side * 0.14, 0.2), (side * 0.27, 0.36), (side * 0.1, 0.33)], shade(stem, 1.08))
    pen.part("petals")
    petals = int(rng.integers(5, 9))
    for turn in np.arange(petals) * (2 * np.pi / petals) + rng.uniform(0, 1):
        x, y = 0.19 * float(np.cos(turn)), 0.72 + 0.19 * float(np.sin(turn))
        pen.ellipse((x, y), (0.125, 0.125), shade(colour, 0.92))
        pen.ellipse((x * 0.9, 0.72 + (y - 0.72) * 0.9), (0.085, 0.085), shade(colour, 1.08), mark=False)
    pen.ellipse((0, 0.72), (0.1, 0.1), (120, 72, 30) if sum(colour) > 480 else (245, 205, 70))


def rock(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A boulder with a lit and a shaded side."""
    del colour
    pen.shadow(0.72)
    stone = jitter(rng, (128, 126, 128), 20)
    turns = np.linspace(0, np.pi, 7)
    reach = rng.uniform(0.8, 1.05, 7)
    rim = [
        (0.68 * r * float(np.cos(t)), max(0.92 * r * float(np.sin(t)), 0.0)) for t, r in zip(turns, reach, strict=True)
    ]
    pen.polygon(rim, stone)
    peak = (float(rng.uniform(-0.1, 0.1)), 0.5)
    pen.polygon([rim[0], rim[1], rim[2], peak, (0.1, 0.0)], shade(stone, 0.74), mark=False)
    pen.polygon([rim[3], rim[4], rim[5], peak], shade(stone, 1.22), mark=False)
    pen.line([(-0.2, 0.05), peak], 0.02, shade(stone, 0.6), mark=False)


def sheep(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A woolly sheep seen from the side."""
    del colour
    pen.shadow(0.6)
    dark = jitter(rng, (62, 56, 56), 10)
    for x in (-0.36, -0.22, 0.2, 0.34):
        pen.box((x - 0.045, 0), (x + 0.045, 0.35), dark)
    wool = jitter(rng, (238, 234, 224), 8)
    pen.ellipse((0, 0.52), (0.48, 0.28), shade(wool, 0.9))
    for turn in np.linspace(0, 2 * np.pi, 11, endpoint=False):
        pen.ellipse((0.42 * float(np.cos(turn)), 0.53 + 0.24 * float(np.sin(turn))), (0.13, 0.12), shade(wool, 0.9))
    for x, y in ((-0.26, 0.62), (0.0, 0.68), (0.25, 0.62), (-0.1, 0.5), (0.15, 0.5)):
        pen.ellipse((x, y), (0.16, 0.12), wool, mark=False)
    pen.ellipse((0.56, 0.68), (0.15, 0.19), dark)
    pen.ellipse((0.42, 0.8), (0.11, 0.05), dark)
    pen.ellipse((0.52, 0.86), (0.14, 0.08), wool)
    pen.ellipse((0.61, 0.72), (0.025, 0.03), (250, 250, 250), mark=False)


def person(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """Somebody standing, arms a little out."""
    del colour
    pen.shadow(0.2)
    skin = _SKIN[rng.integers(len(_SKIN))]
    shirt = jitter(rng, _SHIRTS[rng.integers(len(_SHIRTS))])
    trousers = jitter(rng, ((52, 62, 100), (80, 70, 62), (44, 44, 50))[rng.integers(3)])
    hair: RGB = ((60, 40, 26), (30, 26, 26), (205, 165, 90), (150, 80, 40))[rng.integers(4)]
    for side in (-1.0, 1.0):
        pen.part("trousers")
        pen.polygon([(side * 0.01, 0.46), (side * 0.13, 0.46), (side * 0.15, 0.03), (side * 0.05, 0.03)], trousers)
        pen.part(None)
        pen.ellipse((side * 0.11, 0.02), (0.065, 0.03), (50, 40, 36))
        swing = float(rng.uniform(0.2, 0.32))
        pen.line([(side * 0.11, 0.74), (side * swing, 0.5)], 0.08, shade(shirt, 0.85))
        pen.ellipse((side * swing, 0.48), (0.04, 0.045), skin)
    pen.part("shirt")
    pen.polygon([(-0.15, 0.76), (0.15, 0.76), (0.13, 0.43), (-0.13, 0.43)], shirt)
    pen.box((-0.035, 0.75), (0.035, 0.82), shade(skin, 0.9))
    pen.part("head")
    pen.ellipse((0, 0.9), (0.115, 0.12), hair)
    pen.ellipse((0.01, 0.88), (0.09, 0.1), skin, mark=False)


def bird(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A bird on the wing, body and tail and two raised wings."""
    del colour
    plumage: RGB = ((60, 70, 95), (46, 46, 52), (196, 84, 66), (84, 120, 170))[rng.integers(4)]
    lift = float(rng.uniform(0.45, 0.75))
    pen.polygon([(-0.75, 0.42), (-0.4, 0.46), (-0.42, 0.3), (-0.8, 0.26)], shade(plumage, 0.8))
    pen.part("wing")
    pen.polygon([(-0.18, 0.42), (-0.5, 0.42 + lift), (-0.2, 0.3 + lift), (0.22, 0.45)], shade(plumage, 0.8))
    pen.part(None)
    pen.ellipse((0.0, 0.38), (0.46, 0.17), plumage)
    pen.ellipse((0.42, 0.46), (0.16, 0.15), plumage)
    pen.polygon([(0.55, 0.49), (0.76, 0.44), (0.55, 0.4)], (240, 170, 50))
    pen.part("wing")
    pen.polygon([(-0.1, 0.4), (-0.22, 0.5 + lift), (0.08, 0.38 + lift), (0.28, 0.42)], shade(plumage, 1.15))
    pen.part(None)
    pen.ellipse((0.04, 0.32), (0.32, 0.09), shade(plumage, 1.45), mark=False)
    pen.ellipse((0.46, 0.5), (0.03, 0.03), (255, 255, 255), mark=False)


def cloud(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A heap of soft puffs with a flat base; `colour` is the light on it."""
    puffs = [(float(x), float(rng.uniform(0.2, 0.5) * (1.15 - abs(x) / 1.3))) for x in np.linspace(-0.95, 0.95, 7)]
    for x, radius in puffs:
        pen.ellipse((x, 0.18 + radius * 0.5), (radius * 0.95, radius * 0.75), shade(colour, 0.88), glow=True)
    pen.ellipse((0, 0.2), (1.15, 0.19), shade(colour, 0.88), glow=True)
    for x, radius in puffs:
        pen.ellipse((x - 0.04, 0.26 + radius * 0.5), (radius * 0.8, radius * 0.55), colour, mark=False, glow=True)


def sun(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A bright disc in a halo; the halo is still sky."""
    del rng
    for radius, alpha in ((1.1, 36), (0.85, 46), (0.68, 60)):
        pen.ellipse((0, 0), (radius, radius), colour, mark=False, glow=True, alpha=alpha)
    pen.ellipse((0, 0), (0.5, 0.5), colour, glow=True)
    pen.ellipse((-0.06, 0.06), (0.36, 0.36), shade(colour, 1.4), mark=False, glow=True)


def moon(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A pale disc with craters in a faint halo."""
    for radius, alpha in ((0.9, 22), (0.68, 34)):
        pen.ellipse((0, 0), (radius, radius), colour, mark=False, glow=True, alpha=alpha)
    pen.ellipse((0, 0), (0.5, 0.5), colour, glow=True)
    for x, y in rng.uniform(-0.28, 0.28, (5, 2)):
        radius = float(rng.uniform(0.04, 0.11))
        pen.ellipse((float(x), float(y)), (radius, radius), shade(colour, 0.86), mark=False, glow=True)


def mountain(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A jagged peak, one unit high and more than two wide, with a shaded flank and snow on top."""
    half = float(rng.uniform(0.95, 1.35))
    peak = float(rng.uniform(-0.15, 0.15))
    left = [(-half, 0.0), (-half * 0.62, float(rng.uniform(0.3, 0.42))), (-half * 0.3, float(rng.uniform(0.62, 0.72)))]
    right = [(half * 0.34, float(rng.uniform(0.58, 0.7))), (half * 0.66, float(rng.uniform(0.26, 0.4))), (half, 0.0)]
    pen.polygon([*left, (peak, 1.0), *right], colour)
    pen.polygon([(peak, 1.0), *right, (peak + 0.25, 0.0), (peak - 0.08, 0.4)], shade(colour, 0.74), mark=False)
    if rng.random() < 0.75:
        snow = mix((246, 248, 252), colour, 0.08)
        cap = [
            (peak, 1.0),
            (peak + 0.16, 0.82),
            (peak + 0.08, 0.72),
            (peak + 0.01, 0.8),
            (peak - 0.08, 0.68),
            (peak - 0.16, 0.82),
        ]
        pen.polygon(cap, snow, mark=False)
        pen.polygon(
            [(peak, 1.0), (peak + 0.16, 0.82), (peak + 0.08, 0.72), (peak + 0.02, 0.8)], shade(snow, 0.84), mark=False
        )
