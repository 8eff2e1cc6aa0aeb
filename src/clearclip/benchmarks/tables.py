"""Records as tables, and tables as Markdown, CSV or LaTeX. No computation beyond means and differences."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clearclip.benchmarks.results import SCORES, Record
from clearclip.benchmarks.rows import BENCHMARKS
from clearclip.errors import UsageError, nearest

Cell = str | float | int | None
EMPTY = "–"
SCORED = 5
"""Cells of a row before its scores."""


@dataclass(frozen=True)
class Table:
    """Headings and rows of texts and numbers; `None` is an empty cell."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def texts(self) -> list[list[str]]:
        """The cells as people read them: percentages with one decimal, an empty cell as a dash."""
        return [[_text(cell) for cell in row] for row in self.rows]

    def numeric(self) -> list[bool]:
        """Which columns hold numbers, and are set to the right."""
        return [any(isinstance(row[index], (int, float)) for row in self.rows) for index in range(len(self.columns))]

    def markdown(self) -> str:
        """GitHub's Markdown."""
        rows = [[text.replace("|", "\\|") for text in row] for row in self.texts()]
        marks = ["--:" if number else ":--" for number in self.numeric()]
        return "\n".join("| " + " | ".join(row) + " |" for row in [list(self.columns), marks, *rows]) + "\n"

    def csv(self) -> str:
        """Comma-separated values with every digit that was recorded; an empty cell is empty."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return file.getvalue()

    def latex(self) -> str:
        """A `tabular` with booktabs' rules."""
        texts = self.texts()
        lines = [" & ".join(map(_escape, row)) + r" \\" for row in [list(self.columns), *texts]]
        return "\n".join(
            [
                r"% needs \usepackage{booktabs}",
                r"\begin{tabular}{" + "".join("r" if number else "l" for number in self.numeric()) + "}",
                r"\toprule",
                lines[0],
                r"\midrule",
                *lines[1:],
                r"\bottomrule",
                r"\end{tabular}",
                "",
            ]
        )


def _text(cell: Cell) -> str:
    if cell is None:
        return EMPTY
    return f"{cell:.1f}" if isinstance(cell, float) else str(cell)


def _escape(text: str) -> str:
    for character in "\\&%$#_{}~^":
        text = text.replace(character, {"\\": r"\textbackslash "}.get(character, "\\" + character))
    return text.replace("−", "$-$").replace("–", "--")


def _named(record: Record) -> str:
    """A method as tables show it: its spelling, behind the name of a row of one's own."""
    name: str | None = record.get("name")
    return f"{name} = {record['method']}" if name else str(record["method"])


def runs_table(found: Sequence[Record]) -> Table:
    """One row for each record, with the paper's number and the difference where it has one.

    Rows that begin alike, as of a run that was begun anew or of another protocol, say when they were measured.
    """
    columns: tuple[str, ...] = (
        "benchmark", "model", "method", "threshold", "images", "mIoU", "mAcc", "aAcc", "fwIoU", "paper", "difference",
    )  # fmt: skip
    rows = [_run_row(record) for record in found]
    alike = Counter(row[:SCORED] for row in rows)
    if len(alike) < len(rows):
        columns += ("measured",)
        times = (record.get("time") for record in found)
        rows = [(*row, time if alike[row[:SCORED]] > 1 else None) for row, time in zip(rows, times, strict=True)]
    return Table(columns, tuple(rows))


def _run_row(record: Record) -> tuple[Cell, ...]:
    printed: dict[str, Any] = record.get("published") or {}
    threshold = record.get("config", {}).get("threshold")
    return (
        record["benchmark"],
        record["model"],
        _named(record),
        None if threshold is None else f"{threshold:g}",
        record.get("images"),
        *(record.get(score) for score in SCORES),
        printed.get("miou"),
        printed.get("difference"),
    )


def methods_table(found: Sequence[Record]) -> Table:
    """One row for each model and method, one column for each benchmark: mIoU, as the paper prints it.

    Where the paper has numbers for a row, they stand below it in a row marked "paper". Of several records for a cell
    the last counts. The mean is given only where a row has every benchmark.
    """
    known = list(BENCHMARKS)
    benchmarks = sorted(
        {record["benchmark"] for record in found},
        key=lambda name: (known.index(name) if name in known else len(known), name),
    )
    cells: dict[tuple[str, str], dict[str, Cell]] = {}
    printed: dict[tuple[str, str], dict[str, Cell]] = {}
    for record in found:
        row = (record["model"], _named(record))
        cells.setdefault(row, {})[record["benchmark"]] = record["miou"]
        if record.get("published"):
            printed.setdefault(row, {})[record["benchmark"]] = record["published"]["miou"]
    rows: list[tuple[Cell, ...]] = []
    for (model, method), values in cells.items():
        rows.append((model, method, *_with_mean(values, benchmarks)))
        if (model, method) in printed:
            rows.append((model, f"{method} (paper)", *_with_mean(printed[model, method], benchmarks)))
    mean = ("mean",) if len(benchmarks) > 1 else ()
    return Table(("model", "method", *benchmarks, *mean), tuple(rows))


def _with_mean(values: dict[str, Cell], benchmarks: Sequence[str]) -> tuple[Cell, ...]:
    cells = tuple(values.get(name) for name in benchmarks)
    if len(cells) == 1:
        return cells
    numbers = [cell for cell in cells if isinstance(cell, (int, float))]
    return (*cells, sum(numbers) / len(numbers) if len(numbers) == len(cells) else None)


def classes_table(found: Sequence[Record]) -> Table:
    """IoU of one benchmark: a row for each class, a column for each record, to see where methods differ."""
    benchmarks = sorted({record["benchmark"] for record in found})
    if len(benchmarks) > 1:
        raise UsageError(f"classes of {', '.join(benchmarks)} cannot share a table: name one with --benchmarks")
    several = len({record["model"] for record in found}) > 1
    columns = [f"{record['model']} {_named(record)}" if several else _named(record) for record in found]
    names = list(dict.fromkeys(name for record in found for name in record["classes"]))
    rows = tuple(
        (name, *(record["classes"].get(name, {}).get("iou") for record in found))
        for name in names
    )  # fmt: skip
    return Table(("class", *columns), rows)


VIEWS: dict[str, Callable[[Sequence[Record]], Table]] = {
    "runs": runs_table,
    "methods": methods_table,
    "classes": classes_table,
}

FORMATS: dict[str, Callable[[Table], str]] = {"md": Table.markdown, "csv": Table.csv, "latex": Table.latex}


def table(found: Sequence[Record], *, view: str = "runs") -> Table:
    """Lay records out as `"runs"`, `"methods"` (mIoU by benchmark) or `"classes"` (IoU of one benchmark)."""
    if view not in VIEWS:
        raise UsageError(f"view {view!r} is not known: {nearest(view, VIEWS)}")
    return VIEWS[view](found)
