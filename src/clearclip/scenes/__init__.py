"""A procedural world: pictures with pixel-exact labels and captions, made from a seed.

The package itself needs numpy and Pillow only; `train` and `score` beside it load torch.
"""

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
