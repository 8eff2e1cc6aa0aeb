"""Grids of cosines → full-size logits, winners and probabilities, block by block in bounded memory.

A full-size tensor of logits is made only where it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clearclip.backbones.devices import inference
from clearclip.classify.winners import Block, blocks, margin
from clearclip.encode.windows import Plan, Upsampling

if TYPE_CHECKING:
    from clearclip.classify.freecp import Filtered


@dataclass(frozen=True)
class LogitGrid:
    """The cosines of one image's patches with the queries, before upsampling.

    Attributes:
        cosines: `(Q, ny · gh, nx · gw)` float32: the windows' grids side by side; in memory the queries lie innermost.
        plan: The windows.
        size: `(height, width)` of the output.
        filtered: What a filter of windows made of each of them.
    """

    cosines: Tensor
    plan: Plan
    size: tuple[int, int]
    filtered: tuple[Filtered, ...] = ()

    @classmethod
    def empty(cls, count: int, *, plan: Plan, size: tuple[int, int], device: torch.device) -> LogitGrid:
        """A grid for so many queries, whose `windows` are still to be filled."""
        cells = (len(axis.starts) * axis.cells for axis in (plan.y, plan.x))
        return cls(torch.empty(*cells, count, device=device).permute(2, 0, 1), plan, size)

    @classmethod
    @inference
    def from_features(
        cls, features: Tensor, text_embeddings: Tensor, *, plan: Plan, size: tuple[int, int]
    ) -> LogitGrid:
        """Cosines of features `(count, gh, gw, E)` with embeddings `(Q, E)`, both of unit length."""
        grid = cls.empty(len(text_embeddings), plan=plan, size=size, device=text_embeddings.device)
        for window, place in zip(features, grid.windows(), strict=True):
            place.copy_(window @ text_embeddings.T)
        return grid

    def windows(self) -> Iterator[Tensor]:
        """Views `(gh, gw, Q)` of the cosines, window by window, row by row, to be read or written."""
        for rows in self.cosines.permute(1, 2, 0).split(self.plan.y.cells):
            yield from rows.split(self.plan.x.cells, dim=1)

    @property
    def _upsampling(self) -> tuple[Upsampling, Upsampling]:
        return self.plan.y.upsampling(self.size[0]), self.plan.x.upsampling(self.size[1])

    @inference
    def logits(self) -> Tensor:
        """`(Q, H, W)` float32 cosines at full size: alone here memory grows with queries times pixels."""
        rows, columns = (way.matrix.to(self.cosines.device) for way in self._upsampling)
        return rows @ self.cosines @ columns.T

    def blocks(self) -> Iterator[Block]:
        """The output in blocks, row by row."""
        return blocks(self.cosines.permute(1, 2, 0), *self._upsampling)

    def only(self, queries: Sequence[int]) -> LogitGrid:
        """The same cells with some of the queries."""
        return replace(self, cosines=self.cosines.permute(1, 2, 0)[..., list(queries)].permute(2, 0, 1))

    @inference
    def best(
        self, *, logit_scale: float, scores: bool = True, among: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The winning query of every pixel, and its probability among all queries (protocol, step 7).

        `(H, W)` int64 indices and, if they are wanted, `(H, W)` float32; only queries `among` some may win.
        """
        if among is not None and len(among) < len(self.cosines):
            own, _ = self.only(among).best(logit_scale=logit_scale, scores=False)
            winners = torch.tensor(list(among), device=own.device)[own]
            return winners, self.probability(among, logit_scale=logit_scale) if scores else None
        winners = torch.empty(self.size, dtype=torch.int64, device=self.cosines.device)
        best_scores = torch.empty(self.size, device=self.cosines.device) if scores else None
        for block in self.blocks():
            queries = block.that_matter(margin(len(self.cosines), logit_scale) if scores else 0.0)
            if best_scores is None and len(queries) == 1:
                winners[block.y.pixels, block.x.pixels] = queries[0]
                continue
            for place, cosines in block.cosines(queries):
                value, index = cosines.max(dim=-1)
                winners[place] = queries[index]
                if best_scores is not None:
                    total = cosines.sub_(value[..., None]).mul_(logit_scale).exp_().sum(dim=-1)
                    best_scores[place] = total.reciprocal_()
        return winners, best_scores

    @inference
    def normalizer(self, *, logit_scale: float) -> Tensor:
        """`(H, W)` float32: the logarithm of what every probability of a pixel is divided by."""
        result = torch.empty(self.size, device=self.cosines.device)
        for block in self.blocks():
            for place, cosines in block.cosines(block.that_matter(margin(len(self.cosines), logit_scale))):
                result[place] = cosines.mul_(logit_scale).logsumexp(dim=-1)
        return result

    @inference
    def probability(self, queries: Sequence[int], *, logit_scale: float, normalizer: Tensor | None = None) -> Tensor:
        """`(H, W)` float32, the best probability of some queries among all at every pixel; zeros for none.

        Whoever asks for many gives the `normalizer`.
        """
        result = torch.zeros(self.size, device=self.cosines.device)
        if not queries:
            return result
        if normalizer is None:
            normalizer = self.normalizer(logit_scale=logit_scale)
        wanted = torch.tensor(list(queries), device=self.cosines.device)
        for block in self.blocks():
            for place, cosines in block.cosines(wanted):
                result[place] = cosines.amax(dim=-1).mul_(logit_scale).sub_(normalizer[place]).exp_()
        return result

    @inference
    def values_at(self, y: int, x: int) -> Tensor:
        """`(Q,)` float32 values at one pixel."""
        rows, columns = (way.matrix.to(self.cosines.device) for way in self._upsampling)
        return (self.cosines @ columns[x]) @ rows[y]

    def ranking(self, y: int, x: int, *, logit_scale: float) -> Tensor:
        """`(Q,)` float32 probabilities of all queries at one pixel; they sum to 1."""
        return (self.values_at(y, x) * logit_scale).softmax(dim=0)
