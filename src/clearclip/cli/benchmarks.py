"""`clearclip benchmarks` and its `check`: what can be measured, and whether its files are whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearclip.cli import options as o
from clearclip.errors import UsageError
from clearclip.files.progress import progress_bar

if TYPE_CHECKING:
    from clearclip.benchmarks import Dataset, Preset, Report
    from clearclip.benchmarks.evaluation import Advanced
    from clearclip.benchmarks.metrics import Matrix

SHOWN_METHODS = 4

Name = Annotated[str | None, typer.Argument(help="As `clearclip benchmarks` lists them; none with --images.")]
Data = Annotated[Path | None, typer.Option(help="The benchmark's folder, as downloaded or as mmsegmentation has it.")]
Images = Annotated[Path | None, typer.Option(help="A data set of your own: its folder of images.")]
Annotations = Annotated[
    Path | None, typer.Option(help="Its folder of index PNGs with the same names: value i is label i, 255 is ignored.")
]


class TruthAs(str, Enum):
    """On which pixels of photographs that EXIF turns label maps were drawn."""

    auto = "auto"
    shown = "shown"
    stored = "stored"


@dataclass(frozen=True)
class Meaning:
    """What the values of one's own label maps mean."""

    ignored: Annotated[
        str | None,
        typer.Option(
            help="Values of your label maps that mean unlabelled, a comma list; the others are labels in turn."
        ),
    ] = None
    values: Annotated[str | None, typer.Option(help="Values of the labels in their order, as 0,255 for masks.")] = None
    truth_as: Annotated[
        TruthAs,
        typer.Option(
            help="Where EXIF turns your images: label maps were drawn on what is shown, or on what is stored; auto "
            "asks their sizes."
        ),
    ] = TruthAs.auto

    def options(self) -> dict[str, Any]:
        """The arguments of `open_folders` that they are; `UsageError` for what is no number."""
        return {
            "ignored": _numbers("--ignored", self.ignored) or (),
            "values": _numbers("--values", self.values),
            "as_stored": None if self.truth_as is TruthAs.auto else self.truth_as is TruthAs.stored,
        }


def _numbers(option: str, text: str | None) -> list[int] | None:
    parts = o.split(text)
    if wrong := [part for part in parts or () if not re.fullmatch("[0-9]{1,3}", part)]:
        raise UsageError(f"{option} {wrong[0][:40]!r}: values from 0 to 255 are needed, with commas between")
    return None if parts is None else [int(part) for part in parts]


def benchmarks(context: typer.Context, as_json: o.AsJson = False) -> None:
    """List the benchmarks with where to get each; `check` says whether one's files are whole."""
    if context.invoked_subcommand is not None:
        return
    from clearclip.benchmarks.rows import BENCHMARKS

    if as_json:
        shown = ("name", "title", "classes", "images", "protocol", "thresholds", "get")
        named = [{**vars(row), "images": row.size, "thresholds": dict(row.thresholds)} for row in BENCHMARKS.values()]
        o.print_json([{name: row[name] for name in shown} for row in named])
        return
    from rich.table import Column

    rows, places = [], dict[str, list[str]]()
    for row in BENCHMARKS.values():
        thresholds = "\n".join(f"{method} {value:g}" for method, value in row.thresholds.items())
        rows.append((row.name, str(row.classes), f"{row.size:,}", row.title, thresholds or "–"))
        places.setdefault(row.get, []).append(row.name)
    numbers = [Column(name, justify="right") for name in ("classes", "images")]
    o.print_table("Benchmarks", ("name", *numbers, "what", "background threshold"), rows)
    typer.echo("Where to get them:")
    for place, names in places.items():
        typer.echo(f"  {', '.join(names)}: {place}")
    typer.echo("\nclearclip benchmarks check NAME --data DIR   what is there, what is missing")
    typer.echo("clearclip evaluate NAME --data DIR           measure; --images, --annotations, --labels: your own data")


@o.bundles()
def check(
    *,
    name: Name = None,
    data: Data = None,
    images: Images = None,
    annotations: Annotations = None,
    labels: o.LabelFile = None,
    meaning: Meaning,
    as_json: o.AsJson = False,
) -> None:
    """Read every image and label map once: what is there, what is missing, whether the counts are the official ones."""
    from clearclip.benchmarks import check_dataset

    dataset = choose_dataset(name, data=data, images=images, annotations=annotations, labels=labels, meaning=meaning)
    report = check_dataset(dataset)
    if as_json:
        o.print_json(report.as_dict())
    else:
        _print(report, hint=dataset.benchmark.hint)
    if not report.usable:
        raise typer.Exit(1)


def choose_dataset(
    name: str | None,
    *,
    data: Path | None,
    images: Path | None,
    annotations: Path | None,
    labels: Path | None,
    meaning: Meaning,
    background: str | None = None,
    split: str | None = None,
    names: str | None = None,
    preset: Preset | None = None,
) -> Dataset:
    """The data set that the options name: a benchmark, or folders of one's own; `UsageError` if neither or both."""
    from clearclip.benchmarks import BENCHMARKS, open_benchmark, open_folders

    own = {"--images": images, "--annotations": annotations, "--labels": labels}
    if not any(own.values()):
        if name is None:
            raise UsageError(
                f"no benchmark was named: {', '.join(BENCHMARKS)}, or --images, --annotations and --labels for your own"
            )
        if background is not None or meaning != Meaning():
            raise UsageError(
                f"{name} has its own labels: --background, --ignored, --values and --truth-as go with --images, "
                "--annotations and --labels"
            )
        return open_benchmark(name, data=data, split=split, names=names or "clearclip", preset=preset)
    if name is not None or data is not None or split is not None or names is not None:
        raise UsageError(
            "name either a benchmark with --data, --split or --names, or --images, --annotations and --labels of your "
            "own"
        )
    if images is None or annotations is None or labels is None:
        lacking = ", ".join(option for option, value in own.items() if value is None)
        raise UsageError(f"a data set of your own needs --images, --annotations and --labels: {lacking} is missing")
    found = open_folders(images, annotations, labels=o.read_labels(labels, background=background), **meaning.options())
    for note in found.notes:
        o.say(f"warning: {note}")
    return found


def _print(report: Report, *, hint: str) -> None:
    from clearclip.benchmarks.check import SHOWN

    typer.echo(f"{report.benchmark}: {report.source}")
    typer.echo(f"  pairs of image and label map: {report.pairs:,}")
    for form, count in report.forms.items():
        typer.echo(f"  {form}: {count:,}")
    for title, sentences in (("missing", report.missing), ("cannot be used", report.broken)):
        if sentences:
            typer.echo(f"  {title}: {len(sentences):,}")
            for sentence in sentences[:SHOWN]:
                typer.echo(f"    {sentence}")
            if len(sentences) > SHOWN:
                typer.echo(f"    … and {len(sentences) - SHOWN:,} more (--json lists all)")
    if report.missing and hint:
        typer.echo(f"  {hint}")
    for warning in report.warnings:
        o.say(f"warning: {warning}")
    typer.echo("  usable" if report.usable else "  not usable as it is; evaluate --skip-broken leaves these out")


@contextmanager
def measuring_bar(name: str) -> Iterator[Advanced | None]:
    """A bar with the running mIoU of the first methods; yields what `evaluate` calls after each image."""
    with progress_bar(name) as advance:
        if advance is None:
            yield None
            return
        from clearclip.benchmarks import scores

        def on_image(done: int, total: int, matrices: Mapping[str, Matrix]) -> None:
            shown = list(matrices.items())[:SHOWN_METHODS]
            running = "  ".join(f"{method} {100 * scores(matrix).miou:.1f}" for method, matrix in shown)
            more = f"  (+{len(matrices) - SHOWN_METHODS})" if len(matrices) > SHOWN_METHODS else ""
            advance(done, total, f"mIoU {running}{more}")

        yield on_image
