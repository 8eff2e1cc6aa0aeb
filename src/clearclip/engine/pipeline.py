"""The pipeline of one worker, the same in every engine: read and decode ahead, label, write behind.

Images go through the model in groups that depend only on their order in the source, so a run that was interrupted, or
spread over many workers, computes exactly what an undisturbed one does.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clearclip.encode.images import read_levels
from clearclip.engine.containers import Member, read_members
from clearclip.engine.results import Staged, stage
from clearclip.engine.sources import Source, digest, identity, is_address, read_bytes
from clearclip.errors import ClearclipError
from clearclip.formats import Record, Writer
from clearclip.segmentation import Segmentation
from clearclip.segmenter import Segmenter
from clearclip.vocabulary import Vocabulary

READERS = 2
WRITERS = 2
GROUPS_AHEAD = 2
GROUPS_BEHIND = 2
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Known:
    """What the ledger has of an image; `finished`: as this run would make it, its files unchanged."""

    source: str
    stamp: str
    digest: str
    finished: bool


@dataclass(frozen=True)
class Task:
    """One image of a run: `source` as the user named it, `reason` why it cannot be used; `left_out` as of `Member`."""

    source: str
    identity: str
    stem: str
    stamp: str
    known: Known | None = None
    data: bytes | None = None
    reason: str | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def wanted(self) -> bool:
        """Whether anything is to be found out about it; otherwise it only completes its group."""
        known = self.known
        return known is None or not known.finished or (known.source, known.stamp) != (self.identity, self.stamp)


Group = tuple[Task, ...]


@dataclass(frozen=True)
class Container:
    """A tar or Parquet file of a run, with what the ledger has of its images by stem."""

    source: Source
    stem: str
    stamp: str
    group_size: int
    known: Mapping[str, Known] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """How many of its images need not be looked at, as it did not change."""
        own = f"{identity(self.source)}#"
        return sum(
            known.finished and known.source.startswith(own) and known.stamp == self.stamp
            for known in self.known.values()
        )

    def task(self, member: Member) -> Task:
        """One of its members as a task."""
        whole = identity(self.source) + member.source[len(str(self.source)) :]
        known = self.known.get(member.stem)
        return Task(member.source, whole, member.stem, self.stamp, known, member.data, member.reason, member.left_out)


Job = Group | Container


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its record and staged files, why it failed, or neither if the result was there.

    `note` says what of the file is not in the result.
    """

    task: Task
    digest: str = "none"
    record: Record | None = None
    staged: Staged | None = None
    reason: str | None = None
    note: str | None = None


def groups_of(job: Job) -> Iterator[Group]:
    """The groups of a job that have anything wanted in them; a container is read lazily."""
    if not isinstance(job, Container):
        yield job
        return
    members = read_members(job.source, job.stem)
    while chunk := list(islice(members, job.group_size)):
        group = tuple(map(job.task, chunk))
        if any(task.wanted for task in group):
            yield group


@dataclass(frozen=True)
class Labeller:
    """A segmenter and a writer; `settings` is a hash that every result carries."""

    segmenter: Segmenter
    vocabulary: Vocabulary
    threshold: float | None
    writer: Writer
    settings: str
    overwrite: bool = False

    def run(self, groups: Iterable[Group]) -> Generator[list[Outcome], None, None]:
        """Label groups, reading ahead and writing behind; yields the outcomes of each group's wanted tasks, in order.

        `OSError` if the disk is full or the folder cannot be written; the outcomes before have been yielded.
        """
        readers, writers = ThreadPoolExecutor(READERS), ThreadPoolExecutor(WRITERS)
        try:
            writing: deque[list[Future[Outcome]]] = deque()
            for reads in self._read_ahead(readers, groups):
                clear = [writers.submit(read.outcome, reason=read.reason) for read in reads if read.pixels is None]
                labelled = self._label([read for read in reads if read.pixels is not None])
                writing.append(clear + [writers.submit(self._write, read, result) for read, result in labelled])
                while len(writing) > GROUPS_BEHIND:
                    yield from _collect(writing.popleft())
            while writing:
                yield from _collect(writing.popleft())
        finally:
            readers.shutdown(cancel_futures=True)
            writers.shutdown(cancel_futures=True)

    def _read_ahead(self, pool: ThreadPoolExecutor, groups: Iterable[Group]) -> Iterator[list[_Read]]:
        started: deque[list[tuple[Task, Future[_Read] | None]]] = deque()
        for group in groups:
            started.append([(task, pool.submit(self._read, task) if task.wanted else None) for task in group])
            if len(started) > GROUPS_AHEAD:
                yield self._with_company(started.popleft())
        while started:
            yield self._with_company(started.popleft())

    def _with_company(self, group: Sequence[tuple[Task, Future[_Read] | None]]) -> list[_Read]:
        """The wanted images; if one goes through the model, its whole group: no result may depend on the run."""
        wanted = [future.result() for _, future in group if future is not None]
        if all(read.pixels is None for read in wanted):
            return wanted
        reads = [self._read(task) if future is None else future.result() for task, future in group]
        return [read for read in reads if read.task.wanted or read.pixels is not None]

    def _read(self, task: Task) -> _Read:
        """Read an image and its digest, and decode it unless there is a reason not to."""
        if task.reason is not None:
            return _Read(task, reason=task.reason)
        data, known = task.data, task.known
        try:
            if data is None and is_address(task.source):
                data = read_bytes(task.source)
            found = digest(Path(task.source) if data is None else data)
            if task.wanted and known is not None and known.finished and known.digest == found:
                return _Read(task, digest=found)
            image, segmenter = Path(task.source) if data is None else data, self.segmenter
            pixels, note = read_levels(image, max_pixels=segmenter.max_pixels, value_range=segmenter.value_range)
        except ClearclipError as error:
            return _Read(task, reason=str(error))
        except Exception as error:  # decoders fail in many ways, and no image may stop the others
            return _Read(task, reason=f"{task.source}: the image cannot be read ({type(error).__name__}: {error})")
        # An earlier version of this image may have the name, another image may not.
        is_another = known is not None and known.digest != found and known.source != task.identity
        if task.wanted and not self.overwrite and is_another:
            file = next(iter(self.writer.files(task.stem)), task.stem)
            reason = (
                f"{file} exists and was made from another image than {task.source}: use another folder or --overwrite"
            )
            return _Read(task, digest=found, reason=reason)
        return _Read(task, digest=found, pixels=pixels, note=note or None)

    def _label(self, reads: Sequence[_Read]) -> list[tuple[_Read, Segmentation | str]]:
        """The results of wanted images, or why there is none."""
        if not reads:
            return []
        images = [read.pixels for read in reads]
        results: Sequence[Segmentation | str]
        try:
            results = self.segmenter(images, self.vocabulary, threshold=self.threshold)
        except (RuntimeError, MemoryError, ClearclipError) as error:  # one of them may be too large for the memory
            _reraise_unless_of_an_image(error)
            results = [self._label_alone(image) for image in images]
        return [pair for pair in zip(reads, results, strict=True) if pair[0].task.wanted]

    def _label_alone(self, image: npt.NDArray[np.uint8] | None) -> Segmentation | str:
        try:
            return self.segmenter(image, self.vocabulary, threshold=self.threshold)
        except (RuntimeError, MemoryError, ClearclipError) as error:
            _reraise_unless_of_an_image(error)
            return f"it cannot be segmented ({type(error).__name__}: {' '.join(str(error).split())[:300]})"

    def _write(self, read: _Read, result: Segmentation | str) -> Outcome:
        if isinstance(result, str):
            return read.outcome(reason=result)
        described = replace(result, info={**result.info, "settings": self.settings, "sha256": read.digest})
        output = self.writer.run.folder
        try:
            with stage(output) as folder:
                writer = replace(self.writer, run=replace(self.writer.run, folder=folder))
                record = writer.write(described, stem=read.task.stem, source=read.task.source)
                if result.absent:
                    record["absent"] = list(result.absent)
                if rivals := result.rivals():
                    record["rivals"] = [[one.label, one.rival] for one in rivals]
                return read.outcome(record=record, staged=Staged.of(folder))
        except OSError as error:
            if error.errno not in (None, errno.ENAMETOOLONG):
                raise
            return read.outcome(reason=f"{read.task.source}: its result cannot be written ({error})")


@dataclass(frozen=True, eq=False)
class _Read:
    """A task that was read: pixels, a reason for having none, or neither if its result is there already."""

    task: Task
    digest: str = "none"
    pixels: npt.NDArray[np.uint8] | None = None
    reason: str | None = None
    note: str | None = None

    def outcome(
        self, *, record: Record | None = None, staged: Staged | None = None, reason: str | None = None
    ) -> Outcome:
        return Outcome(replace(self.task, data=None, known=None), self.digest, record, staged, reason, self.note)


def _reraise_unless_of_an_image(error: Exception) -> None:
    """A model or device that fails for every image stops the run."""
    if isinstance(error, RuntimeError) and not any(word in str(error) for word in ("memory", "allocate")):
        raise error


def _collect(group: Iterable[Future[Outcome]]) -> Iterator[list[Outcome]]:
    """The outcomes of a group; if a result cannot be written, the others come before its error."""
    outcomes: list[Outcome] = []
    failure: BaseException | None = None
    for future in group:
        try:
            outcomes.append(future.result())
        except BaseException as error:
            failure = failure or error
    if outcomes:
        yield outcomes
    if failure is not None:
        raise failure
