"""Blocks of the output with the few queries that matter in them: exact, in bounded memory.

Between neighbouring knots (`windows.Upsampling`) every query's cosines are bilinear, so in a block of such intervals a
query lies between its lowest and its highest knot. One whose highest knot is below another's lowest wins nowhere in the
block; one that is below it by a margin adds nothing to the softmax's denominator that float32 could tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clearclip.encode.windows import Upsampling

PIXELS = 1 << 18
"""Cosines at pixels that are held at once on a CPU: they should fit its cache."""
ROUNDING = math.log(2.0**25)


def intervals_of_a_block(queries: int) -> int:
    """Along a side: the more queries there are, the smaller is a block in which few can win."""
    return max(4, round(96 / math.sqrt(queries)))


@dataclass(frozen=True)
class _Span:
    """Some neighbouring intervals of one axis.

    Attributes:
        pixels: Which of the output they cover.
        cells: On which cells their knots depend.
        to_knots: `(knots, len(cells))`.
        to_pixels: `(pixels, knots)`, the interpolation.
    """

    pixels: slice
    cells: Tensor
    to_knots: Tensor
    to_pixels: Tensor

    @classmethod
    def all(cls, axis: Upsampling, intervals: int, *, device: torch.device) -> list[_Span]:
        """The axis in spans of so many intervals."""
        last = len(axis.knots) - 1
        return [cls._of(axis, first, min(first + intervals, last), device) for first in range(0, last, intervals)]

    @classmethod
    def _of(cls, axis: Upsampling, first: int, end: int, device: torch.device) -> _Span:
        knots = axis.knots[first : end + 1]
        start, stop = int(knots[0]), int(knots[-1]) + (end == len(axis.knots) - 1)
        pixels = torch.arange(start, stop)
        interval = (torch.searchsorted(knots, pixels, right=True) - 1).clamp_(max=len(knots) - 2)[:, None]
        weight = (pixels[:, None] - knots[interval]) / knots.diff().clamp_(min=1)[interval]
        to_pixels = torch.zeros(len(pixels), len(knots)).scatter_(1, interval, 1 - weight)
        rows = axis.matrix[knots]
        cells = rows.any(dim=0).nonzero()[:, 0]
        return cls(
            slice(start, stop),
            cells.to(device),
            rows[:, cells].to(device),
            to_pixels.scatter_add_(1, interval + 1, weight).to(device),
        )


@dataclass(frozen=True)
class Block:
    """A part of the output with the cosines at its knots, `(knots of y, knots of x, Q)`."""

    y: _Span
    x: _Span
    knots: Tensor

    def that_matter(self, margin: float) -> Tensor:
        """The queries that can come within a margin of the best one at any pixel, at least one."""
        lowest, highest = self.knots.amin(dim=(0, 1)), self.knots.amax(dim=(0, 1))
        return (highest >= lowest.max() - margin).nonzero()[:, 0]

    def cosines(self, queries: Tensor) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        """Places in the output with the queries' cosines there, `(h, w, len(queries))`, some rows at a time."""
        few = self.knots[..., queries] if len(queries) < self.knots.shape[-1] else self.knots
        rows, right = torch.tensordot(self.y.to_pixels, few, dims=1), self.x.to_pixels
        at_once = max(1, PIXELS // (len(right) * len(queries))) if few.device.type == "cpu" else len(rows)
        for start in range(0, len(rows), at_once):
            found = right @ rows[start : start + at_once]
            top = self.y.pixels.start + start
            yield (slice(top, top + len(found)), self.x.pixels), found


def blocks(cells: Tensor, y: Upsampling, x: Upsampling) -> Iterator[Block]:
    """The output in blocks, row by row, from cosines `(cells of y, cells of x, Q)`."""
    intervals = intervals_of_a_block(cells.shape[2])
    across = _Span.all(x, intervals, device=cells.device)
    for down in _Span.all(y, intervals, device=cells.device):
        strip = torch.tensordot(down.to_knots, cells[down.cells], dims=1)
        for span in across:
            yield Block(down, span, span.to_knots @ strip[:, span.cells])


def margin(queries: int, logit_scale: float) -> float:
    """How far below the best a query may lie and still count in the denominator: all others add less than rounding."""
    return (ROUNDING + math.log(queries)) / logit_scale
