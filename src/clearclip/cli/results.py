"""`clearclip results`: show and compare what runs have left in results files. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearclip.cli import options as o
from clearclip.errors import UsageError, nearest

if TYPE_CHECKING:
    from clearclip.benchmarks.bootstrap import Difference
    from clearclip.benchmarks.results import Record
    from clearclip.benchmarks.tables import Table

SHARED = ("benchmark", "model", "images", "threshold")

Formats = Annotated[
    list[str] | None, typer.Option("--format", help="Print as md, csv, latex or json instead of the table; repeat it.")
]


def results(
    files: Annotated[list[Path], typer.Argument(help="results.jsonl files, or the folders they lie in.")],
    view: Annotated[
        str, typer.Option(help="runs: one row each; methods: a column for each benchmark; classes: IoU of each class.")
    ] = "runs",
    benchmarks: Annotated[str | None, typer.Option(help="Only these, a comma list.")] = None,
    models: Annotated[str | None, typer.Option(help="Only these, a comma list.")] = None,
    method: Annotated[str | None, typer.Option(help="Only these, a comma list.")] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Two methods, or runs, that differ in nothing else: mIoU of A − B with a 95 % interval over images.",
        ),
    ] = None,
    formats: Formats = None,
    as_json: o.AsJson = False,
) -> None:
    """Show and compare results; the paper's numbers stand beside the measured ones, with the difference."""
    from clearclip.benchmarks import difference, read_results, table
    from clearclip.methods import parse_methods

    checked = check_formats(formats, as_json=as_json)
    found = read_results(files)
    wanted = {
        "benchmark": o.split(benchmarks),
        "model": o.split(models),
        "method": [row.spelling for row in parse_methods(method)] if method else None,
    }
    for key, values in wanted.items():
        if values is not None:
            found = [record for record in found if record[key] in values]
    if not found:
        raise UsageError("no result is left: --benchmarks, --models or --method name none that is in the files")
    if compare is None:
        emit(found, table(found, view=view), formats=checked, title="Results, mIoU in percent")
        return
    if checked not in ([], ["json"]):
        raise UsageError(f"--compare prints sentences or JSON, no {' or '.join(checked)}: use --format json, or none")
    measured = difference(found, compare, folders=[file if file.is_dir() else file.parent for file in files])
    if checked:
        o.print_json(measured.as_dict())
    else:
        typer.echo(o.shown(_sentences(measured)))


def _sentences(found: Difference) -> str:
    from clearclip.benchmarks.bootstrap import FEW

    first, second = (
        method if limit is None else f"{method} (threshold {limit:g})"
        for method, limit in zip(found.methods, found.thresholds, strict=True)
    )
    verdict = (
        "0 lies within it: these images do not show that one is better."
        if found.includes_0
        else f"0 lies outside: {first if found.difference > 0 else second} is better on images like these."
    )
    if found.images < FEW:
        verdict += f" But fewer than {FEW} images say little of others."
    return (
        f"{found.benchmark}, {found.model}, {found.images:,} images: mIoU {found.miou[0]:.2f} {first}, "
        f"{found.miou[1]:.2f} {second}\n"
        f"difference {found.difference:+.2f}, 95 % interval {found.low:+.2f} to {found.high:+.2f} "
        f"({found.resamples:,} resamples of the images, seed {found.seed})\n{verdict}"
    )


def check_formats(formats: Sequence[str] | None, *, as_json: bool) -> list[str]:
    """The formats to print, none for the table on the terminal; `UsageError` if one is unknown."""
    from clearclip.benchmarks.tables import FORMATS

    wanted = o.items(formats or ())
    for name in wanted:
        if name not in (*FORMATS, "json"):
            raise UsageError(f"format {name!r} is not known: {nearest(name, (*FORMATS, 'json'))}")
    return ["json"] if as_json else wanted


def emit(found: Sequence[Record], layout: Table, *, formats: Sequence[str], title: str) -> None:
    """Print records as JSON, or their table in other formats; what all rows share moves to the terminal's title."""
    from clearclip.benchmarks.tables import FORMATS

    for name in formats:
        if name == "json":
            o.print_json(found)
        else:
            typer.echo(FORMATS[name](layout))
    if formats:
        return
    from rich.table import Column

    from clearclip.benchmarks.tables import EMPTY

    texts, numeric = layout.texts(), layout.numeric()
    values = {index: {row[index] for row in texts} for index in range(len(layout.columns))}
    empty = {index for index, cells in values.items() if cells == {EMPTY}}
    common = [
        index for index in range(len(layout.columns)) if layout.columns[index] in SHARED and len(values[index]) == 1
    ]
    shared = [f"{layout.columns[index]} {texts[0][index]}" for index in common if index not in empty]
    shown = [index for index in range(len(layout.columns)) if index not in empty and index not in common]
    columns = [
        Column(layout.columns[index], justify="right" if numeric[index] else "left", no_wrap=numeric[index])
        for index in shown
    ]
    o.print_table(" · ".join([title, *shared]), columns, ([row[index] for index in shown] for row in texts))
