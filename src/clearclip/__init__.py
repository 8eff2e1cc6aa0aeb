"""Label every pixel of an image with your own words, without training anything.

The names below load their modules when they are first used, so that `import clearclip` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from clearclip.backbones import Backbone, load_backbone, view
    from clearclip.decompose import Parts, dense_features
    from clearclip.encode.encoding import Encoded
    from clearclip.encode.images import load_image
    from clearclip.errors import (
        CheckpointError,
        ClearclipError,
        ImageError,
        UnsupportedModelError,
        UsageError,
    )
    from clearclip.methods import METHODS, Method, parse_method, parse_methods
    from clearclip.protocol import PROTOCOLS, Protocol
    from clearclip.segmentation import Segmentation
    from clearclip.segmenter import Segmenter, load
    from clearclip.vocabulary import Label, Vocabulary

_HOMES = {
    "clearclip.backbones": ("Backbone", "load_backbone", "view"),
    "clearclip.decompose": ("Parts", "dense_features"),
    "clearclip.errors": (
        "CheckpointError",
        "ClearclipError",
        "ImageError",
        "UnsupportedModelError",
        "UsageError",
    ),
    "clearclip.encode.images": ("load_image",),
    "clearclip.methods": ("METHODS", "Method", "parse_method", "parse_methods"),
    "clearclip.protocol": ("PROTOCOLS", "Protocol"),
    "clearclip.segmentation": ("Segmentation",),
    "clearclip.encode.encoding": ("Encoded",),
    "clearclip.segmenter": ("Segmenter", "load"),
    "clearclip.vocabulary": ("Label", "Vocabulary"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "METHODS",
    "PROTOCOLS",
    "Backbone",
    "CheckpointError",
    "ClearclipError",
    "Encoded",
    "ImageError",
    "Label",
    "Method",
    "Parts",
    "Protocol",
    "Segmentation",
    "Segmenter",
    "UnsupportedModelError",
    "UsageError",
    "Vocabulary",
    "__version__",
    "dense_features",
    "load",
    "load_backbone",
    "load_image",
    "parse_method",
    "parse_methods",
    "view",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'clearclip' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
