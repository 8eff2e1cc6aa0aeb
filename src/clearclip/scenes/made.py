"""How man-made things look: buildings, vehicles, toys.

Every drawer is `draw(pen, rng, colour)` and draws in the pen's frame, about one unit high, standing on (0, 0).
"""

from __future__ import annotations

import numpy as np

from .canvas import Pen, jitter, shade
from .classes import RGB

_GLASS: RGB = (170, 205, 225)
_LIT: RGB = (255, 222, 130)
_TYRE: RGB = (38, 38, 42)


def _glass(pen: Pen) -> tuple[RGB, bool]:
    """A window's colour and whether it glows: lamps burn behind it when the light is poor."""
    return (_LIT, True) if sum(pen.canvas.light) < 2.1 else (_GLASS, False)


def _wheel(pen: Pen, x: float, radius: float) -> None:
    pen.part("wheel")
    pen.ellipse((x, radius), (radius, radius), _TYRE)
    pen.ellipse((x, radius), (radius * 0.5, radius * 0.5), (185, 188, 194), mark=False)


def house(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """Walls of the house's colour under a gable roof, with a door, windows and a chimney."""
    half = float(rng.uniform(0.46, 0.62))
    pen.shadow(half * 1.15)
    roof: RGB = jitter(rng, ((108, 60, 50), (78, 84, 98), (120, 84, 60))[rng.integers(3)])
    pen.box((half * 0.4, 0.68), (half * 0.62, 1.02), (142, 92, 78))
    pen.part("wall")
    pen.box((-half, 0), (half, 0.6), colour)
    pen.polygon([(half * 0.55, 0), (half, 0), (half, 0.6), (half * 0.55, 0.6)], shade(colour, 0.85), mark=False)
    for row in np.arange(0.08, 0.6, 0.085):
        pen.line([(-half, float(row)), (half, float(row))], 0.008, shade(colour, 0.82), mark=False)
    pen.part("roof")
    pen.polygon([(-half * 1.16, 0.56), (half * 1.16, 0.56), (half * 0.72, 0.95), (-half * 0.72, 0.95)], roof)
    pen.polygon(
        [(half * 0.5, 0.56), (half * 1.16, 0.56), (half * 0.72, 0.95), (half * 0.4, 0.95)],
        shade(roof, 0.82),
        mark=False,
    )
    for row in (0.66, 0.76, 0.86):
        reach = half * (1.14 - 1.13 * (row - 0.56))
        pen.line([(-reach, row), (reach, row)], 0.008, shade(roof, 0.75), mark=False)
    pen.part("door")
    pen.box((-0.09, 0), (0.09, 0.34), (96, 62, 42), mark=False)
    pen.ellipse((0.055, 0.16), (0.015, 0.015), (235, 205, 110), mark=False)
    pen.part("window")
    glass, lit = _glass(pen)
    for x in (-half * 0.62, half * 0.62):
        pen.box((x - 0.105, 0.2), (x + 0.105, 0.45), (245, 242, 232), mark=False)
        pen.box((x - 0.08, 0.225), (x + 0.08, 0.425), glass, mark=False, glow=lit)
        pen.line([(x, 0.2), (x, 0.45)], 0.02, (245, 242, 232), mark=False)


def lighthouse(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A tapering tower, striped red and white, with a lantern."""
    del colour
    pen.shadow(0.22)
    stripe: RGB = jitter(rng, (200, 52, 48))
    base, top, edges = 0.15, 0.085, np.linspace(0, 0.74, 6)
    for step in range(5):
        low, high = float(edges[step]), float(edges[step + 1])
        wide, narrow = base + (top - base) * low / 0.74, base + (top - base) * high / 0.74
        band = stripe if step % 2 == 0 else (242, 240, 234)
        pen.polygon([(-wide, low), (wide, low), (narrow, high), (-narrow, high)], band)
        pen.polygon(
            [(wide * 0.3, low), (wide, low), (narrow, high), (narrow * 0.3, high)], shade(band, 0.8), mark=False
        )
    pen.box((-0.13, 0.74), (0.13, 0.77), (70, 72, 80))
    pen.box((-0.075, 0.77), (0.075, 0.89), (255, 240, 170), glow=True)
    pen.line([(0, 0.77), (0, 0.89)], 0.02, (70, 72, 80), mark=False)
    pen.polygon([(-0.11, 0.89), (0.11, 0.89), (0, 1.0)], stripe)


def fence(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A row of broad pointed pickets on two rails, several units wide."""
    del colour
    wood: RGB = jitter(rng, ((176, 134, 86), (236, 232, 222), (128, 92, 62))[rng.integers(3)])
    pickets = int(rng.integers(6, 11))
    half = pickets * 0.15
    for y in (0.28, 0.62):
        pen.box((-half, y), (half, y + 0.13), shade(wood, 0.8))
    for step in range(pickets):
        x = -half + 0.15 + 0.3 * step
        pen.polygon([(x - 0.1, 0), (x + 0.1, 0), (x + 0.1, 0.82), (x, 1.0), (x - 0.1, 0.82)], wood)
        pen.polygon([(x + 0.04, 0), (x + 0.1, 0), (x + 0.1, 0.82), (x + 0.04, 0.93)], shade(wood, 0.82), mark=False)


def car(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A car from the side; one unit high and about two wide."""
    del rng
    pen.shadow(1.1)
    pen.polygon([(-0.62, 0.5), (-0.4, 0.95), (0.32, 0.95), (0.66, 0.5)], shade(colour, 0.92))
    pen.part("window")
    glass, lit = _glass(pen)
    pen.polygon([(-0.5, 0.54), (-0.34, 0.87), (-0.06, 0.87), (-0.06, 0.54)], glass, mark=False, glow=lit)
    pen.polygon([(0.02, 0.54), (0.02, 0.87), (0.27, 0.87), (0.5, 0.54)], glass, mark=False, glow=lit)
    pen.part(None)
    pen.polygon([(-1.0, 0.2), (-1.0, 0.5), (-0.9, 0.58), (0.85, 0.58), (1.02, 0.48), (1.05, 0.2)], colour)
    pen.polygon([(-1.0, 0.2), (-1.0, 0.34), (1.04, 0.34), (1.05, 0.2)], shade(colour, 0.76), mark=False)
    pen.line([(-0.02, 0.24), (-0.02, 0.56)], 0.025, shade(colour, 0.65), mark=False)
    pen.ellipse((0.97, 0.43), (0.06, 0.06), (255, 245, 190), mark=False, glow=True)
    pen.ellipse((-0.96, 0.44), (0.04, 0.06), (190, 30, 30), mark=False, glow=True)
    for x in (-0.58, 0.62):
        _wheel(pen, x, 0.22)


def bus(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A long bus from the side with a row of windows; one unit high and more than two wide."""
    del rng
    pen.shadow(1.3)
    pen.polygon([(-1.25, 0.14), (-1.25, 0.94), (-1.18, 1.0), (1.16, 1.0), (1.25, 0.9), (1.25, 0.14)], colour)
    pen.box((-1.25, 0.14), (1.25, 0.28), shade(colour, 0.74), mark=False)
    pen.box((-1.25, 0.42), (1.25, 0.47), shade(colour, 1.45), mark=False)
    pen.part("window")
    glass, lit = _glass(pen)
    for x in np.linspace(-1.12, 0.6, 6):
        pen.box((float(x), 0.55), (float(x) + 0.27, 0.86), glass, mark=False, glow=lit)
    pen.box((0.96, 0.2), (1.19, 0.86), shade(glass, 0.85), mark=False, glow=lit)
    pen.ellipse((1.2, 0.32), (0.05, 0.06), (255, 245, 190), mark=False, glow=True)
    for x in (-0.78, 0.7):
        _wheel(pen, x, 0.19)


def boat(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A sailing boat: a coloured hull and two pale sails."""
    pen.canvas.ellipse(pen.foot, (0.62 * pen.size, 0.05 * pen.size), (255, 255, 255), mark=False, alpha=80)
    pen.line([(0, 0.2), (0, 1.0)], 0.03, (110, 84, 60))
    pen.part("sail")
    sail = jitter(rng, (242, 238, 226), 8)
    pen.polygon([(0.03, 0.28), (0.5, 0.3), (0.03, 0.98)], sail)
    pen.polygon([(0.03, 0.28), (0.2, 0.29), (0.03, 0.98)], shade(sail, 0.86), mark=False)
    pen.polygon([(-0.03, 0.3), (-0.38, 0.32), (-0.03, 0.86)], shade(sail, 0.93))
    pen.part(None)
    pen.polygon([(-0.6, 0.27), (0.64, 0.27), (0.46, 0.0), (-0.42, 0.0)], colour)
    pen.polygon([(-0.6, 0.27), (0.64, 0.27), (0.6, 0.21), (-0.55, 0.21)], shade(colour, 1.35), mark=False)
    pen.polygon([(-0.47, 0.08), (0.51, 0.08), (0.46, 0.0), (-0.42, 0.0)], shade(colour, 0.68), mark=False)


def airplane(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """An airliner in flight, seen from the side; more than two units long."""
    del colour
    body = jitter(rng, (226, 230, 236), 8)
    trim: RGB = ((60, 90, 170), (200, 70, 60), (60, 140, 120))[rng.integers(3)]
    pen.polygon([(-1.02, 0.52), (-1.28, 1.0), (-1.02, 1.0), (-0.62, 0.6)], trim)
    pen.part("wing")
    pen.polygon([(-0.05, 0.5), (-0.4, 0.86), (-0.2, 0.86), (0.35, 0.52)], shade(body, 0.72))
    pen.part(None)
    pen.ellipse((0.0, 0.46), (1.15, 0.19), body)
    pen.polygon([(-1.2, 0.56), (-0.5, 0.64), (-0.4, 0.35), (-0.9, 0.42)], body)
    pen.arc((0.0, 0.46), (1.13, 0.18), (np.pi, 2 * np.pi), shade(body, 0.82), mark=False)
    for x in np.linspace(-0.6, 0.7, 8):
        pen.ellipse((float(x), 0.52), (0.035, 0.04), (70, 100, 140), mark=False)
    pen.polygon([(0.88, 0.56), (1.06, 0.52), (0.92, 0.5)], (50, 70, 100), mark=False)
    pen.part("wing")
    pen.polygon([(0.25, 0.42), (-0.5, 0.02), (-0.25, 0.02), (0.5, 0.4)], shade(body, 0.66))


def balloon(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A hot-air balloon with stripes and a basket."""
    pale = (250, 244, 228) if rng.random() < 0.6 else shade(colour, 0.8)
    for x in (-0.08, 0.08):
        pen.line([(x, 0.1), (x * 2.2, 0.36)], 0.018, (90, 70, 50))
    pen.box((-0.09, 0.0), (0.09, 0.13), (150, 104, 60))
    pen.line([(-0.09, 0.07), (0.09, 0.07)], 0.02, (110, 74, 42), mark=False)
    pen.polygon([(-0.33, 0.52), (0.33, 0.52), (0.12, 0.27), (-0.12, 0.27)], colour)
    pen.ellipse((0, 0.65), (0.37, 0.35), colour)
    pen.ellipse((0, 0.65), (0.25, 0.35), pale, mark=False)
    pen.ellipse((0, 0.65), (0.15, 0.35), colour, mark=False)
    pen.polygon([(-0.1, 0.34), (0.1, 0.34), (0.07, 0.27), (-0.07, 0.27)], shade(colour, 0.8), mark=False)
    pen.ellipse((-0.16, 0.8), (0.06, 0.1), (255, 255, 255), mark=False, alpha=90)


def ball(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A ball with a pale stripe and a highlight."""
    pen.shadow(0.48)
    pen.ellipse((0, 0.5), (0.5, 0.5), shade(colour, 0.8))
    pen.ellipse((-0.04, 0.54), (0.43, 0.43), colour, mark=False)
    tilt = float(rng.uniform(-0.25, 0.25))
    pen.line([(-0.48, 0.5 - tilt), (0.0, 0.42), (0.48, 0.5 + tilt)], 0.13, (248, 246, 240), mark=False)
    pen.ellipse((-0.18, 0.74), (0.11, 0.09), (255, 255, 255), mark=False, alpha=170)


def umbrella(pen: Pen, rng: np.random.Generator, colour: RGB) -> None:
    """A parasol: a striped dome on a pole."""
    pen.shadow(0.5)
    pen.line([(0, 0), (0, 0.95)], 0.05, jitter(rng, (216, 206, 190)))
    pen.arc((0, 0.56), (0.62, 0.42), (0, np.pi), colour)
    pen.arc((0, 0.56), (0.36, 0.42), (0, np.pi), (248, 244, 234), mark=False)
    pen.arc((0, 0.56), (0.17, 0.42), (0, np.pi), colour, mark=False)
    for x in np.linspace(-0.52, 0.52, 6):
        pen.ellipse((float(x), 0.56), (0.1, 0.045), shade(colour, 0.85))
    pen.ellipse((0, 0.99), (0.03, 0.03), shade(colour, 0.7))
