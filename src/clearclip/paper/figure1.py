"""Figure 1: what removing the residual and the FFN does, per benchmark, model and attention kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clearclip.benchmarks.state import file_name
from clearclip.benchmarks.tables import Table
from clearclip.inspection.style import OKABE_ITO, legend_above, look
from clearclip.paper.measure import Lab
from clearclip.paper.models import Model
from clearclip.paper.page import Page, Row, notes_of
from clearclip.paper.rows import ATTENTIONS, CHANGES, TARGETS, figure1_methods

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = {"original": "o", "without residual": "^", "without residual and FFN": "*", "without FFN": "s"}
COLORS = dict(zip(MARKERS, (OKABE_ITO[0], OKABE_ITO[4], OKABE_ITO[2], OKABE_ITO[3]), strict=True))
OFFSETS = dict(zip(MARKERS, (-0.24, -0.08, 0.08, 0.24), strict=True))
"""Markers of one attention kind stand side by side: equal numbers would hide one another."""
MARKER_SIZES = dict(zip(MARKERS, (7.5, 8, 11, 7), strict=True))
"""Of equal visual weight."""
PANELS_ACROSS = 4


def kind_name(attention: Sequence[str]) -> str:
    """An attention kind as the paper writes it: `q-k`, `q-q + k-k`, `identity`."""
    return " + ".join(f"{kind[0]}-{kind[1]}" if len(kind) == 2 else kind for kind in attention)


def figure1_rows(lab: Lab, models: Sequence[Model], benchmarks: Sequence[str]) -> list[Row]:
    """The numbers in long form: a row for each model, benchmark, attention kind and change; `miou` may be `None`."""
    rows = []
    for model in models:
        for benchmark in benchmarks:
            for (attention, residual, ffn), method in figure1_methods().items():
                cell = lab.cell(model.name, benchmark, method)
                rows.append(
                    {
                        "model": model.name,
                        "benchmark": benchmark,
                        "attention": kind_name(attention),
                        "change": CHANGES[residual, ffn],
                        "method": method.spelling,
                        "miou": cell.miou,
                        "threshold": cell.threshold,
                        "images": cell.images,
                        "reason": cell.reason,
                    }
                )
    return rows


def draw_figure1(rows: Sequence[Row], *, model: str) -> Figure:
    """The paper's marker plot of one model: a panel for each benchmark, attention kinds across, mIoU up."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    own = [row for row in rows if row["model"] == model and row["miou"] is not None]
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in own))
    kinds = [kind_name(attention) for attention in ATTENTIONS]
    across = min(PANELS_ACROSS, max(1, len(benchmarks)))
    down = math.ceil(len(benchmarks) / across) or 1
    with look():
        figure = Figure(figsize=(max(5.2, 3.1 * across), 2.9 * down + 0.5), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for panel, benchmark in zip(panels, benchmarks, strict=False):
            for row in (row for row in own if row["benchmark"] == benchmark):
                change = row["change"]
                panel.plot(
                    kinds.index(row["attention"]) + OFFSETS[change],
                    row["miou"],
                    linestyle="none",
                    marker=MARKERS[change],
                    markersize=MARKER_SIZES[change],
                    color=COLORS[change],
                    markeredgecolor="white",
                    markeredgewidth=0.6,
                    clip_on=False,
                    zorder=3,
                )
            panel.set_title(benchmark)
            panel.set_xticks(range(len(kinds)), [kind.replace(" + ", "\n+ ") for kind in kinds])
            panel.set_xlim(-0.5, len(kinds) - 0.5)
            panel.set_ylim(bottom=0)
            panel.grid(axis="x", visible=False)
        for panel in panels[len(benchmarks) :]:
            panel.set_visible(False)
        for panel in panels[::across]:
            panel.set_ylabel("mIoU (%)")
        handles = [
            Line2D([], [], linestyle="none", marker=mark, color=COLORS[change], markersize=MARKER_SIZES[change])
            for change, mark in MARKERS.items()
        ]
        legend_above(figure, handles, list(MARKERS), columns=4 if across > 1 else 2)
    return figure


def figure1_page(lab: Lab, models: Sequence[Model], benchmarks: Sequence[str]) -> Page:
    """The page of figure 1."""
    rows = figure1_rows(lab, models, benchmarks)
    page = Page("figure1", TARGETS["figure1"].title, numbers=rows)
    page.lead = [
        "mIoU in percent of the last block's variants: ○ original, △ without the residual, ☆ without residual and "
        "FFN (the paper's three), and, beyond the paper, □ without the FFN alone. The paper prints no numbers for "
        "this figure, so there are none beside ours."
    ]
    for model in models:
        if not any(row["model"] == model.name and row["miou"] is not None for row in rows):
            continue
        name = f"figure1-{file_name(model.name)}.svg"
        page.pictures[name] = (draw_figure1(rows, model=model.name), f"{model.name}: mIoU by attention kind")
        page.tables |= _tables(rows, model.name)
        page.findings += _findings(rows, model.name)
    page.notes = notes_of(lab, page.name, models, benchmarks)
    if any(row["threshold"] is not None for row in rows):
        page.notes.append("Background thresholds: the paper's; a variant for which it names none gets ClearCLIP's.")
    return page


def _tables(rows: Sequence[Row], model: str) -> dict[str, Table]:
    kinds = [kind_name(attention) for attention in ATTENTIONS]
    return {
        f"{model} on {benchmark}": Table(
            ("attention", *MARKERS), tuple((kind, *(own[kind, change] for change in MARKERS)) for kind in kinds)
        )
        for benchmark, own in _measured(rows, model).items()
    }


def _measured(rows: Sequence[Row], model: str) -> dict[str, dict[tuple[str, str], float]]:
    """By benchmark, mIoU by attention kind and change; benchmarks without numbers are left out."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for row in rows:
        if row["model"] == model and row["miou"] is not None:
            found.setdefault(row["benchmark"], {})[row["attention"], row["change"]] = row["miou"]
    return found


def _findings(rows: Sequence[Row], model: str) -> list[str]:
    sentences = []
    for benchmark, own in _measured(rows, model).items():
        kinds = list(dict.fromkeys(kind for kind, _ in own))
        better = sum(own[kind, "without residual"] > own[kind, "original"] for kind in kinds)
        best = max(own, key=lambda key: own[key])
        sentences.append(
            f"{model} on {benchmark}: removing the residual alone raises mIoU for {better} of {len(kinds)} attention "
            f"kinds; q-q without residual and FFN (ClearCLIP) has {own['q-q', 'without residual and FFN']:.1f}, the "
            f"original {own['q-k', 'original']:.1f}; the best is {best[0]} {best[1]} with {own[best]:.1f}."
        )
    return sentences
