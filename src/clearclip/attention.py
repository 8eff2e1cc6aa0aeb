"""The attention kinds of the rewritten block: small functions from a site to what attention takes.

A new kind is one function under `@kind`. Shapes: `q`, `k`, `v` are
`(B, heads, N, head_dim)`; N counts the prefix tokens and the patch tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip import methods
from clearclip.backbones.base import Block
from clearclip.mend import Streams
from clearclip.methods import Method

_switch = threading.Lock()
_users = 0
_before = True


@contextmanager
def fused_attention(tokens: Tensor) -> Iterator[None]:
    """Within the block, float32 attention modules on a CPU use torch's fused attention.

    In evaluation mode `torch.nn.MultiheadAttention` otherwise takes a path of its own that writes the whole attention
    matrix; both give the same numbers to rounding. The switch (`torch.backends.mha`) holds for the process, so users
    are counted: the last one out puts it back. Other devices and number formats keep the library's choice.
    """
    global _users, _before
    if tokens.device.type != "cpu" or tokens.dtype != torch.float32:
        yield
        return
    with _switch:
        if not _users:
            _before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
        _users += 1
    try:
        yield
    finally:
        with _switch:
            _users -= 1
            if not _users:
                torch.backends.mha.set_fastpath_enabled(_before)


@dataclass(eq=False)
class Site:
    """One block with the tokens that enter it: what a kind may read, each part computed once and shared by all rows.

    Attributes:
        num_prefix_tokens: Tokens before the patches.
        class_token: Whether these take part in the attention.
        streams: The other blocks.
        rounds: How often the attention of the blocks before is balanced for it (CLIPer).
    """

    block: Block
    tokens: Tensor
    heads: int
    num_prefix_tokens: int
    grid_size: tuple[int, int]
    class_token: bool = True
    streams: Streams | None = None
    rounds: int = 0

    @property
    def prefix(self) -> int:
        """How many of the tokens that attend stand before the patches."""
        return self.num_prefix_tokens if self.class_token else 0

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return int(self.tokens.shape[-1]) // self.heads

    @cached_property
    def normed(self) -> Tensor:
        """`ln_1` of the tokens, `(B, N, C)`."""
        return self.block.ln_1(self.tokens)

    @cached_property
    def q(self) -> Tensor:
        """The tokens' queries."""
        return self._project("q")

    @cached_property
    def k(self) -> Tensor:
        """The tokens' keys."""
        return self._project("k")

    @cached_property
    def v(self) -> Tensor:
        """The tokens' values."""
        return self._project("v")

    def _project(self, name: str) -> Tensor:
        projected = self.block.project(name, self.normed, heads=self.heads, grid_size=self.grid_size)
        return projected[:, :, self.num_prefix_tokens - self.prefix :]

    def prior(self, row: Method) -> Tensor | None:
        """The row's prior between tokens, `(N, N)` in the tokens' number format; 0 for prefix tokens."""
        if row.sigma is None:
            return None
        patches = gaussian_prior(self.grid_size, row.sigma).to(self.tokens.device, self.tokens.dtype)
        return F.pad(patches, (self.prefix, 0, self.prefix, 0))


@dataclass(frozen=True, eq=False)
class Term:
    """`softmax(scale · query keyᵀ + bias)`, as `scaled_dot_product_attention` takes it; without a query, of the bias.

    What is `given` is the attention itself. The scale is `1 / sqrt(head_dim)` where it is `None`.
    """

    query: Tensor | None = None
    key: Tensor | None = None
    scale: float | None = None
    bias: Tensor | None = None
    given: Tensor | None = None

    def apply(self, v: Tensor) -> Tensor:
        """The attention times v, `(B, heads, N, head_dim)`; it is only written out where there is no query."""
        if self.query is None or self.key is None:
            return self.weights().to(v.dtype) @ v
        attended: Tensor = F.scaled_dot_product_attention(
            self.query, self.key, v.to(self.query.dtype), attn_mask=self.bias, scale=self.scale
        )
        return attended.to(v.dtype)

    def weights(self) -> Tensor:
        """The attention itself; `(B, heads, N, N)`, or what broadcasts to it."""
        if self.given is not None:
            return self.given
        logits = torch.zeros(()) if self.bias is None else self.bias
        if self.query is not None and self.key is not None:
            scale = self.query.shape[-1] ** -0.5 if self.scale is None else self.scale
            logits = self.query @ self.key.mT * scale + logits
        return logits.softmax(dim=-1)


@dataclass(frozen=True, eq=False)
class Feedback:
    """What a second pass adds to the logits of every kind (ResCLIP 4.2).

    Attributes:
        bias: Between patches, `(N, N)`.
        scale: Factor on the kind's own product of queries and keys; its prior is added after that.
    """

    bias: Tensor
    scale: float

    def added(self, term: Term, site: Site) -> Term:
        """The term with the feedback."""
        dtype = site.tokens.dtype if term.query is None else term.query.dtype
        bias = F.pad(self.bias, (site.prefix, 0, site.prefix, 0)).to(dtype)
        scale = (site.head_dim**-0.5 if term.scale is None else term.scale) * self.scale
        return replace(term, scale=scale, bias=bias if term.bias is None else bias + term.bias)


def patch_attention(site: Site, *, heads: int) -> Tensor:
    """The block's own attention between patch tokens, the mean of its first heads: `(B, gh · gw, gh · gw)` float32.

    One head at a time, to save memory. The share of prefix tokens is cut off: rows do not sum to 1 (FreeCP 1.4).
    """
    total, prefix = torch.zeros(()), site.num_prefix_tokens
    for head in range(heads):
        weights = (site.q[:, head] @ site.k[:, head].mT * site.head_dim**-0.5).softmax(dim=-1, dtype=torch.float32)
        total = total + weights[:, prefix:, prefix:]
    return total / heads


Kind = Callable[[Site, Method], Term | None]
"""`None` leaves each token its own value."""
KINDS: dict[str, Kind] = {}


def kind(name: str) -> Callable[[Kind], Kind]:
    """Register a kind under a name, which the axis `attention` then accepts."""

    def register(function: Kind) -> Kind:
        KINDS[name] = function
        methods.add_name("attention", name)
        return function

    return register


@kind("identity")
def identity(site: Site, row: Method) -> Term | None:
    """MaskCLIP: each token reads its own value."""
    return None


@kind("qk")
def query_key(site: Site, row: Method) -> Term:
    """The model's own attention."""
    return Term(site.q, site.k, bias=site.prior(row))


@kind("qq")
def query_query(site: Site, row: Method) -> Term:
    """Queries among themselves."""
    return _among_themselves(site, row, site.q)


@kind("kk")
def key_key(site: Site, row: Method) -> Term:
    """Keys among themselves."""
    return _among_themselves(site, row, site.k)


@kind("vv")
def value_value(site: Site, row: Method) -> Term:
    """Values among themselves."""
    return _among_themselves(site, row, site.v)


@kind("uniform")
def uniform(site: Site, row: Method) -> Term:
    """NACLIP's prior alone, times the mean of |q_i| |k_j| / sqrt(head_dim) over heads and token pairs of an image."""
    norms = [torch.linalg.vector_norm(part, dim=-1).mean(dim=-1) for part in (site.q, site.k)]  # (B, heads) each
    strength = (norms[0] * norms[1]).mean(dim=1) * site.head_dim**-0.5
    prior = site.prior(row)
    assert prior is not None  # `Method` refuses it
    return Term(bias=strength.view(-1, 1, 1, 1) * prior)


@kind("mid")
def middle(site: Site, row: Method) -> Term:
    """SC-CLIP: patches more alike in block `pre` than all are on average; prefix tokens read themselves alone."""
    assert site.streams is not None  # `rewrite` gives it
    cosines = site.streams.before(row)
    above = cosines - cosines.mean(dim=(1, 2), keepdim=True)
    above.diagonal(dim1=1, dim2=2).clamp_(min=0)  # rounding must leave no row without a key
    logits = (above * row.number("temperature")).masked_fill(above < 0, -torch.inf)
    if site.prefix:
        logits = F.pad(logits, (site.prefix, 0, site.prefix, 0), value=-torch.inf)
        logits[:, range(site.prefix), range(site.prefix)] = 0
    return Term(bias=logits[:, None])


@kind("procrustes")
def procrustes(site: Site, row: Method) -> Term:
    """PEARL: queries to keys turned by `polar_iters` Newton-Schulz steps, beside keys among themselves; float32."""
    return _turned(site, row, lambda m: newton_schulz(m, int(row.number("polar_iters"))))


@kind("procrustes-svd")
def procrustes_exactly(site: Site, row: Method) -> Term:
    """As `procrustes`, by the rotation that the steps go towards."""
    return _turned(site, row, orthogonal)


def _turned(site: Site, row: Method, solve: Callable[[Tensor], Tensor]) -> Term:
    """`softmax(s · q (k R)ᵀ + α · s · k̄ k̄ᵀ)`, R for `k̄ᵀ q̄` centred by the patches' means, weighted by their `|q|`."""
    q, k = site.q.float(), site.k.float()
    weights = torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    weights[:, :, : site.prefix] = 0
    weights = weights / (weights.sum(dim=2, keepdim=True) + 1e-6)
    q_bar, k_bar = (part - (weights * part).sum(dim=2, keepdim=True) for part in (q, k))
    turned, alpha = k @ solve(k_bar.mT @ q_bar), row.number("alpha_kk")
    prior = site.prior(row)
    # Both products in one: their logits are added before the softmax.
    return Term(
        torch.cat([q, alpha * k_bar], dim=-1),
        torch.cat([turned, k_bar], dim=-1),
        scale=site.head_dim**-0.5,
        bias=None if prior is None else prior.float(),
    )


def newton_schulz(matrix: Tensor, steps: int) -> Tensor:
    """What some Newton-Schulz steps make of the orthogonal factor of `(…, d, d)` (PEARL: 5, far from orthogonal)."""
    identity = torch.eye(matrix.shape[-1], device=matrix.device)
    gram = matrix.mT @ matrix
    size = torch.linalg.matrix_norm(gram, keepdim=True).clamp(min=1e-6)
    y, z = gram / size + 1e-6 * identity, identity.expand_as(gram)
    for _ in range(steps):
        x = (3 * identity - z @ y) / 2
        y, z = y @ x, x @ z
    near: Tensor = matrix @ z / size.sqrt()
    return near


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix to each of `(…, d, d)`."""
    u, _, v = torch.linalg.svd(matrix)
    rotation: Tensor = u @ v
    return rotation


@kind("fused")
def fused(site: Site, row: Method) -> Term:
    """CLIPer: the attention of all blocks before the last, head by head, balanced once more in each stream."""
    assert site.streams is not None  # `rewrite` gives it
    summed = site.streams.balanced(site.rounds, lambda: _attention_before(site))
    both = (summed + summed.mT) / 2
    above = (both - both.mean(dim=-2, keepdim=True)).clamp_(min=0)
    totals = above.sum(dim=-1, keepdim=True)
    alone = torch.eye(above.shape[-1], device=above.device)  # NaN in the authors' code: a token that no other is above
    return Term(given=torch.where(totals > 0, above / totals, alone))


def _attention_before(site: Site) -> Tensor:
    """The sum over the blocks before the last of their own attention, `(B, heads, N, N)` float32."""
    assert site.streams is not None
    total = torch.zeros(())
    for index, block in enumerate(site.streams.blocks[:-1]):
        own = Site(block, site.streams.inputs[index], site.heads, site.num_prefix_tokens, site.grid_size)
        total = total + Term(own.q.float(), own.k.float()).weights()
    return total


def _among_themselves(site: Site, row: Method, tokens: Tensor) -> Term:
    """`softmax(s sᵀ)`, or GEM's iteration (protocol: "GEM in full") where the row normalises.

    `s ← s/|s|; s ← softmax(τ s sᵀ) s; s ← s/|s|; A = softmax(τ s sᵀ)`, τ the mean norm of an image's tokens over
    `sqrt(head_dim)`.
    """
    if not row.normalize:
        return Term(tokens, tokens, bias=site.prior(row))
    attending = site.normed[:, site.num_prefix_tokens - site.prefix :].float()
    temperature = torch.linalg.vector_norm(attending, dim=-1).mean(dim=1) / site.head_dim**0.5
    scale = temperature.to(tokens.dtype).view(-1, 1, 1, 1)
    unit = F.normalize(tokens, dim=-1)
    unit = F.normalize(Term(unit * scale, unit, scale=1.0).apply(unit), dim=-1)
    return Term(unit * scale, unit, scale=1.0)


def gaussian_prior(grid_size: tuple[int, int], sigma: float) -> Tensor:
    """`exp(-d² / 2σ²)` between all pairs of patches, d and σ in patches (NACLIP, WACV 2025).

    >>> gaussian_prior((1, 3), 1.0)[0].tolist()
    [1.0, 0.6065306663513184, 0.1353352814912796]

    Returns `(gh · gw, gh · gw)` float32.
    """
    rows, columns = (torch.arange(length, dtype=torch.float32) for length in grid_size)
    along_y, along_x = (torch.exp((places[:, None] - places).square() / (-2 * sigma**2)) for places in (rows, columns))
    return torch.kron(along_y, along_x)
