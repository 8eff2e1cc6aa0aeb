"""What rows find in the unmodified blocks' outputs: outlier tokens and their repair, patches that are alike (SC-CLIP).

From the mathematics of SC-CLIP (Bai et al., 2025). Similarities are float32, whatever the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip.axes import AFTER_ATTENTION
from clearclip.backbones.base import Block
from clearclip.methods import Method

AFTER_TOKENS = AFTER_ATTENTION | {
    "attention",
    "combine",
    "normalize",
    "prior",
    "positions",
    "class_token",
    "temperature",
    "mix",
    "polar_iters",
    "alpha_kk",
}
"""Axes that change nothing of what enters the block; all others are in the keys of what is kept."""


@dataclass(eq=False)
class Streams:
    """Inputs of blocks, and what rows find in them: each thing once, shared by all rows.

    Attributes:
        inputs: By block, counted from 0, `(B, num_prefix_tokens + gh · gw, C)`.
        num_prefix_tokens: Tokens before the patches.
        grid_size: `(gh, gw)` patches.
        blocks: All blocks.
    """

    inputs: Mapping[int, Tensor]
    num_prefix_tokens: int
    grid_size: tuple[int, int]
    blocks: Sequence[Block]
    _found: dict[object, Tensor] = field(default_factory=dict, repr=False)
    _balanced: tuple[int, Tensor] | None = None

    @property
    def last(self) -> int:
        """Number of the last block, from 0."""
        return len(self.blocks) - 1

    def patches(self, block: int) -> Tensor:
        """Patch tokens of a block's output, `(B, N, C)`."""
        return self.inputs[block + 1][:, self.num_prefix_tokens :]

    def outliers(self, row: Method) -> Tensor:
        """Where the last block's input is an outlier by the row's rule, `(B, N)` bool."""

        def find() -> Tensor:
            tokens = self.patches(self.last - 1).float()
            if row.longest:
                return longest(tokens, row.longest)
            scores = outlier_scores(tokens, neighbours=int(row.number("k")))
            return scores > torch.quantile(scores, 1 - row.number("share"), dim=1, keepdim=True)

        return self._once("outliers", row, find)

    def mended(self, row: Method, block: int) -> Tensor:
        """Patch tokens of a block's output, without the row's outliers, `(B, N, C)`."""
        if row.repair == "none":
            return self.patches(block)
        return self._once(f"mended {block}", row, lambda: mend(self.patches(block), self.outliers(row), self.grid_size))

    def before(self, row: Method) -> Tensor:
        """Cosines between the mended patches of block `pre`, `(B, N, N)` float32."""
        block = int(row.number("pre"))
        return self._once("before", row, lambda: alike(self.mended(row, block)))

    def after(self, row: Method) -> Tensor:
        """Cosines between the patches of block `post`, not mended, `(B, N, N)` float32."""
        block = int(row.number("post"))
        return self._once(f"after {block}", row, lambda: alike(self.patches(block)))

    def summed(self, row: Method) -> Tensor:
        """The sum of the blocks' outputs from `start` to `end`, `(B, num_prefix_tokens + N, C)`."""
        blocks = range(int(row.number("start")), int(row.number("end")))
        return self._once("sum", row, lambda: torch.stack([self.inputs[b + 1] for b in blocks]).sum(dim=0))

    def names(self, row: Method) -> list[str]:
        """The row's streams; one for each block where it sends `each`."""
        return [str(block) for block in range(self.last + 1)] if row.streams == "each" else row.streams.split("+")

    def balanced(self, rounds: int, summed: Callable[[], Tensor]) -> Tensor:
        """Attention `(…, N, N)` whose columns, then rows, were divided by their sums so often (CLIPer 2.3).

        Streams ask in order, so the last answer alone is kept, and goes on.
        """
        done, matrix = self._balanced if self._balanced and self._balanced[0] <= rounds else (0, summed())
        for _ in range(done, rounds):
            for dim in (-2, -1):
                matrix = matrix / matrix.sum(dim=dim, keepdim=True).clamp_(min=torch.finfo(matrix.dtype).tiny)
        self._balanced = (rounds, matrix)
        return matrix

    def beside(self, row: Method, stream: str) -> Tensor:
        """What the residual of a stream is taken from, `(B, num_prefix_tokens + N, C)`."""
        return self.summed(row) if stream == "sum" else self.inputs[self.last + 1 - row.depth]

    def entering(self, row: Method, stream: str) -> dict[int, Tensor]:
        """What enters the rewritten blocks in a stream, by block, `(B, num_prefix_tokens + N, C)` each."""
        if stream == "sum":
            return {self.last: self.summed(row)}
        if stream.isdecimal() and int(stream) < self.last:
            block = int(stream)  # normed by its own block, and by the last one once more (CLIPer 2.2)
            return {self.last: self._once(f"normed {block}", row, lambda: self.blocks[block].ln_1(self.inputs[block]))}
        if row.repair == "none" and "before" not in row.pool:
            return {index: self.inputs[index] for index in range(self.last + 1 - row.depth, self.last + 1)}

        def make() -> Tensor:
            tokens = self.mended(row, self.last - 1)
            if "before" in row.pool:
                tokens = pool(tokens, self.before(row), row.number("beta"))
            return torch.cat([self.inputs[self.last][:, : self.num_prefix_tokens], tokens], dim=1)

        return {self.last: self._once("entering", row, make)}

    def _once(self, what: str, row: Method, make: Callable[[], Tensor]) -> Tensor:
        key = (what, row.values(without=AFTER_TOKENS))
        if key not in self._found:
            self._found[key] = make()
        return self._found[key]


def outlier_scores(tokens: Tensor, *, neighbours: int) -> Tensor:
    """How much farther a token's k-th neighbour lies than those of its k neighbours, on average; `(B, N)`.

    Distances are squared. SC-CLIP's finder, which its authors call LOF. Of fewer than k + 1 tokens all others are
    neighbours; where tokens are equal, none is an outlier.
    """
    centred = tokens - tokens.mean(dim=1, keepdim=True)  # a few channels are alike and large: they would cost digits
    lengths = centred.square().sum(dim=-1)
    distances = lengths[:, :, None] + lengths[:, None] - 2 * centred @ centred.mT
    k = min(neighbours, tokens.shape[1] - 1)
    if k < 1:
        return torch.zeros_like(lengths)
    distances.diagonal(dim1=1, dim2=2).fill_(-torch.inf)  # the token itself comes first
    near = distances.topk(k + 1, largest=False)
    radius = near.values[..., -1]
    smallest = radius.amax(dim=1, keepdim=True) * 1e-6
    radius = torch.maximum(radius, smallest.clamp(min=torch.finfo(radius.dtype).tiny))
    others = radius[:, None].expand(-1, radius.shape[1], -1).gather(2, near.indices[..., 1:])
    return (radius[..., None] / others).mean(dim=-1)


def longest(tokens: Tensor, count: int) -> Tensor:
    """Where the tokens `(B, N, C)` with the largest L2 norms are, `(B, N)` bool (SC-CLIP's first release)."""
    norms = torch.linalg.vector_norm(tokens, dim=-1)
    found = norms.topk(min(count, norms.shape[1]), dim=1).indices
    return torch.zeros_like(norms, dtype=torch.bool).scatter_(1, found, True)


def mend(tokens: Tensor, outliers: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Outliers become the mean of those of their eight neighbours that are none; others stay (SC-CLIP).

    >>> mend(torch.tensor([[[1.0], [9.0], [3.0]]]), torch.tensor([[False, True, False]]), (1, 3))[0, :, 0].tolist()
    [1.0, 2.0, 3.0]

    Tokens are `(B, N, C)`, outliers `(B, N)` bool. One without such a neighbour stays as it is.
    """
    sound = (~outliers).float().unflatten(1, grid_size)[:, None]
    image = tokens.float().mT.unflatten(2, grid_size)
    weights = F.avg_pool2d(sound, 3, stride=1, padding=1)
    means = F.avg_pool2d(image * sound, 3, stride=1, padding=1) / weights.clamp(min=0.1)  # a ninth at least, or none
    replaced = (outliers & (weights.flatten(1) > 0))[..., None]
    return torch.where(replaced, means.flatten(2).mT.to(tokens.dtype), tokens)


def alike(tokens: Tensor) -> Tensor:
    """Cosines between the tokens of an image, `(B, N, N)` float32 from `(B, N, C)`."""
    unit = F.normalize(tokens.float(), dim=-1)
    return unit @ unit.mT


def pool(tokens: Tensor, cosines: Tensor, threshold: float) -> Tensor:
    """Each token's mean over those whose cosine with it is not below a threshold, weighted by it, `(B, N, C)`."""
    weights = cosines.masked_fill(cosines < threshold, 0)
    weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-6)
    return (weights @ tokens.float()).to(tokens.dtype)
