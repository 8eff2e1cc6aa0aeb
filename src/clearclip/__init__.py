"""Label every pixel of an image with your own words, without training anything.

The names below load their modules when they are first used, so that `import clearclip` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from clearclip.backbones import Backbone as Backbone
    from clearclip.backbones import load_backbone as load_backbone
    from clearclip.backbones import view as view
    from clearclip.classify.words import Words as Words
    from clearclip.decompose import Parts as Parts
    from clearclip.decompose import dense_features as dense_features
    from clearclip.encode.encoding import Encoded as Encoded
    from clearclip.encode.images import load_image as load_image
    from clearclip.engine.ray_pool import Fleet as Fleet
    from clearclip.engine.run import find_images as find_images
    from clearclip.engine.run import segment_files as segment_files
    from clearclip.engine.run import segment_on_ray as segment_on_ray
    from clearclip.engine.sources import Scan as Scan
    from clearclip.engine.sources import find_sources as find_sources
    from clearclip.engine.sources import scan as scan
    from clearclip.errors import CheckpointError as CheckpointError
    from clearclip.errors import ClearclipError as ClearclipError
    from clearclip.errors import ImageError as ImageError
    from clearclip.errors import UnsupportedModelError as UnsupportedModelError
    from clearclip.errors import UsageError as UsageError
    from clearclip.formats import Choices as Choices
    from clearclip.large.label import LargeResult as LargeResult
    from clearclip.large.label import segment_large as segment_large
    from clearclip.methods import METHODS as METHODS
    from clearclip.methods import Method as Method
    from clearclip.methods import parse_method as parse_method
    from clearclip.methods import parse_methods as parse_methods
    from clearclip.protocol import PROTOCOLS as PROTOCOLS
    from clearclip.protocol import Protocol as Protocol
    from clearclip.segmentation import Segmentation as Segmentation
    from clearclip.segmenter import Segmenter as Segmenter
    from clearclip.segmenter import load as load
    from clearclip.video.label import VideoResult as VideoResult
    from clearclip.video.label import segment_video as segment_video
    from clearclip.vocabulary import Label as Label
    from clearclip.vocabulary import Vocabulary as Vocabulary

_HOMES = {
    "backbones": ("Backbone", "load_backbone", "view"),
    "classify.words": ("Words",),
    "decompose": ("Parts", "dense_features"),
    "encode.encoding": ("Encoded",),
    "encode.images": ("load_image",),
    "engine.ray_pool": ("Fleet",),
    "engine.run": ("find_images", "segment_files", "segment_on_ray"),
    "engine.sources": ("Scan", "find_sources", "scan"),
    "errors": ("CheckpointError", "ClearclipError", "ImageError", "UnsupportedModelError", "UsageError"),
    "formats": ("Choices",),
    "large.label": ("LargeResult", "segment_large"),
    "methods": ("METHODS", "Method", "parse_method", "parse_methods"),
    "protocol": ("PROTOCOLS", "Protocol"),
    "segmentation": ("Segmentation",),
    "segmenter": ("Segmenter", "load"),
    "video.label": ("VideoResult", "segment_video"),
    "vocabulary": ("Label", "Vocabulary"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted((*_HOME_OF, "__version__"))


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'clearclip' has no attribute {name!r}")
    return getattr(importlib.import_module(f"clearclip.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
