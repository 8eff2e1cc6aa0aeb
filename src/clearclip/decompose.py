"""The one interpreter of `Method`: dense features of a backbone's last blocks, rewritten. See `methods.py`.

All methods with the same position table share one pass of the unmodified trunk; each adds only its own rewritten
attention, and methods that share an attention, or its projected output, share that too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip.attention import KINDS, Feedback, Site, Term, fused_attention, patch_attention
from clearclip.axes import AFTER_ATTENTION
from clearclip.backbones.base import Backbone, check_backbone
from clearclip.backbones.devices import inference
from clearclip.errors import UsageError
from clearclip.mend import Streams, pool
from clearclip.methods import Method, parse_method, parse_methods, settle

MethodLike = str | Method
_NOT_READ_BY_KINDS = AFTER_ATTENTION | {"attention", "combine", "positions", "depth", "mix"}
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
        attention: Of the last block between patches, the mean over heads, `(B, N, N)`; for rows with streams=each.
        early: The trunk's mean attention `(B, gh · gw, gh · gw)`, if `read` was asked for it.

    Of rows with streams=each features, attn_out and sum have one more axis after the first, the blocks.
    """

    features: Tensor
    residual: Tensor
    attn_out: Tensor
    sum: Tensor
    attention: Tensor | None = None
    early: Tensor | None = None


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
    if asked := [row.spelling for row in methods if row.window == "sfr"]:
        raise UsageError(f"{asked[0]} has features that depend on the words: use a Segmenter, or window=none")
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

    `early` has their mean attention by position table and number of heads, `passes` counts how often they ran.
    """

    inputs: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    early: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    passes: int = 0


def read(
    backbone: Backbone,
    images: Tensor,
    methods: Iterable[Method],
    *,
    grid_size: tuple[int, int],
    trunk: Trunk | None = None,
    early: bool = False,
) -> dict[Method, Parts]:
    """The whole formula for images of whole patches, the trunk running once for each position table.

    A `trunk` from an earlier call with the same images is used, and gains what it lacks. With `early`, each row also
    gets the trunk's mean attention. `UsageError` if a row does not fit the model.
    """
    trunk = Trunk() if trunk is None else trunk
    rows = list(methods)
    for row in rows:
        fitted(backbone, row)
    if early and len(backbone.blocks) < 2:
        raise UsageError(f"{backbone.name} has one block: there is no early attention, use a deeper model")
    results: dict[Method, Parts] = {}
    for how, group in group_by_table(backbone, rows, grid_size).items():
        wanted, kept = wanted_blocks(backbone, group), trunk.inputs.setdefault(how, {})
        means = trunk.early.setdefault(how, {})
        lacking = {early_heads(backbone, row) for row in group if early} - means.keys()
        if lacking or not kept.keys() >= set(wanted):
            watch = early_attention(means, heads=lacking, blocks=len(backbone.blocks) - 1)
            kept |= run_trunk(backbone, images, positions=how, wanted=wanted, watch=watch)
            trunk.passes += 1
        found = rewrite(backbone, kept, group, grid_size=grid_size)
        if early:
            found = {row: replace(parts, early=means[early_heads(backbone, row)]) for row, parts in found.items()}
        results |= found
    return results


def early_heads(backbone: Backbone, row: Method) -> int:
    """How many heads the mean early attention is taken over: GEM's is its first head's alone (FreeCP 1.4, trap 2)."""
    return 1 if row.normalize else backbone.heads


def early_attention(means: dict[int, Tensor], *, heads: Iterable[int], blocks: int) -> Callable[[Site], None]:
    """What lets `run_trunk` put the mean attention of so many blocks into `means`, for each number of first heads."""

    def add(site: Site) -> None:
        for count in heads:
            part = patch_attention(site, heads=count) / blocks
            means[count] = means[count].add_(part) if count in means else part

    return add


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


def fitted(backbone: Backbone, method: Method) -> Method:
    """The row with its numbers for this model; `UsageError` if the model has too few blocks or lacks a token for it."""
    if method.residual == "class" and not backbone.num_prefix_tokens:
        raise UsageError(f"residual=class of {method.name} adds the class token, which {backbone.name} has not")
    return settle(method, blocks=len(backbone.blocks), model=backbone.name)


def fit_depth(method: MethodLike, *, blocks: int) -> Method:
    """The row for a model of so many blocks: GEM rewrites 6, a shallower model's row half of its own."""
    row = parse_method(method)
    return row if row.depth <= blocks else replace(row, depth=max(blocks // 2, 1))


def wanted_blocks(backbone: Backbone, methods: Iterable[Method]) -> set[int]:
    """Which blocks' inputs the rows read, counted from 0."""
    count = len(backbone.blocks)
    wanted: set[int] = set()
    for row in (fitted(backbone, method) for method in methods):
        wanted |= {*range(0 if row.streams == "each" else count - row.depth, count)}
        wanted |= set() if row.mixed is None else {*range(row.mixed[0], row.mixed[1] + 1)}
        wanted |= {block + 1 for block in (row.pre, row.post) if block is not None}
        if row.start is not None and row.end is not None:
            wanted |= {*range(row.start + 1, row.end + 1)}
    return wanted


def run_trunk(
    backbone: Backbone,
    images: Tensor,
    *,
    positions: str,
    wanted: Iterable[int],
    watch: Callable[[Site], None] = lambda site: None,
) -> dict[int, Tensor]:
    """Run the unmodified blocks, as the library runs them, and keep the inputs of the wanted ones, counted from 0.

    Images are of whole patches; by block `(B, num_prefix_tokens + gh · gw, C)`. None behind the last of them is run;
    `watch` sees each one that is run, with its input.
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
            watch(Site(block, tokens, backbone.heads, backbone.num_prefix_tokens, grid_size))
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
    backbone: Backbone,
    inputs: Mapping[int, Tensor],
    methods: Iterable[Method],
    *,
    grid_size: tuple[int, int],
    feedback: Feedback | None = None,
) -> dict[Method, Parts]:
    """The formula of `methods.py` on the trunk's streams, for rows of one position table; `feedback`: once more."""
    streams = Streams(inputs, backbone.num_prefix_tokens, grid_size, backbone.blocks)
    shared = _Shared(backbone, streams, feedback)
    return {method: _rewritten(shared, fitted(backbone, method)) for method in methods}


@dataclass
class _Shared:
    """What rows of one position table share: sites by the tokens that enter them, and what attention made of them."""

    backbone: Backbone
    streams: Streams
    feedback: Feedback | None
    sites: dict[object, Site] = field(default_factory=dict)
    attended: dict[object, Tensor] = field(default_factory=dict)

    def site(self, index: int, tokens: Tensor, row: Method, *, rounds: int = 0) -> Site:
        key = (index, id(tokens), row.class_token, rounds)
        if key not in self.sites:  # it holds the tokens, so that no others get their id
            block, streams = self.backbone.blocks[index], self.streams
            own = (block, tokens, self.backbone.heads, streams.num_prefix_tokens, streams.grid_size)
            self.sites[key] = Site(*own, row.class_token == "in", streams, rounds)
        return self.sites[key]


def _rewritten(shared: _Shared, row: Method) -> Parts:
    streams, backbone, prefix = shared.streams, shared.backbone, shared.streams.num_prefix_tokens
    last, first = backbone.blocks[-1], len(backbone.blocks) - row.depth
    attn_outs, sums = [], []
    for number, stream in enumerate(streams.names(row), start=1):
        rounds = number if row.streams == "each" else 0
        key = (stream, row.values(without=AFTER_ATTENTION))
        if key not in shared.attended:
            sites = [
                shared.site(index, tokens, row, rounds=rounds)
                for index, tokens in streams.entering(row, stream).items()
            ]
            outputs = [_attn_out(shared, site, row) for site in sites]
            shared.attended[key] = torch.stack(outputs).sum(dim=0)
        attn_out, beside = shared.attended[key], streams.beside(row, stream)
        total = add_residual(row, beside[:, prefix:], attn_out, class_token=beside[:, :1])
        if "after" in row.pool:
            total = pool(total, streams.after(row), row.number("beta"))
        attn_outs.append(attn_out)
        sums.append(total)
    if row.streams == "each":
        attn_out, total = (torch.stack(parts, dim=1) for parts in (attn_outs, sums))
    elif len(sums) > 1:
        attn_out, total = (torch.stack(parts).sum(dim=0) for parts in (attn_outs, sums))
    tokens = total + last.mlp(last.ln_2(total)) if row.ffn else total
    projected = tokens if row.stitched != "none" else backbone.head(tokens)
    residual = streams.inputs[first][:, prefix:]
    parts = [part.unflatten(-2, streams.grid_size) for part in (projected, residual, attn_out, total)]
    last_site = shared.site(streams.last, streams.inputs[streams.last], row, rounds=rounds)
    own = _attention(last_site, row) if row.streams == "each" else None
    return Parts(parts[0], parts[1], parts[2], parts[3], own)


def _attention(site: Site, row: Method) -> Tensor:
    """The row's attention between patches, the mean over heads; rows do not sum to 1, as prefix tokens are cut off."""
    terms = [KINDS[kind](site, row) for kind in row.attention]
    own = torch.eye(site.tokens.shape[1] - site.num_prefix_tokens + site.prefix, device=site.tokens.device)
    parts = [own if term is None else term.weights().float().mean(dim=1) for term in terms]
    total = sum(part.expand(len(site.tokens), -1, -1)[:, site.prefix :, site.prefix :] for part in parts)
    return torch.as_tensor(total) / (len(parts) if row.combine == "mean" else 1)


def _attn_out(shared: _Shared, site: Site, method: Method) -> Tensor:
    """`(B, gh · gw, C)`: the method's attention in one block, projected; what kinds answer is shared."""
    attended = shared.attended
    outputs = []
    for kind in method.attention:
        key = (id(site), kind, method.values(without=_NOT_READ_BY_KINDS))
        if key not in attended:
            term = KINDS[kind](site, method)
            if term is not None and shared.feedback is not None:
                term = shared.feedback.added(term, site)
            attended[key] = site.v if term is None else term.apply(site.v)
        outputs.append(attended[key])
    total = outputs[0] if len(outputs) == 1 else torch.stack(outputs).sum(dim=0)
    if method.combine == "mean":
        total = total / len(outputs)
    if method.mixed is not None:
        first, last, tau, share = method.mixed
        mixed = (id(site), "mix", first, last)
        if mixed not in attended:
            others = [shared.site(index, shared.streams.inputs[index], method) for index in range(first, last + 1)]
            parts = [Term(other.q, other.k).apply(site.v) for other in others]
            attended[mixed] = torch.stack(parts).mean(dim=0)
        total = tau * ((1 - share) * total + share * attended[mixed])
    return site.block.out_proj(total.transpose(1, 2).flatten(2)[:, site.prefix :])


def add_residual(method: Method, residual: Tensor, attn_out: Tensor, *, class_token: Tensor) -> Tensor:
    """X_sum = `ρ(X_res) + alpha · X_attn` of the patch tokens, `(B, N, C)` each; the class token is `(B, 1, C)`."""
    scaled = attn_out if method.alpha == 1 else method.alpha * attn_out
    kind = method.residual_kind
    if kind == "drop":
        return scaled
    if kind == "keep":
        return residual + scaled
    if kind == "class":
        return method.number("omega") * class_token + scaled
    if kind == "normalize":
        return F.normalize(residual, dim=-1) + scaled
    strongest = rank_channels(residual, signed=kind == "signed-beta")
    dropped = strongest[:, : round(method.percent * residual.shape[-1] / 100)]
    kept = torch.ones_like(residual[:, 0]).scatter_(1, dropped, 0.0)
    return residual * kept[:, None] + scaled


def rank_channels(residual: Tensor, *, signed: bool) -> Tensor:
    """Channels from the strongest to the weakest, one ranking an encoder input (supplement, table 1).

    `(B, C)` indices from X_res of the patch tokens `(B, N, C)`, by mean magnitude or signed mean.
    """
    values = residual.float() if signed else residual.float().abs()
    return values.mean(dim=1).argsort(dim=-1, descending=True, stable=True)
