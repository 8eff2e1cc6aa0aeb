"""What each table and figure of the supplement needs, as rows of data: methods, models, benchmarks. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from clearclip.checkpoints import CHECKPOINTS
from clearclip.errors import UsageError, nearest
from clearclip.methods import METHODS, Method, ablation_grid, parse_method

WITHOUT_BACKGROUND = ("voc20", "context59", "coco_stuff", "cityscapes", "ade20k")
ALL_EIGHT = ("voc21", "context60", "coco_object", *WITHOUT_BACKGROUND)
PAPER_MODELS = tuple(name for name in CHECKPOINTS if name != "tiny")

BETAS = (0, 5, 10, 30, 50, 70, 100)
"""The rows of table 1, in percent."""

CURVE_BETAS = tuple(range(0, 101, 5))
"""The points of the β curve, in percent; those of table 1 are among them."""

ALPHAS = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)
"""The points of the α curve: X_res + α · X_attn."""

ATTENTIONS = (("qk",), ("qq",), ("kk",), ("vv",), ("identity",), ("qq", "kk"))
"""Attention kinds of figure 1, as `ablation_grid` has them."""


@dataclass(frozen=True)
class Target:
    """One table or figure, with the paper's benchmarks and models."""

    name: str
    title: str
    benchmarks: tuple[str, ...]
    models: tuple[str, ...]


TARGETS: dict[str, Target] = {
    row.name: row
    for row in (
        Target(
            "figure1",
            "Figure 1: the ablation on each benchmark",
            ALL_EIGHT,
            ("clip-b16", "openclip-b16", "clip-l14", "openclip-l14"),
        ),
        Target("table1", "Table 1: dropping the strongest channels of the residual", ALL_EIGHT, ("clip-b16",)),
        Target("table2", "Table 2: four model families and four methods", WITHOUT_BACKGROUND, PAPER_MODELS),
        Target("figure2", "Figure 2: feature maps of the last block", ("voc20",), ("clip-b16",)),
        Target("figure3", "Figure 3: methods side by side", ("coco_stuff",), ("clip-b16",)),
        Target("figure4", "Figure 4: methods side by side, with and without ClearCLIP", ("ade20k",), ("clip-b16",)),
    )
}
ALL = "all"

SHEET_METHODS = {
    "figure3": ("vanilla", "maskclip", "sclip", "gem", "clearclip"),
    "figure4": (
        "vanilla", "clearclip", "maskclip", "maskclip+clearclip", "sclip", "sclip+clearclip", "gem", "gem+clearclip",
    ),
}  # fmt: skip

CHANGES = {
    (True, True): "original",
    (False, True): "without residual",
    (False, False): "without residual and FFN",
    (True, False): "without FFN",
}
"""What figure 1's markers mean, by (residual kept, FFN kept). The last is beyond the paper."""

BASE_METHODS = {"vanilla": "CLIP", "maskclip": "MaskCLIP", "sclip": "SCLIP", "gem": "GEM"}


def find_targets(name: str) -> list[Target]:
    """The target of a name, or all of them for `all`."""
    if name == ALL:
        return list(TARGETS.values())
    if name not in TARGETS:
        raise UsageError(f"target {name!r} is not known: {nearest(name, (*TARGETS, ALL))}")
    return [TARGETS[name]]


def with_clearclip(base: str) -> str:
    """The method that ClearCLIP makes of another one."""
    return "clearclip" if base == "vanilla" else f"{base}+clearclip"


def canonical(method: str | Method) -> Method:
    """The same row as the shortest change of one of the paper's methods, so that targets share its measurement.

    β = 0 is the whole residual and β = 100 none of it, so they become `keep` and `drop`. Of equally short spellings the
    one whose name stands first in `METHODS` is taken.
    """
    row = parse_method(method)
    if row.residual_kind.endswith("beta") and row.percent in (0, 100):
        row = replace(row, residual="keep" if row.percent == 0 else "drop")
    known = {name for base in BASE_METHODS for name in (base, with_clearclip(base))}
    return min((replace(row, name=name) for name in METHODS if name in known), key=lambda same: len(same.spelling))


def beta_method(beta: float) -> Method:
    """Table 1's row: q-q attention, no FFN, the residual without its β % strongest channels (mean magnitude)."""
    return canonical(f"clearclip[residual=beta:{beta:g}]")


def alpha_method(alpha: float) -> Method:
    """The α curve's point: q-q attention, no FFN, X_res + α · X_attn."""
    return canonical(f"clearclip[residual=keep,alpha={alpha!r}]")


NORMALIZED = canonical("clearclip[residual=normalize]")


def kept_channels(beta: float, *, width: int) -> int:
    """How many of the residual's C channels stay at β percent: `C − round(β · C / 100)` (ranking of table 1)."""
    if not 0 <= beta <= 100:
        raise UsageError(f"beta={beta!r}: a percentage from 0 to 100 is needed")
    return width - round(beta * width / 100)


def figure1_methods() -> dict[tuple[tuple[str, ...], bool, bool], Method]:
    """Figure 1's 24 rows by attention kinds, residual kept, FFN kept."""
    return {
        (row.attention, row.residual == "keep", row.ffn): canonical(row) for row in ablation_grid()
    }  # fmt: skip


def table1_methods() -> list[Method]:
    """Table 1's rows with the points of both curves, each once."""
    rows = [beta_method(beta) for beta in CURVE_BETAS] + [NORMALIZED] + [alpha_method(alpha) for alpha in ALPHAS]
    return unique(rows)


def table2_bases(model: str) -> tuple[str, ...]:
    """Keys of `BASE_METHODS` that table 2 shows for a model: MaskCLIP, SCLIP and GEM run on OpenAI's CLIP alone.

    A model that the paper does not have gets all four.
    """
    return ("vanilla",) if model in PAPER_MODELS and not model.startswith("clip-") else tuple(BASE_METHODS)


def table2_methods(model: str) -> list[Method]:
    """Both halves of a model's rows in table 2."""
    bases = table2_bases(model)
    return [parse_method(name) for base in bases for name in (base, with_clearclip(base))]


def methods_of(target: str, model: str) -> list[Method]:
    """The canonical rows whose mIoU a target needs; none for a picture."""
    if target == "figure1":
        return list(figure1_methods().values())
    if target == "table1":
        return table1_methods()
    return table2_methods(model) if target == "table2" else []


def unique(methods: Iterable[Method]) -> list[Method]:
    """Rows without repetitions, in order."""
    return list({row.spelling: row for row in methods}.values())
