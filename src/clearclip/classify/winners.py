"""The winning query of every pixel without a look at every query there: exact, in bounded memory. No model library.

Between neighbouring knots (`windows.Upsampling`) every query's logits are bilinear, and so is the difference of two
queries. In a box of four knots therefore

- a query that wins at all four corners wins everywhere in the box;
- a query that some other one equals or beats at all four corners wins nowhere in it.

Only the queries that remain are interpolated at the box's pixels. For the softmax's denominator a block of boxes
leaves out the queries whose sum is below the rounding of what is left. What is *done* with winners and scores is not
here: see `masks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clearclip.encode.windows import LONGEST, Upsampling

CORNERS = 1 << 20
"""Cosines at knots that are held at once."""
PIXELS = 1 << 18
"""Logits at pixels that are held at once on a CPU: they should fit its cache."""
BLOCK = 10
"""Boxes on a side of the blocks in which the softmax's denominator leaves queries out."""
ROUNDING = math.log(2.0**25)


@dataclass(frozen=True)
class _Span:
    """Some neighbouring intervals between knots of one axis.

    Attributes:
        pixels: Which pixels of the output they cover.
        matrix: `(knots, cells)`, from the few cells they depend on to their knots.
        cells: Those cells.
        starts: `(intervals,)` first pixel of each, counted from the span's first.
        sizes: `(intervals,)` pixels of each.
        lengths: `(intervals,)` distance of its two knots, at least 1.
    """

    pixels: slice
    matrix: Tensor
    cells: Tensor
    starts: Tensor
    sizes: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, axis: Upsampling, first: int, last: int, *, device: torch.device) -> _Span:
        """The intervals from `first` up to `last`, which is not among them."""
        knots = axis.knots[first : last + 1]
        lengths = knots.diff()
        sizes = lengths.clone()
        if last == len(axis.knots) - 1:
            sizes[-1] += 1
        rows = axis.matrix[knots]
        cells = rows.any(dim=0).nonzero()[:, 0]
        start = int(knots[0])
        return cls(
            slice(start, start + int(sizes.sum())),
            rows[:, cells].to(device),
            cells.to(device),
            (knots[:-1] - start).to(device),
            sizes.to(device),
            lengths.clamp_(min=1).to(device),
        )

    def second(self) -> Tensor:
        """`(intervals,)` which knot ends each; an interval of one pixel needs none but its first."""
        first = torch.arange(len(self.sizes), device=self.sizes.device)
        return first + (self.sizes > 1)

    def taps(self) -> tuple[Tensor, Tensor]:
        """Of every pixel its interval and how far into it the pixel lies, 0–1."""
        interval = torch.repeat_interleave(self.sizes)
        offset = torch.arange(len(interval), device=interval.device) - self.starts[interval]
        return interval, offset / self.lengths[interval]

    def from_knots(self, first: int, last: int) -> Tensor:
        """`(pixels, knots)` of the intervals from `first` up to `last`: the interpolation from their own knots."""
        interval, weight = self.taps()
        chosen = (interval >= first) & (interval < last)
        near, weight = interval[chosen] - first, weight[chosen, None]
        matrix = torch.zeros(len(near), last - first + 1, device=weight.device)
        matrix.scatter_(1, near[:, None], 1 - weight)
        return matrix.scatter_add_(1, near[:, None] + 1, weight)


@dataclass(frozen=True)
class Tile:
    """A part of the output with the cosines at its knots.

    Attributes:
        y: Its intervals downwards.
        x: Its intervals to the right.
        corners: `(knots of y, knots of x, Q)` float32.
    """

    y: _Span
    x: _Span
    corners: Tensor

    @property
    def rows(self) -> slice:
        """Rows of the output."""
        return self.y.pixels

    @property
    def columns(self) -> slice:
        """Columns of the output."""
        return self.x.pixels

    def winners(self) -> tuple[Tensor, Tensor]:
        """The best query of every pixel.

        Returns:
            Indices `(h, w)` int64, and their cosines `(h, w)`.
        """
        boxes = self._boxes()
        best = self.corners.argmax(dim=-1).flatten()[boxes]
        owner = best[..., 0]
        flat = self.corners.flatten(0, 1)
        values = flat[boxes, owner[..., None]]
        (y, down), (x, right) = self.y.taps(), self.x.taps()
        index = owner[y][:, x]
        one, two, three, four = (corner[y][:, x] for corner in values.unbind(-1))
        upper, lower = torch.lerp(one, two, right), torch.lerp(three, four, right)
        value = torch.lerp(upper, lower, down[:, None])
        open_boxes = (best != owner[..., None]).any(dim=-1).nonzero()
        at_once = max(1, CORNERS // max(4 * flat.shape[1], LONGEST**2))
        for chunk in open_boxes.split(at_once) if len(open_boxes) else ():
            place = tuple(chunk.T)
            corners = flat.index_select(0, boxes[place].flatten()).unflatten(0, (-1, 4))
            self._settle(chunk, corners, best[place], index, value)
        return index, value

    def _boxes(self) -> Tensor:
        """`(intervals of y, intervals of x, 4)`: each box's corners among the flattened knots."""
        width = self.corners.shape[1]
        device = self.corners.device
        top, left = (torch.arange(len(span.sizes), device=device) for span in (self.y, self.x))
        bottom, right = self.y.second(), self.x.second()
        pairs = [(top, left), (top, right), (bottom, left), (bottom, right)]
        return torch.stack([row[:, None] * width + column for row, column in pairs], dim=-1)

    def _settle(self, boxes: Tensor, corners: Tensor, best: Tensor, index: Tensor, value: Tensor) -> None:
        """Write into `index` and `value` what wins in boxes whose corners have different winners.

        Args:
            boxes: `(n, 2)`, intervals of y and x.
            corners: `(n, 4, Q)`.
            best: `(n, 4)`, the winners at the corners.
            index: `(h, w)`, written.
            value: `(h, w)`, written.
        """
        alive = torch.ones_like(corners[:, 0], dtype=torch.bool)
        for winner in best.unbind(1):
            rival = corners.gather(2, winner[:, None, None].expand(-1, 4, 1))
            beats = corners[:, 0] > rival[:, 0]
            for corner in range(1, 4):
                beats |= corners[:, corner] > rival[:, corner]
            alive &= beats
        alive.scatter_(1, best, True)
        counts = alive.sum(dim=1)
        candidates = alive.nonzero()[:, 1]
        first = counts.cumsum(0) - counts
        heights, widths = self.y.sizes[boxes[:, 0]], self.x.sizes[boxes[:, 1]]
        for group in _alike(heights, widths, counts):
            chosen, most = boxes[group], int(counts[group[0]])
            rank = torch.arange(most, device=group.device).minimum(counts[group, None] - 1)
            queries = candidates[first[group, None] + rank]
            height, width = int(heights[group[0]]), int(widths[group[0]])
            rows = torch.arange(height, device=group.device)
            columns = torch.arange(width, device=group.device)
            down = (rows / self.y.lengths[chosen[:, :1]])[:, :, None]
            right = (columns / self.x.lengths[chosen[:, 1:]])[:, None]
            shares = ((1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right)
            weights = torch.stack([share.flatten(1) for share in shares], dim=2)
            own = corners.index_select(0, group).gather(2, queries[:, None].expand(-1, 4, -1))
            cosines, winner = (weights @ own).max(dim=2)
            y = (self.y.starts[chosen[:, :1]] + rows)[:, :, None]
            x = (self.x.starts[chosen[:, 1:]] + columns)[:, None]
            index[y, x] = queries.gather(1, winner).unflatten(1, (height, width))
            value[y, x] = cosines.unflatten(1, (height, width))

    def denominator(self, value: Tensor, logit_scale: float) -> Tensor:
        """`Σ exp(logit_scale · (cosine - best))` over all queries, at every pixel; its inverse is the best probability.

        Args:
            value: Cosines of the winners, `(h, w)`.
            logit_scale: Factor on the cosines.

        Returns:
            `(h, w)`, at least 1.
        """
        total = torch.empty_like(value)
        margin = (ROUNDING + math.log(self.corners.shape[2])) / logit_scale
        for y in range(0, len(self.y.sizes), BLOCK):
            y_end = min(y + BLOCK, len(self.y.sizes))
            down = self.y.from_knots(y, y_end)
            top = int(self.y.starts[y])
            for x in range(0, len(self.x.sizes), BLOCK):
                x_end = min(x + BLOCK, len(self.x.sizes))
                right = self.x.from_knots(x, x_end)
                left = int(self.x.starts[x])
                part = (slice(top, top + len(down)), slice(left, left + len(right)))
                corners = self.corners[y : y_end + 1, x : x_end + 1]
                kept = (corners.amax(dim=(0, 1)) >= value[part].min() - margin).nonzero()[:, 0]
                scaled = corners[..., kept].mul_(logit_scale)
                total[part] = _sum_of_exponentials(scaled, down, right, value[part] * logit_scale)
        return total.clamp_(min=1)  # the winner itself counts 1

    def cosines(self, queries: Tensor) -> Tensor:
        """Cosines of a few queries at every pixel.

        Args:
            queries: Indices.

        Returns:
            `(h, w, len(queries))`.
        """
        down, right = (span.from_knots(0, len(span.sizes)) for span in (self.y, self.x))
        upsampled: Tensor = right @ torch.tensordot(down, self.corners[..., queries], dims=1)
        return upsampled


def _alike(heights: Tensor, widths: Tensor, counts: Tensor) -> Iterator[Tensor]:
    """Boxes in groups of one size, by the number of candidates: in each group the box with most comes first.

    Args:
        heights: `(n,)` pixels.
        widths: `(n,)` pixels.
        counts: `(n,)` candidates, at least 1.

    Yields:
        Indices; a group has at most `PIXELS` pixels times candidates, or one box.
    """
    order = ((heights * (LONGEST + 1) + widths) * (int(counts.max()) + 1) + counts).argsort(descending=True)
    shapes = torch.stack([heights, widths, counts])[:, order].T.tolist()
    start = 0
    for place, (height, width, _) in enumerate(shapes):
        tall, wide, most = shapes[start]
        full = (place + 1 - start) * tall * wide * most > PIXELS
        if place > start and (full or (height, width) != (tall, wide)):
            yield order[start:place]
            start = place
    if shapes:
        yield order[start:]


def _sum_of_exponentials(corners: Tensor, down: Tensor, right: Tensor, best: Tensor) -> Tensor:
    """Over the last axis of `(knots_y, knots_x, q)`, upsampled to `(h, w, q)` some rows at a time."""
    rows = torch.tensordot(down, corners, dims=1)
    at_once = max(1, PIXELS // (len(right) * corners.shape[2])) if rows.device.type == "cpu" else len(rows)
    parts = [
        (right @ some).sub_(level[..., None]).exp_().sum(dim=-1)
        for some, level in zip(rows.split(at_once), best.split(at_once), strict=True)
    ]
    return torch.cat(parts)


def tiles(cells: Tensor, y: Upsampling, x: Upsampling) -> Iterator[Tile]:
    """The output in tiles of bounded size.

    Args:
        cells: Cosines, `(cells_y, cells_x, Q)`.
        y: The way from the first axis to output rows.
        x: The way from the second axis to output columns.

    Yields:
        Tiles, row by row.
    """
    points = max(16, CORNERS // cells.shape[2])
    across = max(2, min(len(x.knots) - 1, math.isqrt(points)))
    along = max(2, min(len(y.knots) - 1, points // across))
    columns = [
        _Span.of(x, start, min(start + across, len(x.knots) - 1), device=cells.device)
        for start in range(0, len(x.knots) - 1, across)
    ]
    for start in range(0, len(y.knots) - 1, along):
        rows = _Span.of(y, start, min(start + along, len(y.knots) - 1), device=cells.device)
        strip = torch.tensordot(rows.matrix, cells[rows.cells], dims=1)
        for column in columns:
            yield Tile(rows, column, column.matrix @ strip[:, column.cells])
