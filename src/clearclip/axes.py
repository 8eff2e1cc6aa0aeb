"""What a method's axes take: their names and values, and which of them make sense together. Plain data, no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clearclip.constants import CONSTANTS, Constant
from clearclip.errors import UsageError, nearest

if TYPE_CHECKING:
    from clearclip.methods import Method

KINDS = ["qk", "qq", "kk", "vv", "identity", "uniform", "mid", "procrustes", "procrustes-svd", "fused"]
"""Names of the attention kinds; `attention.py` has their functions."""
SELF_KINDS = ("qq", "kk", "vv")
WITHOUT_LOGITS = {"identity", "mid", "fused"}
"""Kinds that a prior does not change."""
COMBINE = ("sum", "mean")
RESIDUALS = ("keep", "drop", "normalize", "beta", "signed-beta", "class")
REPAIRS = ("none", "lof", "norm")
FIRST_RELEASE = 10
"""Outliers of SC-CLIP's first release."""
POOLS = ("none", "before", "after")
STREAMS = ("last", "sum", "each")
REFINE = re.compile(r"none|pamr:[1-9]\d{0,3}:[1-9]\d{0,3}(\+[1-9]\d{0,3}){0,7}|tlp:[1-9]\d{0,3}(:[1-9]\d{0,3})?")
PROPAGATED = 25
"""PEARL's steps."""
ONE_BLOCK_ALONE = {"mix": "none", "repair": "none", "pool": "none", "streams": "last"}
"""Axes whose other values no deeper row has."""
WINDOW_STAGES = ["none", "cliper", "sfr"]
"""Names of the stages that see a window with its words; `classify/maps.py` has their functions."""
STITCHED_STAGES = ["none", "mean"]
"""Names of the stages that see an image's stitched features; `encode/stitch.py` has their functions."""
AFTER_ATTENTION = {"name", "residual", "alpha", "ffn", "omega", "post", "window", "stitched", "refine"} | {
    one.name for one in CONSTANTS.values() if all(axis == "window" for axis, _ in one.read_by)
}
"""What changes nothing of the attention's output."""
LARGEST_ALPHA = 10_000_000
POSITIONS = ("model", "offset", "antialias", "size", "bilinear16")


@dataclass(frozen=True)
class Axis:
    """One switch of a method: its spelling on the command line and what its values mean."""

    name: str
    values: str
    meaning: str


AXES = (
    Axis(
        "attention",
        "qk | qq | kk | vv | identity | uniform | mid | procrustes | procrustes-svd | fused, or several joined by +",
        "who attends to whom in the block; uniform: all alike, but for the prior; mid: patches alike in block pre; "
        "procrustes: queries to keys that were turned towards them (PEARL), procrustes-svd: turned exactly; fused: as "
        "in all blocks before (CLIPer)",
    ),
    Axis(
        "prior",
        "none | gaussian:σ",
        "what the attention's logits gain: exp(-d²/2σ²) between patches at distance d, d and σ in patches (NACLIP)",
    ),
    Axis("combine", "sum | mean", "how several attention kinds are put together"),
    Axis("normalize", "yes | no", "GEM's L2-normalised, once-iterated self-self attention with its own temperature"),
    Axis(
        "residual",
        "keep | drop | normalize | beta:P | signed-beta:P | class",
        "X_res: kept, dropped, each token scaled to unit L2 norm, without the P % of channels with the highest "
        "mean magnitude (beta) or signed mean (signed-beta) over the window's patch tokens, or omega times the class "
        "token instead (SC-CLIP)",
    ),
    Axis("alpha", "a number ≥ 0", "X_sum = X_res + alpha · X_attn"),
    Axis("ffn", "keep | drop", "the feed-forward network of the last block"),
    Axis(
        "positions",
        "model | offset | antialias | size | bilinear16",
        "how the position table is resized away from the native size: as the paper does for the model's family "
        "(CLIP: offset, BLIP: size), bicubic with the +0.1 offset, bicubic with antialiasing (GEM), plain bicubic, or "
        "bilinear and rounded to float16 at every size (CLIPer)",
    ),
    Axis("depth", "a whole number ≥ 1", "how many last blocks add their rewritten attention to the residual"),
    Axis("class_token", "in | out", "whether the block's patches attend to the tokens that stand before them"),
    Axis(
        "repair",
        "none | lof | norm:COUNT",
        "outliers of the last block's input, replaced by the mean of their neighbours on the grid: lof: the share that "
        "lies farthest from its k nearest; norm: the COUNT longest, as SC-CLIP's first release",
    ),
    Axis(
        "mix",
        "none | BLOCKS:τ:λ",
        "τ · ((1 - λ) · attention + λ · the mean of these blocks' own), as in 5-8:2:0.3, blocks from 0 (ResCLIP's RCS)",
    ),
    Axis(
        "pool",
        "none | before | after | before+after",
        "each patch becomes the weighted mean of those like it, before or after the block (SC-CLIP)",
    ),
    Axis(
        "streams",
        "last | sum | last+sum | each",
        "what goes through the block: its input, the sum of the outputs of the blocks from start to end, or both "
        "(SC-CLIP); each: the input of every block by itself, so that a patch has as many features (CLIPer)",
    ),
    *(Axis(one.name, one.values, f"{one.meaning}; read by {one.readers}") for one in CONSTANTS.values()),
    Axis(
        "window",
        "none | cliper | sfr",
        "what looks at each window once more, with its pixels and the words; cliper: scores of every block's features, "
        "spread by the attention; sfr: the last block once more, by the labels that it found (ResCLIP)",
    ),
    Axis(
        "stitched",
        "none | mean",
        "none: windows are compared with the words and the cosines stitched; else the features are stitched before "
        "the projection (mean: over the windows) and compared after",
    ),
    Axis(
        "refine",
        "none | pamr:STEPS:D1+D2 | tlp:GRID | tlp:GRID:STEPS",
        "what sharpens edges by the image's pixels: pamr spreads each word's logits to neighbours of like colour, D "
        "pixels away (NACLIP: pamr:10:8+16); tlp smooths them but for edges on GRID cells a side (PEARL: tlp:80)",
    ),
)


def check(method: Method) -> None:
    """`UsageError` for a value that an axis does not take, and for a combination that makes no sense."""
    _check_values(method)
    _check_combination(method)


def check_choice(axis: str, value: str, options: Iterable[str]) -> None:
    """`UsageError` for a value that is none of an axis's options, with the nearest."""
    allowed = tuple(options)
    if value not in allowed:
        raise UsageError(f"{axis}={value!r} is not known: {nearest(value, allowed)}")


def _check_values(method: Method) -> None:
    if not method.attention:
        raise UsageError("attention is empty: give at least one of " + ", ".join(KINDS))
    for kind in method.attention:
        check_choice("attention", kind, KINDS)
    if len(set(method.attention)) < len(method.attention):
        raise UsageError(f"attention={'+'.join(method.attention)} names a kind twice: name each once")
    kind, colon, sigma = method.prior.partition(":")
    check_choice("prior", kind, ("none", "gaussian"))
    if (kind == "none") == bool(colon) or (colon and not (is_number(sigma) and 0.01 <= float(sigma) <= 10_000)):
        raise UsageError(f"prior={method.prior!r}: write none, or the width in patches (0.01–10,000), as in gaussian:5")
    check_choice("combine", method.combine, COMBINE)
    check_choice("positions", method.positions, POSITIONS)
    check_choice("window", method.window, WINDOW_STAGES)
    check_choice("stitched", method.stitched, STITCHED_STAGES)
    check_choice("residual", method.residual_kind, RESIDUALS)
    _, colon, percent = method.residual.partition(":")
    if method.residual_kind.endswith("beta"):
        if not is_number(percent) or not 0 <= float(percent) <= 100:
            raise UsageError(
                f"residual={method.residual!r}: the share of channels is a percentage from 0 to 100, as in beta:30"
            )
    elif colon:
        raise UsageError(f"residual={method.residual!r}: only beta and signed-beta take a percentage")
    if not 0 <= method.alpha <= LARGEST_ALPHA:
        raise UsageError(f"alpha={method.alpha!r}: a finite number of at least 0, up to {LARGEST_ALPHA:,}, is needed")
    check_choice("class_token", method.class_token, ("in", "out"))
    kind, colon, count = method.repair.partition(":")
    check_choice("repair", kind, REPAIRS)
    if colon and not (kind == "norm" and count.isdecimal() and 0 < int(count) <= LARGEST_ALPHA):
        raise UsageError(f"repair={method.repair!r}: write none, lof, or norm with a count from 1, as in norm:10")
    if method.mix != "none":
        first, last, total, share = method.mixed or (1, 0, 0.0, 0.0)
        if not (first <= last and 0 < total <= LARGEST_ALPHA and 0 <= share <= 1):
            raise UsageError(f"mix={method.mix!r}: write none, or blocks, τ above 0 and λ from 0 to 1, as in 5-8:2:0.3")
    if REFINE.fullmatch(method.refine) is None:
        raise UsageError(
            f"refine={method.refine!r}: write none, pamr with steps and dilations in pixels, as in pamr:10:8+16, or "
            "tlp with cells and steps, as in tlp:80:25; numbers from 1 to 9999"
        )
    for axis, options in (("pool", POOLS), ("streams", STREAMS)):
        given = getattr(method, axis).split("+")
        for part in given:
            check_choice(axis, part, options)
        if len(set(given)) < len(given) or (len(given) > 1 and {"none", "each"} & set(given)):
            raise UsageError(f"{axis}={getattr(method, axis)}: name each once, and none or each alone")
    for constant in CONSTANTS.values():
        _check_constant(method, constant)
    if isinstance(method.depth, bool) or not isinstance(method.depth, int) or method.depth < 1:
        raise UsageError(f"depth={method.depth!r}: a whole number of at least 1 is needed")


def is_read(method: Method, constant: Constant) -> bool:
    """Whether the row has a switch that reads the constant."""

    def parts(axis: str) -> tuple[str, ...]:
        value = getattr(method, axis)
        return value if isinstance(value, tuple) else tuple(part.partition(":")[0] for part in value.split("+"))

    return any(value in parts(axis) for axis, value in constant.read_by)


def _check_constant(method: Method, constant: Constant) -> None:
    value, name = getattr(method, constant.name), constant.name
    if value is None:
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not constant.low <= value <= constant.high or (constant.whole and value != int(value)):
        kind = "whole number" if constant.whole else "number"
        raise UsageError(f"{name}={value!r}: a {kind} from {constant.low:g} to {constant.high:,g} is needed")
    if not is_read(method, constant):
        raise UsageError(f"{name}={value:g} has no effect: only {constant.readers} reads it, so leave it out")


def _check_combination(method: Method) -> None:
    if method.normalize:
        others = [kind for kind in method.attention if kind not in SELF_KINDS]
        if others:
            raise UsageError(
                f"normalize=yes with attention={'+'.join(others)} makes no sense: GEM's iteration is defined for "
                "self-self attention only (qq, kk, vv)"
            )
    if method.sigma is None and "uniform" in method.attention:
        raise UsageError("attention=uniform without a prior makes all patches alike: add prior=gaussian:5")
    if method.sigma is not None and (method.normalize or set(method.attention) <= WITHOUT_LOGITS):
        what = "normalize=yes" if method.normalize else f"attention={'+'.join(method.attention)}"
        raise UsageError(f"prior={method.prior} with {what} has no effect: it is added to the logits of one attention")
    if method.window != "none" and method.stitched != "none":
        raise UsageError(
            f"window={method.window} with stitched={method.stitched} makes no sense: features are stitched "
            "before windows meet the words"
        )
    if method.depth > 1 and method.ffn:
        raise UsageError(
            f"depth={method.depth} with ffn=keep makes no sense: the stream beside the unmodified one has no "
            "feed-forward network (use ffn=drop or depth=1)"
        )
    if (method.streams == "each") != (method.window == "cliper"):
        raise UsageError(
            f"streams={method.streams} with window={method.window} makes no sense: features of each block need "
            "window=cliper, which needs streams=each"
        )
    if method.streams == "each" and (
        method.residual != "drop" or method.ffn or {method.repair, method.pool, method.mix} != {"none"}
    ):
        raise UsageError("streams=each makes no sense but with residual=drop, ffn=drop and no repair, pool or mix")
    if "fused" in method.attention and (method.streams != "each" or method.class_token == "out"):
        raise UsageError("attention=fused makes no sense but with streams=each and class_token=in")
    if method.window == "sfr" and (method.normalize or set(method.attention) & {*WITHOUT_LOGITS, "uniform"}):
        raise UsageError(
            "window=sfr with normalize=yes or attention=identity, mid, uniform or fused makes no sense: it adds to "
            "logits"
        )
    many = [axis for axis, usual in ONE_BLOCK_ALONE.items() if getattr(method, axis) != usual]
    if method.depth > 1 and many:
        raise UsageError(
            f"depth={method.depth} with {many[0]}={getattr(method, many[0])} makes no sense: that is defined for the "
            "last block alone (use depth=1)"
        )
    if method.residual_kind in ("drop", "class") and method.alpha == 0:
        raise UsageError(f"residual={method.residual} with alpha=0 leaves nothing: keep the residual or raise alpha")
    if method.residual_kind == "drop" and not method.ffn and method.alpha != 1:
        raise UsageError(
            f"alpha={method.alpha:g} with residual=drop,ffn=drop has no effect: the final LayerNorm undoes a scale "
            "(keep the residual to use alpha)"
        )


def add_name(axis: str, name: str) -> None:
    """Let an axis accept a name whose function has just been registered."""
    names = {"attention": KINDS, "window": WINDOW_STAGES, "stitched": STITCHED_STAGES}[axis]
    if name not in names:
        names.append(name)


def is_number(text: str) -> bool:
    """Whether a text is a number of at least 0, as people write them."""
    return re.fullmatch(r"(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", text) is not None
