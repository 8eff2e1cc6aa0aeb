"""Features of windows → one grid of features per image, for rows that compare features only after that.

A stage of such a row is a small function under `@stitched`. It sees the image's features before the backbone's head,
as Trident and RADSeg need them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clearclip import methods
from clearclip.backbones import Backbone
from clearclip.encode.windows import Axis, Plan

Function = Callable[[Tensor, Backbone], Tensor]
"""From features `(GH, GW, C)` to features of the same shape."""


@dataclass(frozen=True)
class Stage:
    """A function with its reach: how many cells away it looks, or `None` if every cell may depend on every other."""

    function: Function
    halo: int | None


STAGES: dict[str, Stage] = {"mean": Stage(lambda features, backbone: features, 0)}


def stitched(name: str, *, halo: int | None) -> Callable[[Function], Function]:
    """Register a stage under a name, which the axis `stitched` then accepts."""

    def register(function: Function) -> Function:
        STAGES[name] = Stage(function, halo)
        methods.add_name("stitched", name)
        return function

    return register


def stitched_plan(plan: Plan) -> Plan:
    """The image's own grid as one window: as many cells as whole patches fit, stretched over the image."""
    return Plan(_whole(plan.y), _whole(plan.x))


def _whole(axis: Axis) -> Axis:
    patch_size = axis.encoded // axis.cells
    cells = max(1, axis.length // patch_size)
    return Axis(axis.length, axis.length, (0,), cells * patch_size, "drop", 0, cells)


def places(axis: Axis) -> Tensor:
    """`(windows, cells)`: the cell of the image's grid in which the middle of each window's cell lies."""
    whole = _whole(axis)
    pixels = (axis.encoded if axis.fit == "pad" else axis.window) / axis.cells
    middles = (torch.arange(axis.cells, dtype=torch.float64) + 0.5) * pixels - axis.padding
    starts = torch.tensor(axis.starts, dtype=torch.float64)
    cells = (starts[:, None] + middles) * (whole.cells / axis.length)
    return cells.floor().long().clamp_(0, whole.cells - 1)


def stitch(features: Tensor, *, y: Tensor, x: Tensor, rows: range, columns: int) -> Tensor:
    """The mean over windows of the features in each cell, `(len(rows), columns, C)`.

    `features` is `(ny, gh, nx, gw, C)`, `y` and `x` are the windows' `places`; `rows` are rows of the image's grid.
    """
    along_x = torch.zeros(len(y.flatten()), columns, features.shape[-1], device=features.device)
    along_x.index_add_(1, x.flatten().to(features.device), features.flatten(2, 3).flatten(0, 1))
    wanted = (y.flatten() >= rows.start) & (y.flatten() < rows.stop)
    own = (y.flatten()[wanted] - rows.start).to(features.device)
    total = torch.zeros(len(rows), columns, features.shape[-1], device=features.device)
    total.index_add_(0, own, along_x[wanted.to(features.device)])
    down, across = torch.bincount(own, minlength=len(rows)), torch.bincount(x.flatten(), minlength=columns)
    return total / torch.outer(down, across.to(own))[..., None]
