"""What the procedural world is made of: class names, colours, and the pairs that training never sees.

Belongs here: plain data about classes. Does not: how a class is drawn (`nature`, `made`) or placed (`layouts`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RGB = tuple[int, int, int]

_CLASSES: dict[str, RGB] = {
    "sky": (135, 190, 240),
    "grass": (120, 190, 80),
    "sand": (235, 210, 140),
    "water": (40, 110, 200),
    "snow": (225, 235, 250),
    "road": (90, 90, 95),
    "dirt": (140, 95, 60),
    "mountain": (130, 120, 160),
    "cloud": (255, 255, 255),
    "sun": (255, 225, 50),
    "moon": (245, 240, 190),
    "tree": (20, 130, 50),
    "pine": (0, 85, 70),
    "cactus": (0, 175, 120),
    "bush": (90, 130, 0),
    "flower": (255, 80, 190),
    "house": (200, 80, 50),
    "lighthouse": (255, 130, 110),
    "fence": (190, 150, 100),
    "car": (230, 20, 40),
    "bus": (255, 150, 0),
    "boat": (120, 50, 30),
    "airplane": (170, 180, 195),
    "balloon": (160, 60, 220),
    "bird": (20, 30, 90),
    "sheep": (215, 200, 190),
    "person": (255, 170, 130),
    "ball": (0, 210, 220),
    "umbrella": (110, 0, 130),
    "rock": (80, 100, 110),
}

CLASSES: tuple[str, ...] = tuple(_CLASSES)
"""Class names; a class's index in label maps is its place here."""

PALETTE: NDArray[np.uint8] = np.array(list(_CLASSES.values()), dtype=np.uint8)
"""One colour a class for drawing label maps, (30, 3) uint8."""

INDEX: dict[str, int] = {name: index for index, name in enumerate(CLASSES)}

STUFF: frozenset[str] = frozenset({"sky", "grass", "sand", "water", "snow", "road", "dirt"})
THINGS: frozenset[str] = frozenset(CLASSES) - STUFF

COLOURS: dict[str, RGB] = {
    "red": (215, 45, 45),
    "blue": (50, 95, 215),
    "green": (45, 155, 75),
    "yellow": (245, 205, 50),
    "orange": (240, 130, 35),
    "purple": (135, 65, 175),
    "pink": (240, 135, 180),
    "white": (240, 240, 236),
}

COLOURED: dict[str, tuple[str, ...]] = {
    "car": ("red", "blue", "green", "yellow", "orange", "white"),
    "bus": ("red", "blue", "green", "yellow", "orange", "purple"),
    "boat": ("red", "blue", "green", "yellow", "orange", "white"),
    "house": ("red", "blue", "green", "yellow", "pink", "white"),
    "ball": ("red", "blue", "green", "yellow", "orange", "purple"),
    "flower": ("red", "blue", "yellow", "orange", "purple", "pink", "white"),
    "balloon": ("red", "blue", "green", "yellow", "orange", "purple", "pink"),
    "umbrella": ("red", "blue", "green", "yellow", "purple", "pink"),
}
"""Colours that a thing comes in. Things not named here have no colour of their own in captions."""

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("blue", "car"),
        ("green", "bus"),
        ("red", "boat"),
        ("yellow", "house"),
        ("purple", "ball"),
        ("orange", "flower"),
        ("pink", "balloon"),
        ("green", "umbrella"),
    }
)
"""Colour–thing pairs that occur in no training picture or caption, for the zero-shot composition test."""
