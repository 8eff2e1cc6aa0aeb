"""The paper on demand: its tables and figures as functions that return numbers and matplotlib figures.

Importing this package loads neither torch nor matplotlib; its names load their modules when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearclip.inspection.features import Inspection, Statistics, inspect_image
    from clearclip.inspection.maps import draw_channel_means, draw_feature_maps, draw_statistics
    from clearclip.inspection.sheets import SheetRow, draw_sheet
    from clearclip.paper.figure1 import draw_figure1
    from clearclip.paper.measure import Lab
    from clearclip.paper.models import Model, parse_models
    from clearclip.paper.reproduce import Request, reproduce
    from clearclip.paper.rows import TARGETS, Target, kept_channels
    from clearclip.paper.table1 import draw_table1
    from clearclip.paper.table2 import draw_table2

_HOMES = {
    "inspection.features": ("Inspection", "Statistics", "inspect_image"),
    "paper.figure1": ("draw_figure1",),
    "inspection.maps": ("draw_channel_means", "draw_feature_maps", "draw_statistics"),
    "paper.measure": ("Lab",),
    "paper.models": ("Model", "parse_models"),
    "paper.reproduce": ("Request", "reproduce"),
    "paper.rows": ("TARGETS", "Target", "kept_channels"),
    "inspection.sheets": ("SheetRow", "draw_sheet"),
    "paper.table1": ("draw_table1",),
    "paper.table2": ("draw_table2",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "TARGETS",
    "Inspection",
    "Lab",
    "Model",
    "Request",
    "SheetRow",
    "Statistics",
    "Target",
    "draw_channel_means",
    "draw_feature_maps",
    "draw_figure1",
    "draw_sheet",
    "draw_statistics",
    "draw_table1",
    "draw_table2",
    "inspect_image",
    "kept_channels",
    "parse_models",
    "reproduce",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"clearclip.{_HOME_OF[name]}"), name)
