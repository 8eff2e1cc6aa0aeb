"""Methods as rows of data: what the last block keeps, drops and attends with. Plain data, no torch.

One formula covers the methods, their combinations and the paper's ablations; `decompose.py` alone interprets it. With
`x_l` the unmodified stream of a pre-norm ViT with L blocks and `A_l` the rewritten attention of block l, summed over
the row's streams, whose tokens may be pooled before and after:

    y = ρ(x_{L-depth}) + alpha · Σ_{l > L-depth} A_l(ln_1(x_{l-1}))
    if ffn: y = y + mlp(ln_2(y))
    features = proj(ln_post(y)) of the patch tokens
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from clearclip.constants import CONSTANTS, Constant
from clearclip.errors import UsageError, nearest
from clearclip.files.commas import split_items

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


@dataclass(frozen=True)
class Method:
    """One row of the decomposition (paper sections 3.2–3.4; GEM after Bousselham et al., CVPR 2024).

    `AXES` has the meaning of every value. `UsageError` if a value is unknown or the combination makes no sense.

    Attributes:
        name: The named method this row starts from, or a name of your own.
        attention: `"qk"` is the original, `"qq"`, `"kk"` and `"vv"` are self-self, `"identity"` lets each token read
            its own value, `"uniform"` is NACLIP's prior alone.
        prior: `"none"`, or `"gaussian:σ"` with σ in patches: added to the attention's logits between patches.
        combine: `"sum"` (SCLIP) or `"mean"` (GEM) of several kinds.
        normalize: GEM's normalised, once-iterated self-self attention.
        residual: `"keep"`, `"drop"`, `"normalize"`, `"beta:P"` or `"signed-beta:P"`: without `round(P · C / 100)` of
            the C channels. The supplement says "highest average values" without saying whether the sign counts: `beta`
            ranks them by mean magnitude, `signed-beta` by signed mean. `"class"` is omega times the class token.
        alpha: Scale of X_attn.
        depth: Number of last blocks that are rewritten beside the unmodified stream.
        class_token: Whether the patches attend to it.
        mix: Which other blocks' attention is mixed in after the softmax, and how much.
        repair: How outliers of the block's input are found; they become the mean of their neighbours on the grid.
        pool: When patches become the mean of those like them.
        streams: What goes through the block.
        k, share, …, bkg: Numbers of `CONSTANTS`, which says what reads them; `None`: the default for the model's depth.
        window: Stage that sees each window with its words.
        stitched: Stage that sees the image's stitched features; their cosines are then taken once for the image.
        refine: What sharpens the logits' edges by the image's pixels.
    """

    name: str
    attention: tuple[str, ...] = ("qk",)
    prior: str = "none"
    combine: str = "sum"
    normalize: bool = False
    residual: str = "keep"
    alpha: float = 1.0
    ffn: bool = True
    positions: str = "model"
    depth: int = 1
    class_token: str = "in"
    mix: str = "none"
    repair: str = "none"
    pool: str = "none"
    streams: str = "last"
    k: int | None = None
    share: float | None = None
    pre: int | None = None
    temperature: float | None = None
    post: int | None = None
    beta: float | None = None
    start: int | None = None
    end: int | None = None
    omega: float | None = None
    polar_iters: int | None = None
    alpha_kk: float | None = None
    temp_thd: float | None = None
    sfr_tau: float | None = None
    sfr_lambda: float | None = None
    sfr_std: float | None = None
    path: int | None = None
    attention_thr: float | None = None
    select_layer: int | None = None
    fuse: int | None = None
    stretch: int | None = None
    score: float | None = None
    bkg: float | None = None
    window: str = "none"
    stitched: str = "none"
    refine: str = "none"

    def __post_init__(self) -> None:
        if not isinstance(self.attention, str):
            object.__setattr__(self, "attention", tuple(self.attention))
        _check_values(self)
        _check_combination(self)
        if self.residual_kind.endswith("beta"):
            object.__setattr__(self, "residual", f"{self.residual_kind}:{_number(self.percent)}")
        if self.sigma is not None:
            object.__setattr__(self, "prior", f"gaussian:{_number(self.sigma)}")
        object.__setattr__(self, "alpha", float(self.alpha))
        if self.mixed is not None:
            first, last, total, share = self.mixed
            object.__setattr__(self, "mix", f"{first}-{last}:{_number(total)}:{_number(share)}")
        if self.refinement[0] == "tlp":
            object.__setattr__(self, "refine", "tlp:{}:{}".format(*self.refinement[1], PROPAGATED))
        if self.longest:
            object.__setattr__(self, "repair", f"norm:{self.longest}")
        for axis, parts in (("pool", POOLS), ("streams", STREAMS)):
            given = getattr(self, axis).split("+")
            object.__setattr__(self, axis, "+".join(part for part in parts if part in given))
        for name, constant in CONSTANTS.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, int(value) if constant.whole else float(value))

    @property
    def residual_kind(self) -> str:
        """`keep`, `drop`, `normalize`, `beta` or `signed-beta`."""
        return self.residual.partition(":")[0]

    @property
    def percent(self) -> float:
        """Percent of the residual's channels that are dropped (0 unless the residual is a beta row)."""
        _, _, percent = self.residual.partition(":")
        return float(percent) if percent else 0.0

    @property
    def longest(self) -> int:
        """How many of the longest tokens `repair` replaces; 0 unless it is `norm`."""
        kind, _, count = self.repair.partition(":")
        return int(count or FIRST_RELEASE) if kind == "norm" else 0

    @property
    def refinement(self) -> tuple[str, tuple[int, ...]]:
        """The kind of `refine` with its whole numbers: steps and dilations, or cells and steps."""
        kind, _, numbers = self.refine.partition(":")
        return kind, tuple(int(number) for number in re.split("[:+]", numbers) if numbers)

    @property
    def mixed(self) -> tuple[int, int, float, float] | None:
        """First and last block, τ and λ of `mix`; `None` without one."""
        match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?:([^:]+):([^:]+)", self.mix)
        if match is None or not (_is_number(match[3]) and _is_number(match[4])):
            return None
        return int(match[1]), int(match[2] or match[1]), float(match[3]), float(match[4])

    @property
    def sigma(self) -> float | None:
        """Width of the Gaussian prior in patches; `None` without one."""
        _, _, sigma = self.prior.partition(":")
        return float(sigma) if sigma else None

    def values(self, *, without: set[str]) -> tuple[object, ...]:
        """The row without some of its fields, as a key of what depends on all others."""
        return tuple(getattr(self, one.name) for one in fields(self) if one.name not in without)

    def number(self, name: str) -> float:
        """One of `CONSTANTS`, of a row that `settle` gave."""
        value = getattr(self, name)
        assert value is not None
        return float(value)

    @property
    def reads_blocks(self) -> bool:
        """Whether it reads other blocks than those it rewrites."""
        return (
            self.mix != "none"
            or self.streams == "each"
            or any(constant.block and _is_read(self, constant) for constant in CONSTANTS.values())
        )

    @property
    def spelling(self) -> str:
        """The method as `parse_method` reads it; a row with a name of its own is spelled as a change of `vanilla`."""
        base = METHODS.get(self.name, METHODS["vanilla"])
        changed = [
            f"{axis.name}={_spell(axis.name, getattr(self, axis.name))}"
            for axis in AXES
            if getattr(self, axis.name) != getattr(base, axis.name)
        ]
        return f"{base.name}[{','.join(changed)}]" if changed else base.name


def _spell(axis: str, value: object) -> str:
    if isinstance(value, bool):
        words = ("yes", "no") if axis == "normalize" else ("keep", "drop")
        return words[0] if value else words[1]
    if isinstance(value, tuple):
        return "+".join(value)
    if isinstance(value, float):
        return _number(value)
    return str(value)


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _check_choice(axis: str, value: str, options: Iterable[str]) -> None:
    allowed = tuple(options)
    if value not in allowed:
        raise UsageError(f"{axis}={value!r} is not known: {nearest(value, allowed)}")


def _check_values(method: Method) -> None:
    if not method.attention:
        raise UsageError("attention is empty: give at least one of " + ", ".join(KINDS))
    for kind in method.attention:
        _check_choice("attention", kind, KINDS)
    if len(set(method.attention)) < len(method.attention):
        raise UsageError(f"attention={'+'.join(method.attention)} names a kind twice: name each once")
    kind, colon, sigma = method.prior.partition(":")
    _check_choice("prior", kind, ("none", "gaussian"))
    if (kind == "none") == bool(colon) or (colon and not (_is_number(sigma) and 0.01 <= float(sigma) <= 10_000)):
        raise UsageError(f"prior={method.prior!r}: write none, or the width in patches (0.01–10,000), as in gaussian:5")
    _check_choice("combine", method.combine, COMBINE)
    _check_choice("positions", method.positions, POSITIONS)
    _check_choice("window", method.window, WINDOW_STAGES)
    _check_choice("stitched", method.stitched, STITCHED_STAGES)
    _check_choice("residual", method.residual_kind, RESIDUALS)
    _, colon, percent = method.residual.partition(":")
    if method.residual_kind.endswith("beta"):
        if not _is_number(percent) or not 0 <= float(percent) <= 100:
            raise UsageError(
                f"residual={method.residual!r}: the share of channels is a percentage from 0 to 100, as in beta:30"
            )
    elif colon:
        raise UsageError(f"residual={method.residual!r}: only beta and signed-beta take a percentage")
    if not 0 <= method.alpha <= LARGEST_ALPHA:
        raise UsageError(f"alpha={method.alpha!r}: a finite number of at least 0, up to {LARGEST_ALPHA:,}, is needed")
    _check_choice("class_token", method.class_token, ("in", "out"))
    kind, colon, count = method.repair.partition(":")
    _check_choice("repair", kind, REPAIRS)
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
            _check_choice(axis, part, options)
        if len(set(given)) < len(given) or (len(given) > 1 and {"none", "each"} & set(given)):
            raise UsageError(f"{axis}={getattr(method, axis)}: name each once, and none or each alone")
    for constant in CONSTANTS.values():
        _check_constant(method, constant)
    if isinstance(method.depth, bool) or not isinstance(method.depth, int) or method.depth < 1:
        raise UsageError(f"depth={method.depth!r}: a whole number of at least 1 is needed")


def _is_read(method: Method, constant: Constant) -> bool:
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
    if not _is_read(method, constant):
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


def settle(method: Method, *, blocks: int, model: str) -> Method:
    """The row with every number it leaves open, for a model of so many blocks.

    >>> settle(METHODS["scclip"], blocks=12, model="a B/16").spelling
    'scclip[k=30,share=0.05,pre=8,temperature=3,post=3,beta=0.4,start=3,end=10,omega=0.3]'

    `UsageError` if the model is too shallow for it.
    """
    if method.depth > blocks:
        raise UsageError(
            f"depth={method.depth} needs {method.depth} blocks, but {model} has {blocks}: use depth={blocks} or less"
        )
    read = [constant for constant in CONSTANTS.values() if _is_read(method, constant)]
    values = {constant.name: constant.at_depth(blocks) for constant in read if getattr(method, constant.name) is None}
    if method.mixed is not None and method.mixed[1] >= blocks:
        raise UsageError(
            f"mix={method.mix} of {method.name} does not fit {model} of {blocks} blocks: they are counted from 0, so "
            f"the last is {blocks - 1}"
        )
    if method.select_layer is not None and method.select_layer < -blocks:
        raise UsageError(
            f"select_layer={method.select_layer} of {method.name} does not fit {model}: -{blocks} is its first block"
        )
    settled = replace(method, **values) if values else method  # type: ignore[arg-type]
    for constant in read:
        most = blocks - (1 if constant.name == "end" else 2)
        if constant.block and getattr(settled, constant.name) > most:
            raise UsageError(
                f"{constant.name}={getattr(settled, constant.name)} of {method.name} does not fit {model} of {blocks} "
                f"blocks: blocks are counted from 0, and only outputs before the last block are read"
                + (f" (use {constant.name}={most} or less)" if most >= constant.low else "")
            )
    if settled.start is not None and settled.end is not None and settled.start >= settled.end:
        raise UsageError(
            f"start={settled.start} and end={settled.end} of {method.name} leave no block between them, end excluded: "
            "raise end or lower start"
        )
    return settled


def add_name(axis: str, name: str) -> None:
    """Let an axis accept a name whose function has just been registered."""
    names = {"attention": KINDS, "window": WINDOW_STAGES, "stitched": STITCHED_STAGES}[axis]
    if name not in names:
        names.append(name)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", text) is not None


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("vanilla"),
        Method("maskclip", attention=("identity",)),
        Method("sclip", attention=("qq", "kk")),
        Method(
            "gem",
            attention=("vv", "kk", "qq"),
            combine="mean",
            normalize=True,
            ffn=False,
            positions="antialias",
            depth=6,
        ),
        Method("naclip", attention=("kk",), prior="gaussian:5", residual="drop", ffn=False),
        Method(
            "scclip",
            attention=("mid", "kk"),
            combine="mean",
            residual="class",
            ffn=False,
            class_token="out",
            repair="lof",
            pool="before+after",
            streams="last+sum",
        ),
        Method(
            "resclip",
            attention=("kk",),
            prior="gaussian:5",
            residual="drop",
            ffn=False,
            mix="5-8:2:0.3",
            window="sfr",
        ),
        Method("pearl", attention=("procrustes",), residual="drop", ffn=False),
        Method(
            "cliper",
            attention=("fused",),
            residual="drop",
            ffn=False,
            positions="bilinear16",
            streams="each",
            window="cliper",
        ),
        Method("clearclip", attention=("qq",), residual="drop", ffn=False),
        Method("maskclip+clearclip", attention=("identity",), residual="drop", ffn=False),
        Method("sclip+clearclip", attention=("qq", "kk"), residual="drop", ffn=False),
        Method(
            "gem+clearclip",
            attention=("vv", "kk", "qq"),
            combine="mean",
            normalize=True,
            residual="drop",
            ffn=False,
            positions="antialias",
        ),
    )
}

ABOUT = {
    "vanilla": "the model as it is: patch tokens instead of the class token",
    "maskclip": "MaskCLIP (ECCV 2022): each token reads its own value",
    "sclip": "SCLIP (ECCV 2024): q-q plus k-k attention",
    "gem": "GEM (CVPR 2024): normalised self-self attention of the last six blocks, beside the unmodified stream",
    "naclip": "NACLIP (WACV 2025): k-k attention with a Gaussian prior on near patches, no residual, no FFN",
    "scclip": "SC-CLIP (2025): outliers mended, patches pooled by likeness in earlier blocks, whose sum goes beside",
    "resclip": "ResCLIP (CVPR 2025): NACLIP with middle blocks' attention, and a second pass by the first one's labels",
    "pearl": "PEARL (2026): queries attend to keys that are turned towards them, no residual, no FFN",
    "cliper": "CLIPer's CLIP half (2025): each block's input by itself, attention of all blocks; whole images alone",
    "clearclip": "ClearCLIP (ECCV 2024): q-q attention, no residual, no FFN",
    "maskclip+clearclip": "MaskCLIP's attention, no residual, no FFN",
    "sclip+clearclip": "SCLIP's attention, no residual, no FFN",
    "gem+clearclip": "GEM's attention of the last block alone, no residual, no FFN",
}


def parse_method(text: str | Method) -> Method:
    """Read a named method, with some of its axes changed in brackets, as in `clearclip[residual=beta:30,ffn=keep]`.

    A `Method` is returned as it is. `UsageError` for an unknown name, axis or value (the nearest are named), and for a
    combination that makes no sense.
    """
    if isinstance(text, Method):
        return text
    match = re.fullmatch(r"\s*([^\[\]]*?)\s*(?:\[([^\[\]]*)\])?\s*", text)
    if match is None:
        raise UsageError(f"method {text!r} has unbalanced brackets: write it as in 'clearclip[residual=beta:30]'")
    name, changes = match.group(1).lower(), match.group(2)
    if name not in METHODS:
        raise UsageError(f"method {name!r} is not known: {nearest(name, METHODS)}")
    if changes is None or not changes.strip():
        return METHODS[name]
    values: dict[str, object] = {}
    for change in changes.split(","):
        axis, equals, value = (part.strip() for part in change.partition("="))
        axis = axis.replace("-", "_")
        if axis not in {known.name for known in AXES}:
            raise UsageError(f"axis {axis!r} in {text!r} is not known: {nearest(axis, [a.name for a in AXES])}")
        if not equals or not value:
            raise UsageError(f"axis {axis!r} in {text!r} has no value: write {axis}=VALUE")
        if axis in values:
            raise UsageError(f"axis {axis!r} stands twice in {text!r}: give it once")
        values[axis] = _read_value(axis, value.lower())
    return replace(METHODS[name], **values)  # type: ignore[arg-type]


def _read_value(axis: str, value: str) -> object:
    if axis == "attention":
        return tuple(part.strip() for part in value.split("+"))
    if axis in {"ffn", "normalize"}:
        words = {"keep": True, "yes": True, "true": True, "drop": False, "no": False, "false": False}
        _check_choice(axis, value, words)
        return words[value]
    if axis == "alpha":
        try:
            return float(value)
        except ValueError:
            raise UsageError(f"alpha={value!r} is not a number: write for instance alpha=2") from None
    if axis in CONSTANTS:
        try:
            return float(value)
        except ValueError:
            raise UsageError(f"{axis}={value!r} is not a number: it takes {CONSTANTS[axis].values}") from None
    if axis == "depth":
        if not value.isdecimal() or len(value) > 9:
            raise UsageError(f"depth={value!r} is not a whole number: write for instance depth=6")
        return int(value)
    return value


def parse_methods(text: str | Method | Iterable[str | Method]) -> tuple[Method, ...]:
    """Read a comma list of methods as `parse_method` does, or an iterable of spellings and rows; order is kept.

    `UsageError` also for an empty list and for a method that stands in it twice.
    """
    if isinstance(text, Method):
        return (text,)
    parts = split_items(text) if isinstance(text, str) else text
    methods = tuple(parse_method(part) for part in parts if not isinstance(part, str) or part.strip())
    if not methods:
        raise UsageError("no method was given: name at least one of " + ", ".join(METHODS))
    spellings = [method.spelling for method in methods]
    for spelling in spellings:
        if spellings.count(spelling) > 1:
            raise UsageError(f"method {spelling!r} was given twice: name each method once")
    return methods


def ablation_grid() -> tuple[Method, ...]:
    """The paper's ablation: attention {q-k, q-q, k-k, v-v, identity, q-q + k-k} × residual × FFN (24 rows)."""
    kinds = (("qk",), ("qq",), ("kk",), ("vv",), ("identity",), ("qq", "kk"))
    return tuple(
        Method("vanilla", attention=attention, residual=residual, ffn=ffn)
        for attention, residual, ffn in itertools.product(kinds, ("keep", "drop"), (True, False))
    )


assert {field.name for field in fields(Method)} == {"name"} | {axis.name for axis in AXES}
