"""A procedural world: pictures with pixel-exact labels and captions, made from a seed with numpy and Pillow alone."""

from .canvas import Object
from .classes import CLASSES, COLOURED, COLOURS, HELD_OUT, PALETTE, STUFF, THINGS
from .generate import SPLITS, Scene, Split, make_scene, visible_phrases

__all__ = [
    "CLASSES",
    "COLOURED",
    "COLOURS",
    "HELD_OUT",
    "PALETTE",
    "SPLITS",
    "STUFF",
    "THINGS",
    "Object",
    "Scene",
    "Split",
    "make_scene",
    "visible_phrases",
]
