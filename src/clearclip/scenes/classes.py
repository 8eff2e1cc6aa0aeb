"""What the procedural world is made of: class names, colours, and the pairs that training never sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RGB = tuple[int, int, int]

_CLASSES: dict[str, RGB] = {
    "sky": (86, 180, 233),
    "grass": (34, 238, 136),
    "sand": (255, 221, 187),
    "water": (17, 102, 204),
    "snow": (136, 119, 255),
    "road": (0, 51, 102),
    "dirt": (102, 85, 0),
    "mountain": (119, 85, 119),
    "cloud": (221, 238, 221),
    "sun": (255, 238, 17),
    "moon": (153, 187, 136),
    "tree": (0, 158, 115),
    "pine": (0, 34, 17),
    "cactus": (102, 153, 153),
    "bush": (102, 119, 85),
    "flower": (187, 17, 170),
    "house": (85, 34, 0),
    "lighthouse": (255, 102, 187),
    "fence": (170, 153, 85),
    "car": (204, 51, 68),
    "bus": (230, 159, 0),
    "boat": (102, 17, 51),
    "airplane": (119, 119, 136),
    "balloon": (51, 0, 255),
    "bird": (34, 0, 51),
    "sheep": (204, 170, 170),
    "person": (213, 94, 0),
    "ball": (0, 255, 255),
    "umbrella": (0, 0, 136),
    "rock": (34, 85, 85),
}

CLASSES: tuple[str, ...] = tuple(_CLASSES)
"""Class names; a class's index in label maps is its place here."""

PALETTE: NDArray[np.uint8] = np.array(list(_CLASSES.values()), dtype=np.uint8)
"""A colour for each class in label maps, (30, 3) uint8: `clearclip.vocabulary`'s, the most natural for it."""

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

PARTS: tuple[str, ...] = (
    "wall",
    "roof",
    "door",
    "window",
    "wheel",
    "sail",
    "wing",
    "trunk",
    "leaves",
    "petals",
    "head",
    "shirt",
    "trousers",
)
"""Visible parts of things that captions name beside them; a part's value in part maps is its place here plus 1."""

OTHER_WORDS: dict[str, tuple[str, ...]] = {
    "grass": ("lawn", "meadow", "field", "ground"),
    "sand": ("ground",),
    "water": ("sea", "lake", "river"),
    "snow": ("ground",),
    "road": ("street", "pavement", "ground"),
    "dirt": ("soil", "earth", "mud", "ground"),
    "mountain": ("hill", "peak"),
    "tree": ("plant",),
    "pine": ("fir", "plant"),
    "cactus": ("plant",),
    "bush": ("shrub", "hedge", "plant"),
    "flower": ("blossom", "plant"),
    "house": ("building", "home", "cottage"),
    "lighthouse": ("building", "tower"),
    "car": ("automobile", "vehicle"),
    "bus": ("coach", "vehicle"),
    "boat": ("sailboat", "ship", "vehicle"),
    "airplane": ("plane", "aircraft"),
    "bird": ("animal",),
    "sheep": ("lamb", "animal"),
    "person": ("human", "pedestrian"),
    "umbrella": ("parasol",),
    "rock": ("stone", "boulder"),
}
"""Words that captions use for a class now and then: synonyms, and names of the kind it belongs to."""

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
