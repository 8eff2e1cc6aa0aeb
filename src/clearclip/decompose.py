"""The one interpreter of `Method`: dense features of a backbone's last blocks, rewritten. See `methods.py`.

All methods with the same position table share one pass of the unmodified trunk; each adds only its own rewritten
attention, and methods that share an attention, or its projected output, share that too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip.attention import KINDS, Site, fused_attention
from clearclip.backbones.base import Backbone, check_backbone
from clearclip.backbones.devices import inference
from clearclip.errors import UsageError
from clearclip.methods import Method, parse_method, parse_methods

MethodLike = str | Method
_AFTER_ATTENTION = {"name", "residual", "alpha", "ffn", "window", "stitched"}
_NOT_READ_BY_KINDS = _AFTER_ATTENTION | {"attention", "combine", "positions", "depth"}
"""All other axes are in the caches' keys, also those that are still to come."""
Several = list[MethodLike] | list[str] | list[Method] | tuple[MethodLike, ...]


@dataclass(frozen=True)
class Parts:
    """One method's features with what they are made of (paper section 3.2), all of the patch tokens alone.

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

    Images are `(B, 3, H, W)`, normalised; sides that are no multiple of the patch size are zero-padded on both sides,
    the smaller half at the top and left. `(B, gh, gw, E)` float, projected and not normalised, or with `parts` X_res,
    X_attn and X_sum too; for a list of methods a dict by spelling. `UsageError` if the images have another shape, or a
    method is unknown or deeper than the model.
    """
    check_backbone(backbone)
    if images.ndim != 4 or images.shape[1] != 3:
        raise UsageError(f"images have the shape {tuple(images.shape)}: (B, 3, H, W) is needed")
    single = isinstance(method, (str, Method))
    methods = parse_methods([method] if isinstance(method, (str, Method)) else method)
    if later := [row.spelling for row in methods if row.stitched != "none"]:
        raise UsageError(f"{later[0]} reads features of several windows: use a Segmenter instead of dense_features")
    padded, _ = pad_to_patches(images.to(backbone.device, backbone.dtype), backbone.patch_size)
    grid_size = (padded.shape[2] // backbone.patch_size, padded.shape[3] // backbone.patch_size)
    results = read(backbone, padded, methods, grid_size=grid_size)
    if parts:
        return results[methods[0]] if single else {row.spelling: results[row] for row in methods}
    if single:
        return results[methods[0]].features
    return {row.spelling: results[row].features for row in methods}


@dataclass
class Trunk:
    """What the unmodified blocks made of some images: the inputs of blocks, by position table and block.

    `passes` counts how often they ran.
    """

    inputs: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    passes: int = 0


def read(
    backbone: Backbone,
    images: Tensor,
    methods: Iterable[Method],
    *,
    grid_size: tuple[int, int],
    trunk: Trunk | None = None,
) -> dict[Method, Parts]:
    """The whole formula for images of whole patches, the trunk running once for each position table.

    A `trunk` from an earlier call with the same images is used, and gains what it lacks. `UsageError` if a row does not
    fit the model.
    """
    trunk = Trunk() if trunk is None else trunk
    rows = list(methods)
    for row in rows:
        check_depth(backbone, row)
    results: dict[Method, Parts] = {}
    for how, group in group_by_table(backbone, rows, grid_size).items():
        wanted, kept = wanted_blocks(backbone, group), trunk.inputs.setdefault(how, {})
        if not kept.keys() >= set(wanted):
            kept |= run_trunk(backbone, images, positions=how, wanted=wanted)
            trunk.passes += 1
        results |= rewrite(backbone, kept, group, grid_size=grid_size)
    return results


def pad_to_patches(images: Tensor, patch_size: int) -> tuple[Tensor, tuple[int, int]]:
    """Zero-pad `(B, 3, H, W)` to multiples of the patch size (protocol, inference step 3).

    Also how many pixels were added at the top and at the left.
    """
    height, width = -images.shape[2] % patch_size, -images.shape[3] % patch_size
    top, left = height // 2, width // 2
    if not (height or width):
        return images, (0, 0)
    return F.pad(images, (left, width - left, top, height - top)), (top, left)


def group_by_table(
    backbone: Backbone, methods: Iterable[Method], grid_size: tuple[int, int]
) -> dict[str, list[Method]]:
    """Methods by the position table that they really read on this grid, which decides how often the trunk runs."""
    groups: dict[str, list[Method]] = {}
    for method in methods:
        groups.setdefault(backbone.table_kind(grid_size, method.positions), []).append(method)
    return groups


def check_depth(backbone: Backbone, method: Method) -> None:
    """`UsageError` if a method rewrites more blocks than the model has."""
    count = len(backbone.blocks)
    if method.depth > count:
        raise UsageError(
            f"depth={method.depth} needs {method.depth} blocks, but {backbone.name} has {count}: "
            f"use depth={count} or less"
        )


def fit_depth(method: MethodLike, *, blocks: int) -> Method:
    """The row for a model of so many blocks: GEM rewrites 6, a shallower model's row half of its own."""
    row = parse_method(method)
    return row if row.depth <= blocks else replace(row, depth=max(blocks // 2, 1))


def wanted_blocks(backbone: Backbone, methods: Iterable[Method]) -> range:
    """Which blocks' inputs the rows read, counted from 0."""
    count = len(backbone.blocks)
    return range(count - max(row.depth for row in methods), count)


def run_trunk(backbone: Backbone, images: Tensor, *, positions: str, wanted: Iterable[int]) -> dict[int, Tensor]:
    """Run the unmodified blocks, as the library runs them, and keep the inputs of the wanted ones, counted from 0.

    Images are of whole patches; by block `(B, num_prefix_tokens + gh · gw, C)`. None behind the last of them is run.
    """
    kept = set(wanted)
    grid_size = (images.shape[2] // backbone.patch_size, images.shape[3] // backbone.patch_size)
    tokens = backbone.embed(images, positions)
    inputs = {}
    with fused_attention(tokens):
        for index, block in enumerate(backbone.blocks):
            if index in kept:
                inputs[index] = tokens
            if index == max(kept):
                break
            tokens = block.forward(tokens, grid_size)
    return inputs


def class_features(backbone: Backbone, images: Tensor, *, positions: str) -> Tensor:
    """The class token's features of whole patches `(B, 3, H, W)`, as the model itself has them: `(B, E)`.

    `UsageError` for a model without a class token.
    """
    if not backbone.num_prefix_tokens:
        raise UsageError(f"{backbone.name} has no class token to read whole images with: use a CLIP or BLIP model")
    last = len(backbone.blocks) - 1
    tokens = run_trunk(backbone, images, positions=positions, wanted=[last])[last]
    grid_size = (images.shape[2] // backbone.patch_size, images.shape[3] // backbone.patch_size)
    with fused_attention(tokens):
        features: Tensor = backbone.head(backbone.blocks[last].forward(tokens, grid_size)[:, 0])
    return features


def rewrite(
    backbone: Backbone, inputs: Mapping[int, Tensor], methods: Iterable[Method], *, grid_size: tuple[int, int]
) -> dict[Method, Parts]:
    """The formula of `methods.py` on the trunk's streams, for rows of one position table."""
    count, prefix = len(backbone.blocks), backbone.num_prefix_tokens
    sites = {
        index: Site(backbone.blocks[index], tokens, backbone.heads, prefix, grid_size)
        for index, tokens in inputs.items()
    }
    last = backbone.blocks[-1]
    attended: dict[object, Tensor] = {}
    sums: dict[object, Tensor] = {}
    results = {}
    for method in methods:
        key = _key(method, _AFTER_ATTENTION)
        if key not in sums:
            outputs = [_attn_out(sites[index], method, attended) for index in range(count - method.depth, count)]
            sums[key] = torch.stack(outputs).sum(dim=0)
        attn_out, residual = sums[key], inputs[count - method.depth][:, prefix:]
        total = add_residual(method, residual, attn_out)
        tokens = total + last.mlp(last.ln_2(total)) if method.ffn else total
        projected = tokens if method.stitched != "none" else backbone.head(tokens)
        features, *others = (part.unflatten(1, grid_size) for part in (projected, residual, attn_out, total))
        results[method] = Parts(features, *others)
    return results


def _key(method: Method, without: set[str]) -> tuple[object, ...]:
    return tuple(getattr(method, axis.name) for axis in fields(method) if axis.name not in without)


def _attn_out(site: Site, method: Method, attended: dict[object, Tensor]) -> Tensor:
    """`(B, gh · gw, C)`: the method's attention in one block, projected; what kinds answer is kept in `attended`."""
    outputs = []
    for kind in method.attention:
        key = (id(site), kind, _key(method, _NOT_READ_BY_KINDS))
        if key not in attended:
            term = KINDS[kind](site, method)
            attended[key] = site.v if term is None else term.apply(site.v)
        outputs.append(attended[key])
    total = outputs[0] if len(outputs) == 1 else torch.stack(outputs).sum(dim=0)
    if method.combine == "mean":
        total = total / len(outputs)
    return site.block.out_proj(total.transpose(1, 2).flatten(2)[:, site.num_prefix_tokens :])


def add_residual(method: Method, residual: Tensor, attn_out: Tensor) -> Tensor:
    """X_sum = `ρ(X_res) + alpha · X_attn` of the patch tokens, `(B, N, C)` each."""
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

    `(B, C)` indices from X_res of the patch tokens `(B, N, C)`, by mean magnitude or signed mean.
    """
    values = residual.float() if signed else residual.float().abs()
    return values.mean(dim=1).argsort(dim=-1, descending=True, stable=True)
