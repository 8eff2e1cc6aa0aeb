"""Methods as rows of data: what the last block keeps, drops and attends with. Plain data, no torch.

One formula covers the paper's methods, their combinations and its ablations; `decompose.py` alone interprets it. With
`x_l` the unmodified stream of a pre-norm ViT with L blocks and `A_l` the rewritten attention of block l:

    y = ρ(x_{L-depth}) + alpha · Σ_{l > L-depth} A_l(ln_1(x_{l-1}))
    if ffn: y = y + mlp(ln_2(y))
    features = proj(ln_post(y)) of the patch tokens
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from clearclip.errors import UsageError, nearest
from clearclip.files.commas import split_items

KINDS = ["qk", "qq", "kk", "vv", "identity", "uniform"]
"""Names of the attention kinds; `attention.py` has their functions."""
SELF_KINDS = ("qq", "kk", "vv")
COMBINE = ("sum", "mean")
RESIDUALS = ("keep", "drop", "normalize", "beta", "signed-beta")
WINDOW_STAGES = ["none"]
"""Names of the stages that see a window with its words; `classify/maps.py` has their functions."""
STITCHED_STAGES = ["none", "mean"]
"""Names of the stages that see an image's stitched features; `encode/stitch.py` has their functions."""
LARGEST_ALPHA = 10_000_000
POSITIONS = ("model", "offset", "antialias", "size")


@dataclass(frozen=True)
class Axis:
    """One switch of a method: its spelling on the command line and what its values mean."""

    name: str
    values: str
    meaning: str


AXES = (
    Axis(
        "attention",
        "qk | qq | kk | vv | identity | uniform, or several joined by +",
        "who attends to whom in the block; uniform: all alike, but for the prior",
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
        "keep | drop | normalize | beta:P | signed-beta:P",
        "X_res: kept, dropped, each token scaled to unit L2 norm, or without the P % of channels with the highest "
        "mean magnitude (beta) or signed mean (signed-beta) over the window's patch tokens",
    ),
    Axis("alpha", "a number ≥ 0", "X_sum = X_res + alpha · X_attn"),
    Axis("ffn", "keep | drop", "the feed-forward network of the last block"),
    Axis(
        "positions",
        "model | offset | antialias | size",
        "how the position table is resized away from the native size: as the paper does for the model's family "
        "(CLIP: offset, BLIP: size), bicubic with the +0.1 offset, bicubic with antialiasing (GEM), plain bicubic",
    ),
    Axis("depth", "a whole number ≥ 1", "how many last blocks add their rewritten attention to the residual"),
    Axis("window", "none", "what looks at each window once more, with its pixels and the words"),
    Axis(
        "stitched",
        "none | mean",
        "none: windows are compared with the words and the cosines stitched; else the features are stitched before "
        "the projection (mean: over the windows) and compared after",
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
            ranks them by mean magnitude, `signed-beta` by signed mean.
        alpha: Scale of X_attn.
        depth: Number of last blocks that are rewritten beside the unmodified stream.
        window: Stage that sees each window with its words.
        stitched: Stage that sees the image's stitched features; their cosines are then taken once for the image.
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
    window: str = "none"
    stitched: str = "none"

    def __post_init__(self) -> None:
        if not isinstance(self.attention, str):
            object.__setattr__(self, "attention", tuple(self.attention))
        _check_values(self)
        _check_combination(self)
        if self.residual_kind.endswith("beta"):
            object.__setattr__(self, "residual", f"{self.residual_kind}:{_number(self.beta)}")
        if self.sigma is not None:
            object.__setattr__(self, "prior", f"gaussian:{_number(self.sigma)}")
        object.__setattr__(self, "alpha", float(self.alpha))

    @property
    def residual_kind(self) -> str:
        """`keep`, `drop`, `normalize`, `beta` or `signed-beta`."""
        return self.residual.partition(":")[0]

    @property
    def beta(self) -> float:
        """Percent of the residual's channels that are dropped (0 unless the residual is a beta row)."""
        _, _, percent = self.residual.partition(":")
        return float(percent) if percent else 0.0

    @property
    def sigma(self) -> float | None:
        """Width of the Gaussian prior in patches; `None` without one."""
        _, _, sigma = self.prior.partition(":")
        return float(sigma) if sigma else None

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
    if isinstance(method.depth, bool) or not isinstance(method.depth, int) or method.depth < 1:
        raise UsageError(f"depth={method.depth!r}: a whole number of at least 1 is needed")


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
    if method.sigma is not None and (method.normalize or method.attention == ("identity",)):
        what = "normalize=yes" if method.normalize else "attention=identity"
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
    if method.residual_kind == "drop" and method.alpha == 0:
        raise UsageError("residual=drop with alpha=0 leaves nothing: keep the residual or raise alpha")
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
