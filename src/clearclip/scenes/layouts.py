"""What pictures are composed of: kinds of things, grounds, times of day and families of pictures, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from . import made, nature
from .canvas import Pen
from .classes import RGB

Drawer = Callable[[Pen, np.random.Generator, RGB], None]


@dataclass(frozen=True)
class Kind:
    """One kind of thing: its drawer, its height when near (of a picture's height), where it stands, how many."""

    draw: Drawer
    height: float
    grounds: frozenset[str] = frozenset()
    most: int = 2


def _on(*grounds: str) -> frozenset[str]:
    return frozenset(grounds)


_LAND = _on("grass", "sand", "snow", "dirt")

KINDS: dict[str, Kind] = {
    "tree": Kind(nature.tree, 0.62, _on("grass", "dirt", "snow"), 3),
    "pine": Kind(nature.pine, 0.62, _on("grass", "snow", "dirt"), 3),
    "cactus": Kind(nature.cactus, 0.46, _on("sand", "dirt"), 3),
    "bush": Kind(nature.bush, 0.22, _LAND, 3),
    "flower": Kind(nature.flower, 0.27, _on("grass", "dirt"), 5),
    "house": Kind(made.house, 0.5, _LAND, 2),
    "lighthouse": Kind(made.lighthouse, 0.78, _LAND, 1),
    "fence": Kind(made.fence, 0.19, _LAND, 2),
    "car": Kind(made.car, 0.25, _on("road", "dirt"), 2),
    "bus": Kind(made.bus, 0.34, _on("road", "dirt"), 1),
    "boat": Kind(made.boat, 0.48, _on("water"), 3),
    "sheep": Kind(nature.sheep, 0.26, _on("grass", "snow", "dirt"), 4),
    "person": Kind(nature.person, 0.4, _LAND | {"road"}, 2),
    "ball": Kind(made.ball, 0.2, _LAND, 2),
    "umbrella": Kind(made.umbrella, 0.42, _on("sand", "grass"), 2),
    "rock": Kind(nature.rock, 0.2, _LAND | {"water"}, 3),
    "bird": Kind(nature.bird, 0.12),
    "airplane": Kind(made.airplane, 0.14),
    "balloon": Kind(made.balloon, 0.36),
    "cloud": Kind(nature.cloud, 0.13),
    "sun": Kind(nature.sun, 0.15),
    "moon": Kind(nature.moon, 0.18),
    "mountain": Kind(nature.mountain, 0.3),
}

GROUNDS: dict[str, tuple[RGB, ...]] = {
    "grass": ((112, 172, 72), (134, 182, 78), (92, 156, 78)),
    "sand": ((228, 200, 140), (236, 212, 160), (222, 186, 122)),
    "water": ((58, 126, 188), (48, 140, 178), (70, 110, 178)),
    "snow": ((236, 241, 248), (226, 235, 248)),
    "road": ((98, 98, 104), (82, 84, 92)),
    "dirt": ((148, 106, 72), (128, 92, 66)),
}


@dataclass(frozen=True)
class Layout:
    """A family of pictures: bands of ground from the horizon down (one tuple is chosen), and weights of things.

    The chances are of a pond, of a dirt path and of a road running into the distance.
    """

    bands: tuple[tuple[str, ...], ...]
    things: Mapping[str, float]
    pond: float = 0.0
    path: float = 0.0
    lane: float = 0.0


def _weights(**weights: float) -> dict[str, float]:
    return weights


LAYOUTS: dict[str, Layout] = {
    "meadow": Layout(
        (("grass",), ("grass", "dirt", "grass")),
        _weights(tree=3, pine=1, bush=2, flower=3, house=2, fence=2, sheep=4, person=2, ball=2, rock=1),
        pond=0.35,
        path=0.35,
    ),
    "town": Layout(
        (("grass", "road", "grass"), ("grass", "road"), ("dirt", "road", "grass")),
        _weights(house=4, car=5, bus=4, tree=2, person=3, bush=2, fence=2, ball=1.5, flower=1.5),
    ),
    "beach": Layout(
        (("water", "sand"), ("water", "sand", "grass")),
        _weights(boat=4, umbrella=5, ball=3, person=3, rock=2, lighthouse=2.5, bush=0.7),
    ),
    "winter": Layout(
        (("snow",), ("snow", "road", "snow")),
        _weights(pine=4, house=3, person=2, rock=2, fence=2, tree=1, ball=1, sheep=1, car=2, bus=1.5),
        pond=0.25,
        lane=0.15,
    ),
    "desert": Layout(
        (("sand",), ("dirt",), ("sand", "dirt"), ("sand", "road", "sand")),
        _weights(cactus=5, rock=3, bush=2, car=2, bus=2, person=1, fence=1),
        lane=0.25,
    ),
    "lake": Layout(
        (("grass", "water", "grass"), ("water", "grass"), ("water", "dirt"), ("sand", "water")),
        _weights(boat=6, lighthouse=2.5, tree=2, pine=1.5, rock=2, flower=2, person=1.5, sheep=1, umbrella=1.5),
    ),
    "country": Layout(
        (("grass",), ("dirt", "grass"), ("grass", "dirt")),
        _weights(car=4, bus=3, tree=2, pine=2, bush=1.5, fence=2.5, house=2, sheep=1.5, flower=1, rock=1),
        lane=1.0,
    ),
}


@dataclass(frozen=True)
class Light:
    """A time of day: factors on daylight colours, gradients for the sky, and what shines in it."""

    name: str
    factors: tuple[float, float, float]
    skies: tuple[tuple[RGB, ...], ...]
    cloud: RGB
    lamp: str
    lamp_colour: RGB


LIGHTS: tuple[Light, ...] = (
    Light(
        "day",
        (1.0, 1.0, 1.0),
        (
            ((82, 152, 228), (140, 192, 240), (206, 230, 246)),
            ((64, 130, 214), (128, 186, 238), (224, 236, 240)),
            ((150, 172, 194), (178, 196, 212), (208, 218, 226)),
        ),
        (250, 251, 254),
        "sun",
        (255, 228, 84),
    ),
    Light(
        "dusk",
        (1.0, 0.82, 0.74),
        (((84, 66, 128), (212, 106, 112), (255, 184, 108)), ((120, 84, 148), (238, 140, 120), (255, 212, 142))),
        (255, 196, 178),
        "sun",
        (255, 168, 62),
    ),
    Light(
        "night",
        (0.62, 0.66, 0.8),
        (((12, 16, 44), (28, 38, 82), (62, 74, 124)), ((18, 14, 40), (40, 34, 80), (84, 68, 116))),
        (112, 120, 156),
        "moon",
        (246, 242, 206),
    ),
)
LIGHT_CHANCES = (0.6, 0.2, 0.2)
