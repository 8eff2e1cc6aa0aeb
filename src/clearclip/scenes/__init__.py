"""A procedural world: pictures with pixel-exact labels and captions, made from a seed with numpy and Pillow alone."""

from .canvas import Object
from .classes import CLASSES, COLOURED, COLOURS, HELD_OUT, OTHER_WORDS, PALETTE, PARTS, STUFF, THINGS
from .generate import SPLITS, Scene, Split, make_scene, visible_phrases

__all__ = [
    "CLASSES",
    "COLOURED",
    "COLOURS",
    "HELD_OUT",
    "OTHER_WORDS",
    "PALETTE",
    "PARTS",
    "SPLITS",
    "STUFF",
    "THINGS",
    "Object",
    "Scene",
    "Split",
    "make_scene",
    "visible_phrases",
]
