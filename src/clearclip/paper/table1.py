"""Table 1 and its curves: how much of the residual one must drop, and what weighing X_attn does instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from clearclip.benchmarks.tables import Cell as TableCell
from clearclip.benchmarks.tables import Table
from clearclip.inspection.style import OKABE_ITO, legend_above, look
from clearclip.methods import Method
from clearclip.paper.measure import Lab
from clearclip.paper.models import Model
from clearclip.paper.page import Page, Row, notes_of
from clearclip.paper.printed import TABLE1, TABLE1_MODEL
from clearclip.paper.rows import (
    ALL_EIGHT,
    ALPHAS,
    BETAS,
    CURVE_BETAS,
    NORMALIZED,
    TARGETS,
    alpha_method,
    beta_method,
    kept_channels,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER_COLUMN = "paper (CLIP ViT-B/16, mean of 8)"
HIGH_ENOUGH = 0.95
NORMALIZED_PLACE = 112
"""Where the normalised residual stands on the axis of β: beside the curve, for it is no point of it."""


def mean_miou(lab: Lab, model: str, *, benchmarks: Iterable[str], method: Method) -> float | None:
    """Mean in percent over the benchmarks that have a number; `None` where nothing was measured."""
    values = [lab.cell(model, name, method).miou for name in benchmarks]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def table1_rows(lab: Lab, models: Sequence[Model], benchmarks: Sequence[str]) -> list[Row]:
    """Every point of the table and of both curves, in long form: a row for each model and point.

    `published` is the paper's mean over its eight benchmarks for CLIP ViT-B/16; `difference` is given for that model
    where all eight were measured.
    """
    points: list[tuple[str, float | None, Method]] = [("beta", float(beta), beta_method(beta)) for beta in CURVE_BETAS]
    points.append(("normalized", None, NORMALIZED))
    points += [("alpha", alpha, alpha_method(alpha)) for alpha in ALPHAS]
    rows: list[Row] = []
    for model in models:
        width = lab.loaded[model.name].width if model.name in lab.loaded else None
        for axis, value, method in points:
            cells = {name: lab.cell(model.name, name, method) for name in benchmarks}
            measured = [name for name, cell in cells.items() if cell.miou is not None]
            mean = mean_miou(lab, model.name, benchmarks=benchmarks, method=method)
            printed = None if axis == "alpha" else TABLE1.get(axis if value is None else value)
            comparable = model.name == TABLE1_MODEL and set(ALL_EIGHT) <= {
                name for name, cell in cells.items() if cell.miou is not None and cell.is_official
            }
            rows.append(
                {
                    "model": model.name,
                    "axis": axis,
                    "value": value,
                    "method": method.spelling,
                    "channels": width,
                    "channels_kept": _kept(axis, value, width),
                    **{name: cell.miou for name, cell in cells.items()},
                    "mean": mean,
                    "mean_over": len(measured),
                    "published_clip_b16_mean_of_8": printed,
                    "difference": mean - printed if comparable and mean is not None and printed is not None else None,
                }
            )
    return rows


def _kept(axis: str, value: float | None, width: int | None) -> int | None:
    if width is None:
        return None
    return kept_channels(value, width=width) if axis == "beta" and value is not None else width


def draw_table1(rows: Sequence[Row]) -> Figure:
    """The β curve and the α curve, a line for each model, from `table1_rows`."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    models = list(dict.fromkeys(row["model"] for row in rows if row["mean"] is not None))
    with look():
        figure = Figure(figsize=(8.4, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        handles, labels = [], []
        for model, color in zip(models, OKABE_ITO, strict=False):
            own = {(row["axis"], row["value"]): row["mean"] for row in rows if row["model"] == model}
            betas = [own["beta", float(beta)] for beta in CURVE_BETAS]
            left.plot(CURVE_BETAS, betas, color=color, marker="o", markersize=4)
            left.plot(NORMALIZED_PLACE, own["normalized", None], color=color, marker="D", markersize=7, mfc="none")
            right.plot(ALPHAS, [own["alpha", alpha] for alpha in ALPHAS], color=color, marker="o", markersize=4)
            right.axhline(own["beta", 100.0], color=color, linestyle="--", linewidth=1)
            handles.append(Line2D([], [], color=color, marker="o", markersize=4))
            labels.append(f"{model}, measured")
        if TABLE1_MODEL in models:
            published = [TABLE1[beta] for beta in BETAS]
            left.plot(BETAS, published, linestyle="none", marker="x", color="#666666", markersize=6)
            handles.append(Line2D([], [], linestyle="none", marker="x", color="#666666"))
            labels.append("published, CLIP ViT-B/16, mean of 8")
        handles += [
            Line2D([], [], linestyle="none", marker="D", mfc="none", color="#333333"),
            Line2D([], [], linestyle="--", color="#333333", linewidth=1),
        ]
        labels += ["whole residual, normalised", "no residual (ClearCLIP)"]
        left.set_xlabel("β: strongest channels of the residual dropped (%)")
        left.set_ylabel("mean mIoU (%)")
        left.set_ylim(0, 1.06 * max(left.dataLim.ymax, right.dataLim.ymax))
        left.set_xticks([*range(0, 101, 20), NORMALIZED_PLACE], [*map(str, range(0, 101, 20)), "norm."])
        right.set_xlabel("α in $X_{res}$ + α · $X_{attn}$")
        right.set_xscale("log")
        right.set_xticks(ALPHAS, [f"{alpha:g}" for alpha in ALPHAS])
        right.minorticks_off()
        legend_above(figure, handles, labels, columns=3)
    return figure


def table1_page(lab: Lab, models: Sequence[Model], benchmarks: Sequence[str]) -> Page:
    """The page of table 1."""
    rows = table1_rows(lab, models, benchmarks)
    page = Page("table1", TARGETS["table1"].title, numbers=rows)
    page.lead = [
        "q-q attention, no FFN. Of the residual the β % of channels with the highest mean magnitude over an encoder "
        "input's patch tokens are dropped (β = 0 keeps all, β = 100 is ClearCLIP); *normalised* adds the residual with "
        "each token's vector scaled to unit length. mIoU in percent.",
        "The published column is the paper's mean over eight benchmarks for CLIP ViT-B/16 and is never measured here; "
        "the difference is given only where the same model was measured on the same eight.",
    ]
    measured = [model for model in models if any(r["model"] == model.name and r["mean"] is not None for r in rows)]
    if measured:
        page.pictures["table1.svg"] = (
            draw_table1(rows),
            "Mean mIoU by β (left) and by α (right); X_sum = X_res + α · X_attn, the dashed line is ClearCLIP",
        )
    for model in models:
        page.tables[model.name] = _beta_table(rows, model.name, benchmarks)
        if model in measured:
            page.tables[f"{model.name}: the α curve"] = _alpha_table(rows, model.name, benchmarks)
            page.findings += _findings(rows, model.name)
    page.notes = notes_of(lab, page.name, models, benchmarks)
    page.notes.append(
        'The supplement ranks channels by "average values" without saying whether the sign counts: here by mean '
        "magnitude; `clearclip[residual=signed-beta:30]` ranks by signed mean."
    )
    return page


def _beta_table(rows: Sequence[Row], model: str, benchmarks: Sequence[str]) -> Table:
    body: list[tuple[TableCell, ...]] = []
    for row in rows:
        if row["model"] == model and (row["axis"] == "normalized" or (row["value"] in BETAS and row["axis"] == "beta")):
            name = "normalised" if row["value"] is None else f"{row['value']:g}"
            cells = tuple(row[benchmark] for benchmark in benchmarks)
            printed = row["published_clip_b16_mean_of_8"]
            body.append((name, row["channels_kept"], *cells, row["mean"], printed, row["difference"]))
    counted = max((row["mean_over"] for row in rows if row["model"] == model), default=0)
    return Table(
        ("β (%)", "channels kept", *benchmarks, f"measured mean of {counted}", PAPER_COLUMN, "difference"), tuple(body)
    )


def _alpha_table(rows: Sequence[Row], model: str, benchmarks: Sequence[str]) -> Table:
    body = tuple(
        (f"{row['value']:g}", *(row[benchmark] for benchmark in benchmarks), row["mean"])
        for row in rows
        if row["model"] == model and row["axis"] == "alpha"
    )
    return Table(("α", *benchmarks, "measured mean"), body)


def _findings(rows: Sequence[Row], model: str) -> list[str]:
    own = {(row["axis"], row["value"]): row["mean"] for row in rows if row["model"] == model}
    whole, none, normalized = own["beta", 0.0], own["beta", 100.0], own["normalized", None]
    curve = {beta: own["beta", float(beta)] for beta in CURVE_BETAS}
    enough = next(beta for beta in CURVE_BETAS if curve[beta] >= HIGH_ENOUGH * none)
    best = max(curve, key=lambda beta: curve[beta])
    alpha = max(ALPHAS, key=lambda value: own["alpha", value])
    verdict = "hurts" if whole < none else "does not hurt"
    return [
        f"{model}: with the whole residual {whole:.1f}, without it {none:.1f}, normalised {normalized:.1f}: here the "
        f"residual {verdict} ({none - whole:+.1f} by dropping it).",
        f"{model}: {HIGH_ENOUGH:.0%} of ClearCLIP's mIoU is reached at β = {enough}; the curve is highest at "
        f"β = {best} ({curve[best]:.1f}).",
        f"{model}: of the α tried, {alpha:g} is best with {own['alpha', alpha]:.1f} ({own['alpha', alpha] - none:+.1f} "
        "against no residual).",
    ]
