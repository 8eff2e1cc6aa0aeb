"""Many images → result files, by any engine: planned, written when complete, entered in a ledger, failures listed.

Belongs here: what a run is as a whole, and the engine of one process. Does not: the threads around a model
(`engine.work`), Ray (`engine.on_ray`), what a file looks like (`formats`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearclip.engine.ledger import Entry, Ledger, open_ledger
from clearclip.engine.report import Report
from clearclip.engine.sources import (
    Source,
    find_sources,
    is_address,
    is_container,
    resolved,
    stamp,
    stem_of,
)
from clearclip.engine.work import FULL, Container, Group, Job, Known, Labeller, Outcome, Task, groups_of
from clearclip.errors import ClearclipError, UsageError
from clearclip.files.writing import PREFIX, atomic_write
from clearclip.formats import DEFAULT_FORMATS, Choices, Run, Writer, get_formats, merge_records
from clearclip.progress import progress_bar
from clearclip.segmenter import Segmenter
from clearclip.vocabulary import Vocabulary

if TYPE_CHECKING:
    from clearclip.engine.ray_pool import Fleet
    from clearclip.engine.ray_worker import Load

COMPARED = ("labels", "background", "model", "method", "protocol", "threshold", "templates", "dtype", "choices")

Engine = Callable[[Iterator[Job], Writer, str], Generator[Sequence[Outcome], None, None]]
"""Takes jobs, the writer and the hash of the settings; gives outcomes in any order, as they come."""


@dataclass(frozen=True)
class Order:
    """What a run shall make of its images.

    Attributes:
        vocabulary: The labels.
        info: How they are found, as `Segmenter.describe`.
        output: Folder; made where it is missing.
        formats: Names of the formats.
        choices: What several formats let a user choose.
        batch_size: Images whose windows go through the encoder together.
        overwrite: Make existing results again.
        show_progress: As `Segmenter`.
    """

    vocabulary: Vocabulary
    info: Mapping[str, str]
    output: Path
    formats: Sequence[str] = DEFAULT_FORMATS
    choices: Choices = field(default_factory=Choices)
    batch_size: int = 4
    overwrite: bool = False
    show_progress: bool | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what a result is; `labels.json` holds it."""
        palette = self.vocabulary.palette.tolist()
        return {
            "labels": [
                {"index": index, "name": label.name, "queries": list(label.queries), "color": palette[index]}
                for index, label in enumerate(self.vocabulary.labels)
            ],
            "background": self.vocabulary.background,
            "choices": json.loads(json.dumps(asdict(self.choices))),
            **self.info,
        }

    @property
    def mark(self) -> str:
        """Short hash of the settings, kept with every result: an interrupted --overwrite leaves older ones behind."""
        settings = self.settings
        compared = json.dumps({key: settings[key] for key in COMPARED}, sort_keys=True)
        return hashlib.sha256(compared.encode()).hexdigest()[:16]

    def writer(self) -> Writer:
        """What writes the results.

        Raises:
            UsageError: A format is unknown, its library is missing, or a thing is no label.
        """
        writer = Writer(
            get_formats(self.formats), Run(self.output, self.vocabulary, dict(self.info), choices=self.choices)
        )
        writer.check()
        return writer


def find_images(sources: Sequence[str]) -> list[Path]:
    """Image files that paths, folders and globs name, each once, in order.

    Args:
        sources: As `engine.sources.find_sources`, on this machine.

    Returns:
        Paths; a file that does not exist is among them, so that a run can list it as failed.

    Raises:
        UsageError: There is no image, or a source is an address.
    """
    remote = [source for source in sources if is_address(source)]
    if remote:
        raise UsageError(f"{remote[0]} is not on this machine: name files, folders or globs")
    return [Path(found) for found in find_sources(sources) if not is_container(found)]


def segment_files(
    segmenter: Segmenter,
    paths: Sequence[Source],
    *,
    labels: Any,
    output: Path,
    threshold: float | None = None,
    batch_size: int = 4,
    overwrite: bool = False,
    formats: Sequence[str] = DEFAULT_FORMATS,
    choices: Choices | None = None,
) -> Report:
    """Segment files into a folder, in this process; by default `<stem>.png` and `<stem>.overlay.jpg`.

    An image that cannot be used is listed, also in `errors.csv`, and the others go on. A result stands under its name
    only when it is complete, and is entered in the folder's ledger, so that a run that was stopped goes on where it
    was. Reading, decoding and writing happen beside the model.

    Args:
        segmenter: With the method to use.
        paths: As `engine.sources.find_sources` gives them.
        labels: As `Vocabulary.parse`.
        output: Folder; made where it is missing.
        threshold: As `Segmenter.__call__`.
        batch_size: Images whose windows go through the encoder together.
        overwrite: Make existing results again.
        formats: Names of `clearclip.formats.FORMAT_NAMES`.
        choices: What several formats let a user choose.

    Returns:
        What became of them.

    Raises:
        UsageError: The folder cannot be written, or holds results of other labels or settings.
        ClearclipError: The disk is full.
    """
    vocabulary, limit = segmenter.vocabulary(labels, threshold)
    segmenter.embed(vocabulary)
    order = Order(
        vocabulary,
        segmenter.describe(segmenter.method, limit),
        output,
        formats=formats,
        choices=choices or Choices(),
        batch_size=batch_size,
        overwrite=overwrite,
        show_progress=segmenter.show_progress,
    )

    def in_this_process(jobs: Iterator[Job], writer: Writer, settings: str) -> Generator[Sequence[Outcome], None, None]:
        labeller = Labeller(segmenter, vocabulary, threshold, writer, settings, overwrite=overwrite)
        return labeller.run(group for job in jobs for group in groups_of(job))

    return carry_out(order, paths, in_this_process)


def segment_on_ray(
    load: Load,
    paths: Sequence[Source],
    *,
    labels: Any,
    output: Path,
    fleet: Fleet,
    threshold: float | None = None,
    batch_size: int = 4,
    overwrite: bool = False,
    formats: Sequence[str] = DEFAULT_FORMATS,
    choices: Choices | None = None,
    show_progress: bool | None = None,
) -> Report:
    """As `segment_files`, by many workers on one machine or on a cluster, with the same files as the result.

    The images, where they have no address, and the output folder lie where all machines see them under one path.

    Args:
        load: Makes the segmenter on a worker: a function of an importable module, or a `functools.partial` of one.
        paths: As `segment_files`.
        labels: As `segment_files`.
        output: As `segment_files`.
        fleet: Which workers.
        threshold: As `segment_files`.
        batch_size: As `segment_files`.
        overwrite: As `segment_files`.
        formats: As `segment_files`.
        choices: As `segment_files`.
        show_progress: As `Segmenter`.

    Returns:
        What became of the images.

    Raises:
        UsageError: As `segment_files`; there is no cluster, or the workers do not fit.
        ClearclipError: As `segment_files`; the model cannot be loaded there.
    """
    from clearclip.engine.on_ray import Described, RayEngine
    from clearclip.engine.ray_pool import connect

    get_formats(formats)
    described = Described(load, labels, threshold)
    with connect(fleet) as pool:
        vocabulary, info = pool.ask(described)
        order = Order(
            vocabulary,
            info,
            output,
            formats=formats,
            choices=choices or Choices(),
            batch_size=batch_size,
            overwrite=overwrite,
            show_progress=show_progress,
        )
        return carry_out(order, paths, RayEngine(pool, described, info, overwrite))


def carry_out(order: Order, sources: Sequence[Source], engine: Engine) -> Report:
    """Make an order's results with an engine; started again, it goes on with what is left.

    Args:
        order: What to make.
        sources: Paths and addresses of images and containers.
        engine: Does the work.

    Returns:
        What became of the images.

    Raises:
        UsageError: The folder cannot be used, or holds something else.
        ClearclipError: The disk is full.
    """
    report = Report()
    writer, mark = order.writer(), order.mark
    try:
        _claim(order)
        with open_ledger(order.output) as ledger, progress_bar("Segmenting", show=order.show_progress) as advance:
            jobs = _jobs(order, sources, ledger, writer, report)
            with closing(engine(jobs, writer, mark)) as stream:
                for outcomes in stream:
                    _enter(outcomes, ledger, mark, report)
                    if advance is not None:
                        note = f"{len(report.failed)} failed" if report.failed else ""
                        advance(report.total, max(report.total, len(sources)), note)
            report.failed.sort(key=lambda failure: str(failure[0]))
            writer.finish(lambda: ledger.records(mark))
            report.write_errors(order.output)
            _sweep(order.output)
    except OSError as error:
        if error.errno in FULL:
            raise ClearclipError(
                f"{order.output}: the disk is full. {report.done} images are done and stay; free some space and start "
                "again"
            ) from error
        raise ClearclipError(f"{order.output} cannot be written ({error})") from error
    return report


def _claim(order: Order) -> None:
    """Make the folder and write its `labels.json`, or refuse a folder that holds something else."""
    output, settings = order.output, order.settings
    file = output / "labels.json"
    try:
        output.mkdir(parents=True, exist_ok=True)
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() and not order.overwrite else None
    except ValueError as error:
        raise UsageError(f"{file} is none of ours ({error}): choose another folder or --overwrite") from error
    except OSError as error:
        raise UsageError(f"output folder {output} cannot be used ({error.strerror}): choose another") from error
    if known is not None:
        differing = (
            [key for key in COMPARED if known.get(key) != settings[key]] if isinstance(known, dict) else ["everything"]
        )
        if differing:
            raise UsageError(
                f"{output} holds results with other settings ({', '.join(differing)}): choose another folder, or make "
                "everything again with --overwrite"
            )
        return
    try:
        with atomic_write(file) as partial:
            partial.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except PermissionError as error:
        raise UsageError(f"output folder {output} cannot be written ({error.strerror}): choose another") from error


def _jobs(order: Order, sources: Sequence[Source], ledger: Ledger, writer: Writer, report: Report) -> Iterator[Job]:
    """Groups of files and containers with anything left to do, in the order of the sources."""
    output = resolved(order.output)
    local = (resolved(Path(source)) for source in sources if not is_address(source))
    inputs = {path for path in local if output in path.parents}
    taken: dict[str, Source] = {}
    group: list[Task] = []

    def known(entry: Entry) -> Known:
        finished = (
            not order.overwrite
            and entry.settings == order.mark
            and writer.complete(entry.stem, {"formats": dict.fromkeys(entry.formats)})
        )
        return Known(entry.source, entry.stamp, entry.digest, finished)

    def complete(group: list[Task]) -> Iterator[Group]:
        report.skipped += sum(not task.wanted for task in group)
        if any(task.wanted for task in group):
            yield tuple(group)

    for source in sources:
        stem = stem_of(source)
        key = f"{stem} of {Path(str(source)).suffix}" if is_container(source) else stem
        reason = _collision(source, stem, taken.setdefault(key, source), writer, inputs)
        if reason is not None:
            report.failed.append((source, reason))
        elif is_container(source):
            entries = {entry.stem: known(entry) for entry in ledger.below(f"{stem}-")}
            container = Container(source, stamp(source), order.batch_size, entries)
            report.skipped += container.finished
            yield container
        else:
            entry = ledger.get(stem)
            group.append(Task(str(source), stem, stamp(source), None if entry is None else known(entry)))
            if len(group) == order.batch_size:
                yield from complete(group)
                group = []
    yield from complete(group)


def _collision(source: Source, stem: str, first: Source, writer: Writer, inputs: set[Path]) -> str | None:
    """Why a source's results cannot have their names."""
    if first != source:
        return f"{source} and {first} would both become {stem}: rename one, or use two folders"
    mine = [file for file in writer.files(stem) if inputs and resolved(file) in inputs]
    if mine:
        return f"{source}: its result would overwrite the image {mine[0]}: choose another folder"
    return None


def _enter(outcomes: Iterable[Outcome], ledger: Ledger, settings: str, report: Report) -> None:
    entries = []
    for outcome in outcomes:
        if outcome.reason is not None:
            report.failed.append((_as_source(outcome.source), outcome.reason))
        elif outcome.record is None:
            ledger.recognise(outcome.stem, source=outcome.source, stamp=outcome.stamp)
            report.skipped += 1
        else:
            old = ledger.get(outcome.stem)
            same = old is not None and (old.settings, old.digest) == (settings, outcome.digest)
            record = merge_records(ledger.record(outcome.stem) if same else None, outcome.record)
            formats = tuple(record["formats"])
            entry = Entry(outcome.stem, outcome.source, outcome.stamp, outcome.digest, settings, formats)
            entries.append((entry, record))
    ledger.add(entries)
    report.done += len(entries)


def _as_source(text: str) -> Source:
    return text if is_address(text) else Path(text)


def _sweep(output: Path) -> None:
    """Remove the halves of files that killed runs and workers left behind; no other run is at work in the folder."""
    for folder, _, names in os.walk(output):
        for name in names:
            if name.startswith(PREFIX):
                (Path(folder) / name).unlink(missing_ok=True)
