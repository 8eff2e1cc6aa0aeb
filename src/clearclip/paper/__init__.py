"""The paper on demand: its tables and figures as functions that return numbers and matplotlib figures.

Importing this package loads neither torch nor matplotlib; its names load their modules when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearclip.paper.features import Inspection, Statistics, inspect_image
    from clearclip.paper.figure1 import draw_figure1
    from clearclip.paper.figure2 import draw_channel_means, draw_feature_maps, draw_statistics
    from clearclip.paper.measure import Lab
    from clearclip.paper.models import Model, parse_models
    from clearclip.paper.reproduce import Request, reproduce
    from clearclip.paper.rows import TARGETS, Target, kept_channels
    from clearclip.paper.sheets import SheetRow, draw_sheet
    from clearclip.paper.table1 import draw_table1
    from clearclip.paper.table2 import draw_table2

_HOMES = {
    "features": ("Inspection", "Statistics", "inspect_image"),
    "figure1": ("draw_figure1",),
    "figure2": ("draw_channel_means", "draw_feature_maps", "draw_statistics"),
    "measure": ("Lab",),
    "models": ("Model", "parse_models"),
    "reproduce": ("Request", "reproduce"),
    "rows": ("TARGETS", "Target", "kept_channels"),
    "sheets": ("SheetRow", "draw_sheet"),
    "table1": ("draw_table1",),
    "table2": ("draw_table2",),
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
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
