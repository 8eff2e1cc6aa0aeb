"""The one interpreter of `Method`: dense features of a backbone's last blocks, rewritten. See `methods.py`.

All methods with the same position table share one pass of the unmodified trunk; each adds only its own rewritten
attention, and methods that share an attention output share that too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip.attention import attend, attend_iterated, fused_attention, gem_temperature, needed
from clearclip.backbones.base import Backbone, Block
from clearclip.backbones.devices import inference
from clearclip.errors import UsageError
from clearclip.methods import Method, parse_methods

MethodLike = str | Method
Several = list[MethodLike] | list[str] | list[Method] | tuple[MethodLike, ...]


@dataclass(frozen=True)
class Parts:
    """One method's features with what they are made of (paper section 3.2), all without the class token.

    Attributes:
        features: `(B, gh, gw, E)`, projected and not normalised.
        residual: X_res, the unmodified stream that enters the rewritten blocks, `(B, gh, gw, C)`.
        attn_out: X_attn, the rewritten attention's output, summed over the rewritten blocks, `(B, gh, gw, C)`.
        sum: X_sum, the method's residual plus `alpha` · X_attn, before the feed-forward network, `(B, gh, gw, C)`.
    """

    features: Tensor
    residual: Tensor
    attn_out: Tensor
    sum: Tensor


@overload
def dense_features(backbone: Backbone, images: Tensor, *, method: MethodLike) -> Tensor: ...
@overload
def dense_features(backbone: Backbone, images: Tensor, *, method: Several) -> dict[str, Tensor]: ...
@overload
def dense_features(backbone: Backbone, images: Tensor, *, method: MethodLike, parts: Literal[True]) -> Parts: ...
@overload
def dense_features(
    backbone: Backbone, images: Tensor, *, method: Several, parts: Literal[True]
) -> dict[str, Parts]: ...


@inference
def dense_features(
    backbone: Backbone,
    images: Tensor,
    *,
    method: MethodLike | Several = "clearclip",
    parts: bool = False,
) -> Tensor | Parts | dict[str, Tensor] | dict[str, Parts]:
    """Features of every patch in the space of the text embeddings, by one or many methods from one pass.

    Args:
        backbone: What `clearclip.view` or `clearclip.load_backbone` returns.
        images: `(B, 3, H, W)`, normalised. Any height and width: sides that are no multiple of the patch size are
            zero-padded on both sides, the smaller half at the top and left.
        method: A method, its spelling, or a list of them.
        parts: Whether X_res, X_attn and X_sum are wanted too.

    Returns:
        `(B, gh, gw, E)` float, projected and not normalised, or `Parts`; for a list a dict by the method's spelling.

    Raises:
        UsageError: The images have another shape, a method is unknown, or it is deeper than the model.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise UsageError(f"images have the shape {tuple(images.shape)}: (B, 3, H, W) is needed")
    single = isinstance(method, (str, Method))
    methods = parse_methods([method] if isinstance(method, (str, Method)) else method)
    padded, _ = pad_to_patches(images.to(backbone.device, backbone.dtype), backbone.patch_size)
    grid_size = (padded.shape[2] // backbone.patch_size, padded.shape[3] // backbone.patch_size)
    for row in methods:
        check_depth(backbone, row)
    results: dict[str, Parts] = {}
    for how, group in group_by_table(backbone, methods, grid_size).items():
        stream = trunk(backbone, padded, positions=how, depth=max(row.depth for row in group))
        results |= rewrite(backbone, stream, group, grid_size=grid_size)
    if parts:
        return results[methods[0].spelling] if single else {row.spelling: results[row.spelling] for row in methods}
    if single:
        return results[methods[0].spelling].features
    return {row.spelling: results[row.spelling].features for row in methods}


def pad_to_patches(images: Tensor, patch_size: int) -> tuple[Tensor, tuple[int, int]]:
    """Zero-pad to multiples of the patch size (protocol, inference step 3).

    Args:
        images: `(B, 3, H, W)`.
        patch_size: Side of a patch in pixels.

    Returns:
        The padded images and how many pixels were added at the top and at the left.
    """
    height, width = -images.shape[2] % patch_size, -images.shape[3] % patch_size
    top, left = height // 2, width // 2
    if not (height or width):
        return images, (0, 0)
    return F.pad(images, (left, width - left, top, height - top)), (top, left)


def group_by_table(
    backbone: Backbone, methods: Iterable[Method], grid_size: tuple[int, int]
) -> dict[str, list[Method]]:
    """Methods by the position table they read, which decides how often the trunk runs.

    Args:
        backbone: The model.
        methods: Rows.
        grid_size: `(gh, gw)` in patches.

    Returns:
        For each value of the axis `positions` that is really used, its methods in order.
    """
    groups: dict[str, list[Method]] = {}
    for method in methods:
        groups.setdefault(backbone.table_kind(grid_size, method.positions), []).append(method)
    return groups


def check_depth(backbone: Backbone, method: Method) -> None:
    """Refuse a method that rewrites more blocks than the model has.

    Args:
        backbone: The model.
        method: A row.

    Raises:
        UsageError: It does.
    """
    count = len(backbone.blocks)
    if method.depth > count:
        raise UsageError(
            f"depth={method.depth} needs {method.depth} blocks, but {backbone.name} has {count}: "
            f"use depth={count} or less"
        )


def trunk(backbone: Backbone, images: Tensor, *, positions: str, depth: int) -> list[Tensor]:
    """Run the unmodified blocks, as the library runs them, up to the last one's input.

    Args:
        backbone: The model.
        images: `(B, 3, H, W)`; the sides are multiples of the patch size.
        positions: As a method's axis.
        depth: How many last blocks' inputs are wanted; see `check_depth`.

    Returns:
        The inputs of the last `depth` blocks, `(B, 1 + gh · gw, C)` each, first to last.
    """
    count = len(backbone.blocks)
    tokens = backbone.embed(images, positions)
    inputs = [tokens] if count - depth == 0 else []
    with fused_attention(tokens):
        for index, block in enumerate(backbone.blocks[:-1], start=1):
            tokens = block.forward(tokens)
            if index >= count - depth:
                inputs.append(tokens)
    return inputs


def rewrite(
    backbone: Backbone, stream: Sequence[Tensor], methods: Iterable[Method], *, grid_size: tuple[int, int]
) -> dict[str, Parts]:
    """Apply methods to the trunk's stream: the formula of `methods.py`.

    Args:
        backbone: The model.
        stream: What `trunk` returned, for at least the methods' depth.
        methods: Rows with the stream's position table.
        grid_size: `(gh, gw)` in patches.

    Returns:
        By spelling, the method's parts.
    """
    heads, head_dim = backbone.heads, backbone.width // backbone.heads
    rows = list(methods)
    blocks = [
        _RewrittenBlock(block, tokens, heads, head_dim)
        for block, tokens in zip(backbone.blocks[-len(stream) :], stream, strict=True)
    ]
    last = backbone.blocks[-1]
    sums: dict[tuple[object, ...], Tensor] = {}
    results = {}
    for method in rows:
        key = (method.attention, method.combine, method.normalize, method.depth)
        if key not in sums:
            sums[key] = torch.stack([block.attn_out(method) for block in blocks[-method.depth :]]).sum(dim=0)
        attn_out, residual = sums[key], stream[-method.depth][:, 1:]
        total = add_residual(method, residual, attn_out)
        tokens = total + last.mlp(last.ln_2(total)) if method.ffn else total
        features, *others = (
            part.unflatten(1, grid_size) for part in (backbone.head(tokens), residual, attn_out, total)
        )
        results[method.spelling] = Parts(features, *others)
    return results


def add_residual(method: Method, residual: Tensor, attn_out: Tensor) -> Tensor:
    """`ρ(X_res) + alpha · X_attn`.

    Args:
        method: Decides ρ and alpha.
        residual: X_res of the patch tokens, `(B, N, C)`.
        attn_out: X_attn of the patch tokens, `(B, N, C)`.

    Returns:
        X_sum, `(B, N, C)`.
    """
    scaled = attn_out if method.alpha == 1 else method.alpha * attn_out
    kind = method.residual_kind
    if kind == "drop":
        return scaled
    if kind == "keep":
        return residual + scaled
    if kind == "normalize":
        return F.normalize(residual, dim=-1) + scaled
    strongest = rank_channels(residual, signed=kind == "signed-beta")
    dropped = strongest[:, : round(method.beta * residual.shape[-1] / 100)]
    kept = torch.ones_like(residual[:, 0]).scatter_(1, dropped, 0.0)
    return residual * kept[:, None] + scaled


def rank_channels(residual: Tensor, *, signed: bool) -> Tensor:
    """Channels from the strongest to the weakest, one ranking an encoder input (supplement, table 1).

    Args:
        residual: X_res of the patch tokens, `(B, N, C)`.
        signed: Rank by the mean itself instead of the mean magnitude.

    Returns:
        `(B, C)` indices.
    """
    values = residual.float() if signed else residual.float().abs()
    return values.mean(dim=1).argsort(dim=-1, descending=True, stable=True)


@dataclass
class _RewrittenBlock:
    """One rewritten block on one stream; every projection and attention is computed once and shared by the methods."""

    block: Block
    tokens: Tensor
    heads: int
    head_dim: int
    _normed: Tensor | None = None
    _qkv: dict[str, Tensor] = field(default_factory=dict)
    _attended: dict[tuple[str, bool], Tensor] = field(default_factory=dict)

    def attn_out(self, method: Method) -> Tensor:
        """`(B, gh · gw, C)`: the method's attention, projected."""
        outputs = [self._attend(kind, method.normalize) for kind in method.attention]
        total = outputs[0] if len(outputs) == 1 else torch.stack(outputs).sum(dim=0)
        if method.combine == "mean":
            total = total / len(outputs)
        return self.block.out_proj(total.transpose(1, 2).flatten(2)[:, 1:])

    def _attend(self, kind: str, iterated: bool) -> Tensor:
        if (kind, iterated) not in self._attended:
            qkv = self._project(needed(kind))
            if iterated:
                temperature = gem_temperature(self._norm(), self.head_dim)
                self._attended[kind, iterated] = attend_iterated(kind, qkv, temperature)
            else:
                self._attended[kind, iterated] = attend(kind, qkv)
        return self._attended[kind, iterated]

    def _project(self, names: frozenset[str]) -> dict[str, Tensor]:
        missing = sorted(names - self._qkv.keys())
        if missing:
            self._qkv |= self.block.project_qkv(self._norm(), names=missing, heads=self.heads)
        return self._qkv

    def _norm(self) -> Tensor:
        if self._normed is None:
            self._normed = self.block.ln_1(self.tokens)
        return self._normed
