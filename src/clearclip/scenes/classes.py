"""What the procedural world is made of: class names, colours, and the pairs that training never sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RGB = tuple[int, int, int]

_CLASSES: dict[str, RGB] = {
    "sky": (110, 190, 255),
    "grass": (145, 205, 90),
    "sand": (255, 225, 140),
    "water": (75, 120, 205),
    "snow": (225, 232, 255),
    "road": (65, 75, 100),
    "dirt": (115, 80, 55),
    "mountain": (125, 125, 170),
    "cloud": (255, 255, 255),
    "sun": (255, 225, 45),
    "moon": (240, 250, 195),
    "tree": (35, 145, 60),
    "pine": (5, 70, 55),
    "cactus": (5, 160, 120),
    "bush": (110, 140, 30),
    "flower": (225, 5, 155),
    "house": (150, 40, 5),
    "lighthouse": (240, 115, 135),
    "fence": (180, 150, 95),
    "car": (255, 25, 35),
    "bus": (250, 155, 10),
    "boat": (95, 25, 5),
    "airplane": (165, 175, 185),
    "balloon": (155, 65, 230),
    "bird": (15, 30, 85),
    "sheep": (225, 195, 185),
    "person": (255, 180, 145),
    "ball": (20, 205, 230),
    "umbrella": (115, 20, 140),
    "rock": (85, 100, 100),
}

CLASSES: tuple[str, ...] = tuple(_CLASSES)
"""Class names; a class's index in label maps is its place here."""

PALETTE: NDArray[np.uint8] = np.array(list(_CLASSES.values()), dtype=np.uint8)
"""One colour a class for drawing label maps, (30, 3) uint8; natural, and apart for colour-blind eyes as well."""

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
