"""Table 2: model families and methods, each with and without ClearCLIP; published, measured, difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clearclip.benchmarks.tables import Cell as TableCell
from clearclip.benchmarks.tables import Table
from clearclip.checkpoints import CHECKPOINTS
from clearclip.inspection.style import OKABE_ITO, legend_above, look
from clearclip.methods import parse_method
from clearclip.paper.measure import Lab
from clearclip.paper.models import Model
from clearclip.paper.page import Page, Row, notes_of
from clearclip.paper.printed import (
    MISPRINTED_GAINS,
    MISPRINTED_MEANS,
    misprints,
    published_cells,
    published_gain,
    published_mean,
    whole_mean,
)
from clearclip.paper.rows import BASE_METHODS, TARGETS, WITHOUT_BACKGROUND, table2_bases, table2_methods, with_clearclip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK, FOREIGN = " ‡", " †"
KINDS = {"measured": (OKABE_ITO[0], -0.14), "published": ("#8A8A8A", 0.14)}
"""Colour, and how far below a row's middle it stands where both are shown."""
SIZES = ("ViT-B", "ViT-L")


def row_name(model: str, base: str) -> str:
    """A row's name as table 2 prints it: `BLIP (ViT-L/16)`, `MaskCLIP (CLIP ViT-B/16)`, `tiny, SCLIP`."""
    row = CHECKPOINTS.get(model)
    if row is None or row.name == "tiny":
        return f"{model}, {'as it is' if base == 'vanilla' else BASE_METHODS[base]}"
    return f"{row.family if base == 'vanilla' else BASE_METHODS[base]} ({row.architecture})"


def table2_rows(lab: Lab, models: Sequence[Model], benchmarks: Sequence[str]) -> list[Row]:
    """Every cell in long form: a row for each model, method and benchmark.

    `published` is quoted, `measured` is ours or `None` with a `reason`, `difference` is measured minus published
    where both are of the same images, protocol and threshold.
    """
    rows: list[Row] = []
    for model in models:
        for method in table2_methods(model.name):
            for benchmark in benchmarks:
                cell = lab.cell(model.name, benchmark, method)
                (printed,) = published_cells([benchmark], model=model.name, method=method.spelling)
                rows.append(
                    {
                        "model": model.name,
                        "architecture": model.architecture,
                        "method": method.spelling,
                        "benchmark": benchmark,
                        "published": printed,
                        "measured": cell.miou,
                        "difference": _minus(cell.miou, printed) if cell.is_official else None,
                        "run_as": cell.method,
                        "images": cell.images,
                        "reason": cell.reason,
                    }
                )
    return rows


def signed(points: float) -> str:
    """A difference with its sign, to a tenth; what rounds to nothing has none."""
    return f"{points:+.1f}" if abs(points) >= 0.05 else "0.0"


def _sizes(models: Sequence[Model]) -> dict[str, list[Model]]:
    groups: dict[str, list[Model]] = {}
    for model in models:
        size = next((size for size in SIZES if model.architecture.startswith(f"{size}/")), "Models beyond the paper")
        groups.setdefault(size, []).append(model)
    return groups


def _lines(lab: Lab, model: Model, base: str, benchmarks: Sequence[str]) -> list[tuple[TableCell, ...]]:
    """Up to six lines of a row: published, measured and difference, without and with ClearCLIP."""
    lines: list[tuple[TableCell, ...]] = []
    foreign = model.name in lab.loaded and lab.loaded[model.name].provenance
    before: dict[str, list[float | None]] = {}
    for name, clear in ((base, False), (with_clearclip(base), True)):
        published = published_cells(benchmarks, model=model.name, method=name)
        cells_measured = [lab.cell(model.name, benchmark, parse_method(name)) for benchmark in benchmarks]
        measured = [cell.miou for cell in cells_measured]
        difference = [
            _minus(cell.miou, printed) if cell.is_official else None
            for cell, printed in zip(cells_measured, published, strict=True)
        ]
        kinds = {"published": published, "measured": measured, "difference": difference}
        for kind, cells in kinds.items():
            if kind != "measured" and all(cell is None for cell in published):
                continue
            mean, gain = whole_mean(cells), None
            if clear and kind != "difference":
                gain = _minus(mean, whole_mean(before[kind]))
            shown_mean, shown_gain = _marked(mean, gain, kind=kind, model=model.name, method=name, names=benchmarks)
            label = row_name(model.name, base) + (" + ClearCLIP" if clear else "")
            shown_kind = f"{kind}{FOREIGN}" if foreign and kind != "published" else kind
            lines.append((label, shown_kind, *cells, shown_mean, shown_gain))
            before.setdefault(kind, cells)
    return lines


def _minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _marked(
    mean: float | None, gain: float | None, *, kind: str, model: str, method: str, names: Sequence[str]
) -> tuple[TableCell, TableCell]:
    """Mean and gain as they are shown; the cells' own values, marked where the paper prints others."""
    shown_gain = None if gain is None else signed(gain)
    if kind != "published" or tuple(names) != WITHOUT_BACKGROUND:
        return mean, shown_gain
    marked: TableCell = mean
    if (model, method) in MISPRINTED_MEANS and mean is not None:
        marked = f"{mean:.1f}{MARK}"
    if (model, method) in MISPRINTED_GAINS and shown_gain is not None:
        shown_gain += MARK
    return marked, shown_gain


def draw_table2(lab: Lab, models: Sequence[Model], benchmarks: Sequence[str]) -> Figure:
    """Mean mIoU without (open) and with (filled) ClearCLIP, a line for each row; published in grey below measured."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = [(model.name, base) for model in models for base in table2_bases(model.name)]
    pairs = {kind: [_pair(lab, kind, model, base, benchmarks) for model, base in rows] for kind in KINDS}
    shown = [kind for kind in KINDS if any(pair is not None for pair in pairs[kind])]
    with look():
        figure = Figure(figsize=(7.2, 0.36 * len(rows) + 1.2), layout="constrained")
        axes = figure.subplots()
        for kind in shown:
            color, offset = KINDS[kind] if len(shown) > 1 else (KINDS[kind][0], 0)
            for place, pair in enumerate(pairs[kind]):
                if pair is not None:
                    axes.plot(pair, [place + offset] * 2, color=color, linewidth=1.6, zorder=2)
                    axes.plot(pair[0], place + offset, "o", color=color, mfc="white", markersize=5.5, zorder=3)
                    axes.plot(pair[1], place + offset, "o", color=color, markersize=5.5, zorder=3)
        axes.set_yticks(range(len(rows)), [row_name(model, base) for model, base in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"mean mIoU (%) over {', '.join(benchmarks)}")
        handles = [
            Line2D([], [], color=KINDS[kind][0], marker="o", mfc=fill, markersize=5.5)
            for kind in shown
            for fill in ("white", KINDS[kind][0])
        ]
        labels = [f"{kind}, {how} ClearCLIP" for kind in shown for how in ("without", "with")]
        legend_above(figure, handles, labels, columns=2)
    return figure


def _pair(lab: Lab, kind: str, model: str, base: str, benchmarks: Sequence[str]) -> tuple[float, float] | None:
    """Means without and with ClearCLIP, published or measured, where a row has both."""
    names = (base, with_clearclip(base))
    if kind == "published":
        before, after = (published_mean(benchmarks, model=model, method=name) for name in names)
    else:
        before, after = (
            whole_mean([lab.cell(model, benchmark, parse_method(name)).miou for benchmark in benchmarks])
            for name in names
        )
    return None if before is None or after is None else (before, after)


def table2_page(lab: Lab, models: Sequence[Model], benchmarks: Sequence[str]) -> Page:
    """The page of table 2."""
    page = Page("table2", TARGETS["table2"].title, numbers=table2_rows(lab, models, benchmarks))
    page.lead = [
        "mIoU in percent, each row without and with ClearCLIP: the paper's number (*published*, quoted), ours "
        "(*measured*) and measured minus published (*difference*), where both are of the same images, protocol and "
        "threshold. A mean is given only where the whole row has "
        "numbers; the gain is the mean with ClearCLIP minus the mean without. MaskCLIP, SCLIP and GEM run on OpenAI's "
        "CLIP. BLIP's large model is a ViT-L/16."
    ]
    columns = ("model", "what", *benchmarks, "mean", "gain")
    for size, group in _sizes(models).items():
        lines = [
            line
            for model in group
            for base in table2_bases(model.name)
            for line in _lines(lab, model, base, benchmarks)
        ]
        page.tables[size] = Table(columns, tuple(lines))
    page.pictures["table2.svg"] = (
        draw_table2(lab, models, benchmarks),
        "Mean mIoU without (open) and with (filled) ClearCLIP; only whole rows have a mean",
    )
    page.findings = _findings(lab, models, benchmarks)
    page.notes = notes_of(lab, page.name, models, benchmarks)
    foreign = [model.name for model in models if model.name in lab.loaded and lab.loaded[model.name].provenance]
    if foreign:
        page.notes.insert(0, f"† Not with the paper's weights, as far as is known: {', '.join(foreign)}; see below.")
    if any(model.paper for model in models):
        page.notes += [f"‡ {sentence}" for sentence in misprints(WITHOUT_BACKGROUND)]
    return page


def _findings(lab: Lab, models: Sequence[Model], benchmarks: Sequence[str]) -> list[str]:
    sentences = []
    for model in models:
        for base in table2_bases(model.name):
            pair = _pair(lab, "measured", model.name, base, benchmarks)
            if pair is None:
                continue
            before, after = pair
            printed = published_gain(benchmarks, model=model.name, base=base)
            theirs = f"; the paper's cells give {printed:+.1f}" if printed is not None else ""
            sentences.append(
                f"{row_name(model.name, base)}: {before:.1f} without and {after:.1f} with ClearCLIP "
                f"({signed(after - before)}{theirs})."
            )
    return sentences
