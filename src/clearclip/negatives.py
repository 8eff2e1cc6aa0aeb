"""Words for what usually lies around the things people name: the background that `--background auto` adds. No torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

WORDS = (
    "sky", "wall", "tree", "wood", "grass", "road", "sea", "river", "mountain", "sands", "desk", "bed", "building",
    "cloud", "lamp", "door", "window", "wardrobe", "ceiling", "shelf", "curtain", "stair", "floor", "hill", "rail",
    "fence",
)  # fmt: skip
"""The background words of SCLIP (ECCV 2024) for VOC and COCO-Object, which later papers took over."""
MORE = ("water", "sand", "snow", "dirt", "rock", "bush", "lake", "field", "street", "ground")
"""Further scenery, for a model that knows few words."""
ALIKE = (
    {"sky", "cloud"},
    {"tree", "wood", "forest", "pine", "fir", "palm", "plant", "bush", "shrub", "hedge"},
    {"grass", "lawn", "meadow", "field"},
    {"road", "street", "pavement", "highway", "asphalt"},
    {"sea", "ocean", "water", "river", "lake", "pond"},
    {"mountain", "hill", "peak"},
    {"sand", "beach", "dirt", "soil", "earth", "ground", "floor"},
    {"building", "house", "home", "tower", "skyscraper", "cottage"},
    {"rail", "railing", "fence"},
    {"stair", "staircase"},
    {"desk", "table"},
    {"lamp", "light"},
    {"shelf", "shelve", "bookshelf"},
    {"wardrobe", "closet", "cupboard"},
    {"curtain", "drape"},
    {"rock", "stone", "boulder"},
)
"""Words of which one stands for another: a background word would take pixels from a label of its group."""


def negatives(named: Iterable[str], *, known: Collection[str] | None = None) -> tuple[str, ...]:
    """Words to set beside the named ones, without these and their like; only `known` words where a model has few.

    >>> negatives(["red car", "lawn", "ocean"])[:6]
    ('sky', 'wall', 'tree', 'wood', 'road', 'mountain')
    """
    mine = {_noun(word) for word in named}
    taken = mine.union(*(group for group in ALIKE if group & mine))
    words = WORDS if known is None else [word for word in WORDS + MORE if _noun(word) in known]
    return tuple(word for word in words if _noun(word) not in taken)


def without(words: Iterable[str], named: Iterable[str]) -> tuple[str, ...]:
    """A user's own background words without those that are labels."""
    mine = {word.lower() for word in named}
    return tuple(word for word in words if word.lower() not in mine)


def _noun(phrase: str) -> str:
    """The last word, in the singular as far as an s tells (not of grass or bus): in English what a phrase is about."""
    return re.sub("(?<=[^su])s$", "", phrase.lower().split()[-1])
