"""Many images → result files, in any engine: planned, written when complete, entered in a ledger, failures listed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from clearclip.engine.ledger import LEDGER_NAME, Entry, open_ledger
from clearclip.engine.pipeline import FULL, Container, Group, Job, Known, Labeller, Outcome, Task, groups_of
from clearclip.engine.report import ERROR_TABLE, Report
from clearclip.engine.results import Results, Staged, is_folder, naming, stage
from clearclip.engine.sources import (
    Scan,
    Source,
    identity,
    is_address,
    is_container,
    kind_by_name,
    resolved,
    scan,
    stamp,
    stem_of,
    summary,
)
from clearclip.errors import ClearclipError, UsageError
from clearclip.files.progress import progress_bar
from clearclip.files.writing import claim
from clearclip.formats import DEFAULT_FORMATS, Choices, Record, Run, Writer, get_formats, merge_records
from clearclip.segmenter import Segmenter
from clearclip.vocabulary import Vocabulary

if TYPE_CHECKING:
    from clearclip.engine.ray_pool import Fleet
    from clearclip.engine.ray_worker import Load

SETTINGS_NAME = "labels.json"
OTHER_NAME = (
    "its YOLO labels have another name than the image, so that Ultralytics takes it for one without objects: rename it"
)
log = logging.getLogger("clearclip.images")
NOT_COMPARED = ("software", "versions", "name")

Engine = Callable[[Iterator[Job], Writer, str], Generator[Sequence[Outcome], None, None]]
"""Takes jobs, the writer and the hash of the settings; gives outcomes in any order, as they come."""


@dataclass(frozen=True)
class Order:
    """What a run makes of its images; arguments as `segment_files`, `info` as `Segmenter.describe`."""

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
        return {
            "labels": self.vocabulary.entries,
            "background": self.vocabulary.background,
            "choices": json.loads(json.dumps(asdict(self.choices))),
            **self.info,
        }

    @property
    def mark(self) -> str:
        """Short hash of the settings, stored with every result: an interrupted --overwrite leaves older ones behind."""
        return mark_of(self.settings)

    def writer(self) -> Writer:
        """What writes the results; `UsageError` if a format is unknown, its library missing, or a thing is no label."""
        writer = Writer(
            get_formats(self.formats), Run(self.output, self.vocabulary, dict(self.info), choices=self.choices)
        )
        writer.check()
        return writer


def mark_of(settings: Mapping[str, Any]) -> str:
    """Short hash of what decides a result."""
    texts = json.dumps({key: settings[key] for key in compared(settings)}, sort_keys=True)
    return hashlib.sha256(texts.encode()).hexdigest()[:16]


def compared(*settings: Mapping[str, Any]) -> set[str]:
    """The keys of settings that decide what a result is; versions of programs are stored, but may differ."""
    return set().union(*settings).difference(NOT_COMPARED)


def find_images(sources: Sequence[str]) -> list[Path]:
    """Image files that paths, folders and globs name, each once, in order; `UsageError` if there is none.

    A file that does not exist is among them, so that a run can list it as failed.
    """
    return scan_images(sources)[0]


def scan_images(sources: Sequence[str]) -> tuple[list[Path], Counter[str]]:
    """As `find_images`, with how many files are left out, by suffix or folder, tars and Parquet files among them."""
    if remote := [source for source in sources if is_address(source)]:
        raise UsageError(f"{remote[0]} is not on this machine: name files, folders or globs")
    scanned = scan(sources)
    containers = [file for file in scanned.files if is_container(file)]
    left_out = scanned.left_out + Counter(kind_by_name(Path(file).name) for file in containers)
    images = [Path(found) for found in scanned.files if not is_container(found)]
    if not images:
        raise UsageError(f"no image files in {', '.join(sources)}: {summary(left_out)}; unpack them first")
    return images, left_out


def segment_files(
    segmenter: Segmenter,
    paths: Sequence[Source] | Scan,
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

    An image that cannot be used is listed, also in `errors.csv`, and the others go on. A result gets its name only when
    it is complete, and is entered in the folder's ledger, so that a run that was stopped goes on where it was.
    What `scan` found in subfolders is mirrored; files in a list have names of their own.
    `batch_size` images go through the encoder together; `formats` are names of `clearclip.formats.FORMAT_NAMES`.
    `UsageError` if the folder cannot be written or holds results of other labels or settings; `ClearclipError` if the
    disk is full.
    """
    vocabulary, limit = segmenter.vocabulary(labels, threshold)
    segmenter.embed(vocabulary)
    info = segmenter.describe(segmenter.method, limit)
    order = Order(
        vocabulary, info, output, formats=formats, choices=choices or Choices(),
        batch_size=batch_size, overwrite=overwrite, show_progress=segmenter.show_progress,
    )  # fmt: skip

    def in_this_process(jobs: Iterator[Job], writer: Writer, settings: str) -> Generator[Sequence[Outcome], None, None]:
        labeller = Labeller(segmenter, vocabulary, threshold, writer, settings, overwrite=overwrite)
        return labeller.run(group for job in jobs for group in groups_of(job))

    return carry_out(order, paths, in_this_process)


def segment_on_ray(
    load: Load,
    paths: Sequence[Source] | Scan,
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

    `load` makes the segmenter on a worker: a function of an importable module, or a `functools.partial` of one. The
    images, where they have no address, and the output folder lie where all machines see them under one path.
    `UsageError` also if there is no cluster, or the workers do not fit; `ClearclipError` if the model cannot be loaded
    there.
    """
    from clearclip.engine.ray_pool import connect
    from clearclip.engine.ray_run import GROUPS_AT_ONCE, Described, Images, Labelling

    get_formats(formats)
    described = Described(load, labels, threshold)
    with connect(fleet) as pool:
        vocabulary, info = pool.ask(described)
        order = Order(
            vocabulary, info, output, formats=formats, choices=choices or Choices(),
            batch_size=batch_size, overwrite=overwrite, show_progress=show_progress,
        )  # fmt: skip

        def on_workers(jobs: Iterator[Job], writer: Writer, mark: str) -> Generator[Sequence[Outcome], None, None]:
            labelling = Labelling(described, info, writer, mark, overwrite)
            return pool.run(labelling, map(Images, jobs), at_once=GROUPS_AT_ONCE)

        return carry_out(order, paths, on_workers)


def carry_out(order: Order, paths: Sequence[Source] | Scan, engine: Engine) -> Report:
    """Make an order's results with an engine; started again, it goes on with what is left."""
    sources = paths if isinstance(paths, Scan) else Scan.of(paths)
    report = Report()
    writer = order.writer()
    try:
        with claim(order.output):
            _refuse_foreign(order, writer)
            with open_ledger(order.output) as ledger:
                results = Results(order.output, ledger, overwrite=order.overwrite)
                results.recover()
                try:
                    _settle(order, sources, results, writer, report)
                    _work(order, sources, results, engine, writer, report)
                finally:
                    results.clean()
    except OSError as error:
        if error.errno in FULL:
            raise ClearclipError(
                f"{order.output}: the disk is full. {report.done} images are done and stay; free some space and start "
                "again"
            ) from error
        raise ClearclipError(f"{order.output} cannot be written ({error})") from error
    return report


def _refuse_foreign(order: Order, writer: Writer) -> None:
    """`UsageError` if a folder without a ledger holds a file with a name of the run's own; nothing is written yet."""
    if os.path.lexists(order.output / LEDGER_NAME):
        return
    for name in _run_files(writer):
        if os.path.lexists(order.output / name):
            raise UsageError(
                f"{order.output / name} is there and was not written by a run in this folder: move it, or choose "
                "another folder; --overwrite does not replace it either"
            )


def _run_files(writer: Writer) -> tuple[str, ...]:
    return (SETTINGS_NAME, ERROR_TABLE, *(name for format_ in writer.formats for name in format_.run_files))


def _settle(order: Order, sources: Scan, results: Results, writer: Writer, report: Report) -> None:
    """Refuse a folder that holds something else; to overwrite it, first remove what has other settings.

    What this run does not make again is set aside: no old label map is ever read with new names.
    """
    output, settings, ledger = order.output, order.settings, results.ledger
    known = settings if ledger.settings is None else ledger.settings
    differing = sorted(key for key in compared(settings, known) if settings.get(key) != known.get(key))
    if differing and not order.overwrite and not ledger.is_empty:
        raise UsageError(
            f"{output} holds results with other settings ({', '.join(differing)}): choose another folder, or make "
            "everything again with --overwrite"
        )
    if obstacle := results.obstacle(_run_files(writer), stem=""):
        raise UsageError(obstacle)
    if differing:
        others = ledger.made_otherwise(order.mark)
        if left := _left_out(others, sources):
            report.aside = results.set_aside(left, json.dumps(known, indent=2, ensure_ascii=False))
        for entry in others:
            results.remove(ledger.files(entry.stem))
            ledger.forget(entry.stem)
        results.remove(ledger.files(""))
    ledger.settle(settings)
    with stage(output) as folder:
        write_settings(folder, settings)
        results.publish(Staged.of(folder))


def write_settings(folder: Path, settings: Mapping[str, Any], records: Iterable[Record] = ()) -> None:
    """Write `labels.json` into a folder, with the number of images in which each label did not compete."""
    absent = Counter(name for record in records for name in record.get("absent", ()))
    told = {**settings, "absent": dict(sorted(absent.items()))} if absent else settings
    (folder / SETTINGS_NAME).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _left_out(entries: Sequence[Entry], sources: Scan) -> list[Entry]:
    """The entries whose names no image of these sources will take."""
    stems = {sources.stem(source) for source in sources.files if not is_container(source)}
    others = {identity(source) for source in sources.files if is_container(source)}
    return [entry for entry in entries if entry.stem not in stems and entry.source.rpartition("#")[0] not in others]


def _work(order: Order, sources: Scan, results: Results, engine: Engine, writer: Writer, report: Report) -> None:
    ledger, run = results.ledger, uuid.uuid4().hex
    containers = {identity(source) for source in sources.files if is_container(source)}
    with progress_bar("Segmenting", show=order.show_progress) as advance:
        jobs = _jobs(order, sources, results, writer, report)
        with closing(engine(jobs, writer, order.mark)) as stream:
            for outcomes in stream:
                _enter(outcomes, order, results, run, containers, report)
                if advance is not None:
                    note = f"{len(report.failed)} failed" if report.failed else ""
                    advance(report.total, max(report.total, len(sources.files)), note)
    report.failed.sort(key=lambda failure: str(failure[0]))
    with stage(order.output) as folder:
        replace(writer, run=replace(writer.run, folder=folder)).finish(lambda: ledger.records(order.mark))
        report.write_errors(folder)
        if {"presence", "area"} & order.info.keys():  # else all compete, and no record need be read
            write_settings(folder, order.settings, ledger.records(order.mark))
        results.publish(Staged.of(folder))
    if not report.failed:
        results.remove([ERROR_TABLE])


def _jobs(order: Order, sources: Scan, results: Results, writer: Writer, report: Report) -> Iterator[Job]:
    """Groups of files and containers with anything left to do, in the order of the sources."""
    output, ledger, same = resolved(order.output), results.ledger, naming(order.output)
    local = (resolved(Path(source)) for source in sources.files if not is_address(source))
    inputs = {same(str(path)) for path in local if output in path.parents}
    taken: dict[str, Source] = {}
    group: list[Task] = []
    formats = {format_.name for format_ in writer.formats}
    is_new = ledger.is_empty

    def known(entry: Entry) -> Known:
        finished = (
            not order.overwrite
            and entry.settings == order.mark
            and formats <= set(entry.formats)
            and results.stand(entry.stem, writer.files(entry.stem))
        )
        return Known(entry.source, entry.stamp, entry.digest, finished)

    def complete(group: list[Task]) -> Iterator[Group]:
        report.skipped += sum(not task.wanted for task in group)
        if any(task.wanted for task in group):
            yield tuple(group)

    def obstacle(source: Source, stem: str) -> str | None:
        """Why a source's results cannot have their names, as far as that can be known before they are made."""
        if isinstance(source, Path) and source.is_dir():
            return f"{source}: the folder cannot be listed"
        first = taken.setdefault(
            same(f"{stem} of {Path(str(source)).suffix}" if is_container(source) else stem), source
        )
        if first != source:
            return (
                f"{source} and {first} would both become {stem}: name a folder that holds both, whose "
                "subfolders are mirrored, or use two output folders"
            )
        if is_container(source):
            return None
        files = [file for file in writer.files(stem) if not is_folder(file)]
        if mine := [file for file in files if inputs and same(str(resolved(file))) in inputs]:
            return f"{source}: its result would overwrite the image {mine[0]}: choose another folder"
        return results.obstacle((file.relative_to(order.output).as_posix() for file in files), stem=stem)

    def forget_former(source: Source) -> None:
        """Remove the results of an image, or of a container's images, under other names: they would be there twice."""
        own = identity(source)
        for stem in () if is_new else sources.former_stems(source):
            found = ledger.below(f"{stem}-") if is_container(source) else filter(None, [ledger.get(stem)])
            for entry in [
                entry
                for entry in found
                if (entry.source.rpartition("#")[0] if is_container(source) else entry.source) == own
            ]:
                results.remove(ledger.files(entry.stem))
                ledger.forget(entry.stem)

    for source in sources.files:
        stem = sources.stem(source)
        if reason := obstacle(source, stem):
            report.failed.append((source, reason))
            _log(source, "failed", reason=reason)
        elif is_container(source):
            entries = {entry.stem: known(entry) for entry in ledger.below(f"{stem}-")}
            if not entries:
                forget_former(source)
            container = Container(source, stem, stamp(source), order.batch_size, entries)
            report.skipped += container.finished
            yield container
        else:
            if "yolo" in formats and PurePosixPath(stem).name != stem_of(source, safe=False):
                report.notes.setdefault(OTHER_NAME, []).append(source)
            if (entry := ledger.get(stem)) is None:
                forget_former(source)
            found = None if entry is None else known(entry)
            group.append(Task(str(source), identity(source), stem, stamp(source), known=found))
            if len(group) == order.batch_size:
                yield from complete(group)
                group = []
    yield from complete(group)


def _enter(
    outcomes: Iterable[Outcome], order: Order, results: Results, run: str, containers: set[str], report: Report
) -> None:
    """Give new results their names, and note in ledger and report what became of each image."""
    ledger, made, failed_before = results.ledger, [], len(report.failed)
    sources: dict[str, Source] = {}
    for outcome in outcomes:
        task = outcome.task
        source: Source = task.source if is_address(task.source) else Path(task.source)
        report.left_out.update(task.left_out)
        if outcome.note is not None:
            report.notes.setdefault(outcome.note, []).append(source)
        if outcome.reason is not None:
            report.failed.append((source, outcome.reason))
        elif outcome.record is None or outcome.staged is None:
            ledger.recognise(task.stem, source=task.identity, stamp=task.stamp)
            report.skipped += 1
            _log(source, "there already", name=task.stem)
        else:
            old = ledger.get(task.stem)
            # another image of this run has the name, or will have it
            is_rival = old is not None and (old.run == run or old.source.rpartition("#")[0] in containers)
            if old is not None and old.source != task.identity and is_rival:
                reason = f"{task.source} and {old.source} would both become {task.stem}: use two folders"
                report.failed.append((source, reason))
                outcome.staged.discard()
                continue
            same = old is not None and (old.settings, old.digest) == (order.mark, outcome.digest)
            record = merge_records(ledger.record(task.stem) if same else None, outcome.record)
            formats = tuple(record["formats"])
            entry = Entry(task.stem, task.identity, task.stamp, outcome.digest, order.mark, run, formats)
            made.append((entry, record, outcome.staged))
            sources[task.stem] = source
            report.absent.update(record.get("absent", ()))
            report.rivals.update(map(tuple, record.get("rivals", ())))
    refused = results.accept(made)
    report.failed += [(sources[stem], reason) for stem, reason in refused.items()]
    report.done += len(made) - len(refused)
    for entry, _, _ in made:
        if entry.stem not in refused:
            _log(sources[entry.stem], "segmented", name=entry.stem)
    for source, reason in report.failed[failed_before:]:
        _log(source, "failed", reason=reason)


def _log(source: Source, became: str, **more: str) -> None:
    log.debug("%s: %s", source, became, extra={"event": {"image": source, "became": became, **more}})
