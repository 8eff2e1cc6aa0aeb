"""Grids of cosines → full-size logits, label maps and probabilities, tile by tile in bounded memory. No model library.

A full-size tensor of logits is made only where it is asked for. How the winners are found is in `winners.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clearclip.backbones.devices import inference
from clearclip.classify.winners import Tile, tiles
from clearclip.encode.windows import Plan, Upsampling


@dataclass(frozen=True)
class LogitGrid:
    """The cosines of one image's patches with the queries, before upsampling.

    Attributes:
        cosines: `(Q, ny · gh, nx · gw)` float32: the windows' grids side by side; in memory the queries lie
            innermost.
        plan: The windows.
        size: `(height, width)` of the output.
    """

    cosines: Tensor
    plan: Plan
    size: tuple[int, int]

    @classmethod
    def empty(cls, text_embeddings: Tensor, *, plan: Plan, size: tuple[int, int]) -> LogitGrid:
        """A grid whose `windows` are still to be filled.

        Args:
            text_embeddings: `(Q, E)`; only their number and device count.
            plan: The windows.
            size: `(height, width)` of the output.

        Returns:
            The grid.
        """
        cells = (len(axis.starts) * axis.cells for axis in (plan.y, plan.x))
        cosines = torch.empty(*cells, len(text_embeddings), device=text_embeddings.device)
        return cls(cosines.permute(2, 0, 1), plan, size)

    @classmethod
    @inference
    def from_features(
        cls, features: Tensor, text_embeddings: Tensor, *, plan: Plan, size: tuple[int, int]
    ) -> LogitGrid:
        """Cosines of normalised features with normalised text embeddings.

        Args:
            features: `(count, gh, gw, E)`, unit length.
            text_embeddings: `(Q, E)`, unit length.
            plan: The windows.
            size: `(height, width)` of the output.

        Returns:
            The grid.
        """
        grid = cls.empty(text_embeddings, plan=plan, size=size)
        for window, place in zip(features, grid.windows(), strict=True):
            place.copy_(window @ text_embeddings.T)
        return grid

    def windows(self) -> Iterator[Tensor]:
        """The cosines window by window, row by row, to be read or written.

        Yields:
            Views `(gh, gw, Q)`.
        """
        for rows in self.cosines.permute(1, 2, 0).split(self.plan.y.cells):
            yield from rows.split(self.plan.x.cells, dim=1)

    @property
    def _upsampling(self) -> tuple[Upsampling, Upsampling]:
        return self.plan.y.upsampling(self.size[0]), self.plan.x.upsampling(self.size[1])

    @inference
    def logits(self) -> Tensor:
        """Cosine logits at full size: the only method whose memory grows with queries times pixels.

        Returns:
            `(Q, H, W)` float32.
        """
        rows, columns = (way.matrix.to(self.cosines.device) for way in self._upsampling)
        return rows @ self.cosines @ columns.T

    def tiles(self) -> Iterator[Tile]:
        """The output in tiles, each with the cosines at its knots.

        Yields:
            Tiles, row by row.
        """
        return tiles(self.cosines.permute(1, 2, 0), *self._upsampling)

    @inference
    def best(self, *, logit_scale: float, scores: bool = True) -> tuple[Tensor, Tensor | None]:
        """The winning query of every pixel, and its probability among all queries (protocol, step 7).

        Args:
            logit_scale: Factor on the cosines before the softmax.
            scores: Whether the probabilities are wanted.

        Returns:
            Indices `(H, W)` int64 into the queries, and probabilities `(H, W)` float32 or `None`.
        """
        winners = torch.empty(self.size, dtype=torch.int64, device=self.cosines.device)
        best_scores = torch.empty(self.size, device=self.cosines.device) if scores else None
        for tile in self.tiles():
            index, value = tile.winners()
            winners[tile.rows, tile.columns] = index
            if best_scores is not None:
                best_scores[tile.rows, tile.columns] = tile.denominator(value, logit_scale).reciprocal_()
        return winners, best_scores

    @inference
    def normalizer(self, *, logit_scale: float) -> Tensor:
        """What every probability of a pixel is divided by, as its logarithm.

        Args:
            logit_scale: Factor on the cosines before the softmax.

        Returns:
            `(H, W)` float32.
        """
        result = torch.empty(self.size, device=self.cosines.device)
        for tile in self.tiles():
            _, value = tile.winners()
            total = tile.denominator(value, logit_scale).log_()
            result[tile.rows, tile.columns] = total.add_(value, alpha=logit_scale)
        return result

    @inference
    def probability(self, queries: Sequence[int], *, logit_scale: float, normalizer: Tensor | None = None) -> Tensor:
        """The best probability of some queries among all, at every pixel.

        Args:
            queries: Indices; none gives zeros.
            logit_scale: Factor on the cosines before the softmax.
            normalizer: As `normalizer` gives it, for those who ask for many; computed where it is missing.

        Returns:
            `(H, W)` float32.
        """
        result = torch.zeros(self.size, device=self.cosines.device)
        if not queries:
            return result
        if normalizer is None:
            normalizer = self.normalizer(logit_scale=logit_scale)
        wanted = torch.tensor(list(queries), device=self.cosines.device)
        for tile in self.tiles():
            own = tile.cosines(wanted).amax(dim=-1).mul_(logit_scale)
            result[tile.rows, tile.columns] = own.sub_(normalizer[tile.rows, tile.columns]).exp_()
        return result

    @inference
    def ranking(self, y: int, x: int, *, logit_scale: float) -> Tensor:
        """Probabilities of all queries at one pixel.

        Args:
            y: Row.
            x: Column.
            logit_scale: Factor on the cosines before the softmax.

        Returns:
            `(Q,)` float32, sums to 1.
        """
        rows, columns = (way.matrix.to(self.cosines.device) for way in self._upsampling)
        return ((self.cosines @ columns[x]) @ rows[y] * logit_scale).softmax(dim=0)
