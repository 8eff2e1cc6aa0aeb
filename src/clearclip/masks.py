"""Grids of cosines → full-size logits, label maps and probabilities, tile by tile in bounded memory. No model library.

A full-size tensor of logits is made only where it is asked for: a label map needs, of every pixel, the best query so
far, and a score needs a running log-sum-exp beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from clearclip.windows import Plan

TILE = 128
QUERY_CHUNK = 128


@dataclass(frozen=True)
class LogitGrid:
    """The cosines of one image's patches with the queries, before upsampling.

    Attributes:
        cosines: `(Q, ny · gh, nx · gw)` float32: the windows' grids side by side.
        plan: The windows.
        size: `(height, width)` of the output.
    """

    cosines: Tensor
    plan: Plan
    size: tuple[int, int]

    @classmethod
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
        rows, columns = len(plan.y.starts), len(plan.x.starts)
        cells = features.unflatten(0, (rows, columns)).permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2)
        cosines = text_embeddings @ cells.flatten(0, 1).T
        return cls(cosines.unflatten(1, cells.shape[:2]), plan, size)

    @cached_property
    def _matrices(self) -> tuple[Tensor, Tensor]:
        device = self.cosines.device
        return self.plan.y.matrix(self.size[0]).to(device), self.plan.x.matrix(self.size[1]).to(device)

    def logits(self) -> Tensor:
        """Cosine logits at full size: the only method whose memory grows with queries times pixels.

        Returns:
            `(Q, H, W)` float32.
        """
        rows, columns = self._matrices
        return rows @ self.cosines @ columns.T

    def tiles(self) -> Iterator[_Tile]:
        """The output in tiles, each with the few cells that it depends on.

        Yields:
            Tiles, row by row.
        """
        rows, columns = self._matrices
        for y in range(0, self.size[0], TILE):
            row_part = rows[y : y + TILE]
            row_cells = row_part.any(dim=0).nonzero()[:, 0]
            strip = self.cosines[:, row_cells]
            for x in range(0, self.size[1], TILE):
                column_part = columns[x : x + TILE]
                column_cells = column_part.any(dim=0).nonzero()[:, 0]
                yield _Tile(
                    slice(y, y + len(row_part)),
                    slice(x, x + len(column_part)),
                    strip[:, :, column_cells],
                    row_part[:, row_cells],
                    column_part[:, column_cells].T,
                )

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
            value, index, total = tile.reduce(logit_scale, normalizer=scores)
            winners[tile.rows, tile.columns] = index
            if best_scores is not None and total is not None:
                best_scores[tile.rows, tile.columns] = (value - total).exp_()
        return winners, best_scores

    def normalizer(self, *, logit_scale: float) -> Tensor:
        """What every probability of a pixel is divided by, as its logarithm.

        Args:
            logit_scale: Factor on the cosines before the softmax.

        Returns:
            `(H, W)` float32.
        """
        result = torch.empty(self.size, device=self.cosines.device)
        for tile in self.tiles():
            _, _, total = tile.reduce(logit_scale, normalizer=True)
            if total is not None:
                result[tile.rows, tile.columns] = total
        return result

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
            own = tile.upsample(tile.cells[wanted]).amax(dim=0).mul_(logit_scale)
            result[tile.rows, tile.columns] = own.sub_(normalizer[tile.rows, tile.columns]).exp_()
        return result

    def ranking(self, y: int, x: int, *, logit_scale: float) -> Tensor:
        """Probabilities of all queries at one pixel.

        Args:
            y: Row.
            x: Column.
            logit_scale: Factor on the cosines before the softmax.

        Returns:
            `(Q,)` float32, sums to 1.
        """
        rows, columns = self._matrices
        return ((self.cosines @ columns[x]) @ rows[y] * logit_scale).softmax(dim=0)


@dataclass(frozen=True)
class _Tile:
    rows: slice
    columns: slice
    cells: Tensor
    row_matrix: Tensor
    column_matrix: Tensor

    def upsample(self, cells: Tensor) -> Tensor:
        """`(q, cells_y, cells_x)` → `(q, tile_h, tile_w)`."""
        return self.row_matrix @ (cells @ self.column_matrix)

    def reduce(self, logit_scale: float, *, normalizer: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Best scaled logit, its query, and the log-sum-exp over all queries, chunk by chunk of queries."""
        best: Tensor | None = None
        index = total = None
        for start in range(0, len(self.cells), QUERY_CHUNK):
            logits = self.upsample(self.cells[start : start + QUERY_CHUNK]).mul_(logit_scale)
            value, position = logits.max(dim=0)
            part = logits.sub_(value).exp_().sum(dim=0).log_().add_(value) if normalizer else None
            if best is None or index is None:
                best, index, total = value, position, part
                continue
            better = value > best
            index = torch.where(better, position + start, index)
            best = torch.maximum(best, value)
            if part is not None and total is not None:
                total = torch.logaddexp(total, part)
        if best is None or index is None:
            raise AssertionError("a grid has at least one query")
        return best, index, total
