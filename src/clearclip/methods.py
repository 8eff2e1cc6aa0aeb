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

from clearclip.axes import AXES as AXES
from clearclip.axes import (
    FIRST_RELEASE,
    POOLS,
    PROPAGATED,
    STREAMS,
    check,
    check_choice,
    is_number,
    is_read,
)
from clearclip.axes import KINDS as KINDS
from clearclip.axes import POSITIONS as POSITIONS
from clearclip.axes import STITCHED_STAGES as STITCHED_STAGES
from clearclip.axes import WINDOW_STAGES as WINDOW_STAGES
from clearclip.axes import add_name as add_name
from clearclip.constants import CONSTANTS
from clearclip.errors import UsageError, nearest
from clearclip.files.commas import split_items


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
    crop: int | None = None
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
        check(self)
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
        if match is None or not (is_number(match[3]) and is_number(match[4])):
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
            or any(constant.block and is_read(self, constant) for constant in CONSTANTS.values())
        )

    @property
    def own_name(self) -> str | None:
        """Its name where that is no name of `METHODS`; results show it beside the spelling."""
        return None if self.name in METHODS else self.name

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
    read = [constant for constant in CONSTANTS.values() if is_read(method, constant)]
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
        check_choice(axis, value, words)
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
