"""Sharper edges: an image's logits refined by its pixels, by NACLIP's PAMR or PEARL's text-aware propagation.

A refinement takes the image's grid and answers with another one, from which pixels are labelled as ever. From the
mathematics of PAMR (Araslanov and Roth, CVPR 2020) and of PEARL's propagation (2026).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip.backbones.devices import inference
from clearclip.classify.grid import LogitGrid
from clearclip.classify.winners import Block
from clearclip.encode.windows import Axis, Plan
from clearclip.methods import Method

PIXELS = 1 << 22
"""Logits at pixels that PAMR holds at once."""
LEAST_CONFIDENCE, EDGE, AFFINITY, OWN = 0.05, 5.0, 0.5, 10.0
"""Of the propagation: the lowest confidence, the slope at edges, the temperature between words and a word's own."""


def refine(grid: LogitGrid, row: Method, *, guide: Tensor, text: Tensor) -> LogitGrid:
    """The grid as the row refines it; guide is the resized and normalised image `(3, h, w)`, text `(Q, E)`."""
    kind, numbers = row.refinement
    if kind == "none":
        return grid
    guide = guide.to(grid.cosines.device)
    if kind == "pamr":
        own = (grid.cosines, grid.plan, grid.size, grid.filtered)
        return PamrGrid(*own, guide=guide, steps=numbers[0], dilations=numbers[1:])
    found = propagated(grid, guide, text, cells=numbers[0], steps=numbers[1])
    return replace(found, filtered=grid.filtered)


def reach(row: Method) -> int | None:
    """How many pixels away the row's refinement looks; `None`: at the whole image."""
    kind, numbers = row.refinement
    if kind == "pamr":
        return (numbers[0] + 1) * max(numbers[1:])  # a step for each spread, and one for the weights
    return 0 if kind == "none" else None


def at_size(guide: Tensor, size: tuple[int, int]) -> Tensor:
    """The guide `(3, h, w)` at the size of the label map."""
    resized: Tensor = F.interpolate(guide[None], size=size, mode="bilinear", align_corners=False)
    return resized[0]


@inference
def pamr(image: Tensor, logits: Tensor, *, steps: int, dilations: Sequence[int]) -> Tensor:
    """Logits `(Q, H, W)` spread to neighbours of like colour in an image `(C, H, W)`, several times.

    >>> flat, half = torch.zeros(3, 1, 4), torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    >>> pamr(flat, half, steps=1, dilations=[1]).tolist()
    [[[0.0, 0.375, 0.625, 1.0]]]

    Each step takes the weighted mean of the eight pixels at each of the dilations, in pixels, not the pixel itself;
    beyond the border counts the nearest pixel. Logits of another size are resized bilinearly first, corner to corner.
    """
    if logits.shape[1:] != image.shape[1:]:
        logits = F.interpolate(logits[None], size=image.shape[1:], mode="bilinear", align_corners=True)[0]
    return _spread(logits, pamr_weights(image, dilations), steps, dilations)


def _spread(logits: Tensor, weights: Tensor, steps: int, dilations: Sequence[int]) -> Tensor:
    for _ in range(steps):
        total = torch.zeros_like(logits)
        for weight, moved in zip(weights, _neighbours(logits, dilations), strict=True):
            total.addcmul_(weight, moved)
        logits = total
    return logits


def _neighbours(image: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """The image `(C, H, W)` moved by each dilation in eight directions."""
    height, width = image.shape[1:]
    for step in dilations:
        padded = F.pad(image[None], (step, step, step, step), mode="replicate")[0]
        for y in (0, step, 2 * step):
            for x in (0, step, 2 * step):
                if (y, x) != (step, step):
                    yield padded[:, y : y + height, x : x + width]


def local_deviation(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Deviation of each channel over a pixel's neighbours and itself, once for each dilation; divisor n - 1."""
    count, own = 9 * len(dilations), len(dilations)
    mean = own * image
    for moved in _neighbours(image, dilations):
        mean = mean + moved
    mean = mean / count
    total = own * (image - mean).square()
    for moved in _neighbours(image, dilations):
        total = total + (moved - mean).square()
    return (total / (count - 1)).sqrt()


def pamr_weights(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """How much each neighbour counts at each pixel, `(8 · dilations, H, W)`; they sum to 1."""
    narrow = 1e-8 + 0.1 * local_deviation(image, dilations)
    alike = [-((image - moved).abs() / narrow).mean(dim=0) for moved in _neighbours(image, dilations)]
    return torch.stack(alike).softmax(dim=0)


@dataclass(frozen=True, kw_only=True)
class PamrGrid(LogitGrid):
    """A grid whose full-size logits are refined: a few queries at a time, with a running maximum and denominator.

    Attributes:
        guide: The resized and normalised image, `(3, h, w)`.
        steps: How often logits are spread.
        dilations: In pixels of the label map.
    """

    guide: Tensor
    steps: int
    dilations: tuple[int, ...]

    def blocks(self) -> Iterator[Block]:
        """Refused: between knots these logits are not bilinear."""
        raise NotImplementedError("refined logits are not bilinear between knots: use best, probability or logits")

    def _chunks(self, wanted: Sequence[int], y: slice, x: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """Some of the wanted queries, and their refined logits in a part of the image."""
        rows, columns = (way.matrix.to(self.cosines.device) for way in self._upsampling)
        rows, columns = rows[y], columns[x]
        weights = pamr_weights(at_size(self.guide, self.size)[:, y, x], self.dilations)
        at_once = max(1, PIXELS // (len(rows) * len(columns)))
        for chunk in torch.tensor(list(wanted), device=self.cosines.device).split(at_once):
            yield chunk, _spread(rows @ self.cosines[chunk] @ columns.T, weights, self.steps, self.dilations)

    def _everywhere(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        return self._chunks(range(len(self.cosines)) if wanted is None else wanted, slice(None), slice(None))

    @inference
    def logits(self) -> Tensor:
        """`(Q, H, W)` float32 at full size."""
        return torch.cat([logits for _, logits in self._everywhere()])

    def _running(self, logit_scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Each pixel's winner, its logit, and the sum of all probabilities relative to it."""
        winners = torch.zeros(self.size, dtype=torch.int64, device=self.cosines.device)
        value = torch.full(self.size, -torch.inf, device=self.cosines.device)
        total = torch.zeros(self.size, device=self.cosines.device)
        for chunk, logits in self._everywhere():
            top, index = logits.max(dim=0)
            winners = torch.where(top > value, chunk[index], winners)
            now = top.maximum(value)
            total = total * (logit_scale * (value - now)).exp() + (logit_scale * (logits - now)).exp().sum(dim=0)
            value = now
        return winners, value, total

    @inference
    def best(
        self, *, logit_scale: float, scores: bool = True, among: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `LogitGrid.best`."""
        if among is not None and len(among) < len(self.cosines):
            return super().best(logit_scale=logit_scale, scores=scores, among=among)
        winners, _, total = self._running(logit_scale)
        return winners, total.reciprocal() if scores else None

    @inference
    def normalizer(self, *, logit_scale: float) -> Tensor:
        """As `LogitGrid.normalizer`."""
        _, value, total = self._running(logit_scale)
        return logit_scale * value + total.log()

    @inference
    def probability(self, queries: Sequence[int], *, logit_scale: float, normalizer: Tensor | None = None) -> Tensor:
        """As `LogitGrid.probability`."""
        if not queries:
            return torch.zeros(self.size, device=self.cosines.device)
        if normalizer is None:
            normalizer = self.normalizer(logit_scale=logit_scale)
        best = torch.full(self.size, -torch.inf, device=self.cosines.device)
        for _, logits in self._everywhere(queries):
            best = best.maximum(logits.amax(dim=0))
        return (logit_scale * best - normalizer).exp()

    @inference
    def values_at(self, y: int, x: int) -> Tensor:
        """As `LogitGrid.values_at`, from the part of the image that the pixel depends on."""
        far = (self.steps + 1) * max(self.dilations)
        top, left = max(0, y - far), max(0, x - far)
        part = self._chunks(range(len(self.cosines)), slice(top, y + far + 1), slice(left, x + far + 1))
        return torch.cat([logits[:, y - top, x - left] for _, logits in part])


@inference
def propagated(grid: LogitGrid, guide: Tensor, text: Tensor, *, cells: int, steps: int) -> LogitGrid:
    """PEARL's text-aware propagation (5.2): logits on about `cells` × `cells` cells, smoothed but for edges."""
    height, width = grid.size
    tall, wide = max(1, round(height / cells)), max(1, round(width / cells))
    rows, columns = (
        _cell_means(way.matrix.to(grid.cosines.device), side)
        for way, side in zip((grid.plan.y.upsampling(height), grid.plan.x.upsampling(width)), (tall, wide), strict=True)
    )
    logits = rows @ grid.cosines @ columns.T
    image = F.avg_pool2d(at_size(guide, grid.size)[None], (tall, wide))[0]
    found = propagate(logits, image, own_affinity(text), steps=steps)
    y, x = (
        Axis(length, length, (0,), count, "drop", 0, count)
        for length, count in zip(grid.size, found.shape[1:], strict=True)
    )
    in_memory = found.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return LogitGrid(in_memory, Plan(y, x), grid.size)


def _cell_means(matrix: Tensor, side: int) -> Tensor:
    """Rows of a matrix averaged by cells of so many; what is left at the end is dropped."""
    whole: Tensor = matrix[: len(matrix) // side * side].unflatten(0, (-1, side))
    return whole.mean(dim=1)


def own_affinity(text: Tensor) -> Tensor:
    """How much each word agrees with itself, `(Q,)`: of the affinities between words the method uses no others."""
    unit = F.normalize(text, dim=-1)
    own = (unit @ unit.T / AFFINITY).softmax(dim=-1).diagonal()
    return (own + OWN) / (1 + OWN + 1e-6)


def edge_weights(grey: Tensor, probabilities: Tensor, affinity: Tensor, *, dim: int) -> Tensor:
    """How much neighbours along a side of the image share, in 0–1: `grey` `(h, w)`, `probabilities` `(Q, h, w)`."""
    count = grey.shape[dim]
    difference = grey.diff(dim=dim).abs()
    difference = difference / (difference.mean() + 1e-6)
    here, there = (probabilities.narrow(dim + 1, start, count - 1) for start in (0, 1))
    together: Tensor = torch.einsum("q,qhw,qhw->hw", affinity, here, there).clamp(0, 1)
    return ((-EDGE * difference).exp() * (1 + together)).clamp(0, 1)


def agreement(probabilities: Tensor, affinity: Tensor) -> Tensor:
    """How sure a cell is of its words, in 0–1, `(h, w)`."""
    agreed: Tensor = torch.einsum("q,qhw->hw", affinity, probabilities.square())
    return agreed.clamp(0, 1)


def propagate(logits: Tensor, image: Tensor, affinity: Tensor, *, steps: int) -> Tensor:
    """Logits `(Q, h, w)` after some conjugate-gradient steps, by an image `(3, h, w)` (5.2, 2–6).

    So many steps are no convergence: they are part of the method.
    """
    probabilities = logits.softmax(dim=0)
    confidence = probabilities.amax(dim=0).clamp(min=LEAST_CONFIDENCE)
    data = confidence.square() * (1 + agreement(probabilities, affinity))
    grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    down = edge_weights(grey, probabilities, affinity, dim=0)
    right = edge_weights(grey, probabilities, affinity, dim=1)

    def apply(f: Tensor) -> Tensor:
        result = data * f
        flow = down * f.diff(dim=1)
        result[:, :-1] -= flow
        result[:, 1:] += flow
        flow = right * f.diff(dim=2)
        result[:, :, :-1] -= flow
        result[:, :, 1:] += flow
        return result

    found = logits.clone()
    rest = data * logits - apply(found)
    direction, size = rest, rest.square().sum()
    for _ in range(steps):
        applied = apply(direction)
        length = size / ((direction * applied).sum() + 1e-12)
        found, rest = found + length * direction, rest - length * applied
        before, size = size, rest.square().sum()
        direction = rest + size / (before + 1e-12) * direction
    return found
