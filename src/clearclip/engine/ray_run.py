"""The engine of many workers: Ray's actors, each with the model, write the files; small rows come back to the driver.

A job done twice gives the same bytes twice, so nothing is lost or doubled when a worker dies.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from typing import Any

from clearclip.engine.pipeline import Container, Group, Job, Labeller, Outcome, groups_of
from clearclip.engine.ray_worker import Answer, Load, Worker
from clearclip.errors import ClearclipError
from clearclip.formats import Writer
from clearclip.vocabulary import Vocabulary

GROUPS_AT_ONCE = 16
END = -1
"""The part of a container that says how many others there are."""


@dataclass(frozen=True)
class Described:
    """What a run's results are made with, found out on a worker."""

    load: Load
    labels: Any
    threshold: float | None

    def __call__(self) -> tuple[Vocabulary, dict[str, str]]:
        """The vocabulary and how results are made; the embeddings are cached for the other workers."""
        segmenter = self.load()
        vocabulary, limit = segmenter.vocabulary(self.labels, self.threshold)
        segmenter.embed(vocabulary)
        return vocabulary, segmenter.describe(segmenter.method, limit)


@dataclass(frozen=True)
class Images:
    """A group or container as a job for the pool, from its group number `start` on."""

    job: Job
    start: int = 0

    def left(self, parts: set[int]) -> Images:
        """As `Work.left`; what comes after a missing part is done again."""
        first = next(number for number in count(self.start) if number not in parts)
        return replace(self, start=first)

    def divide(self) -> tuple[list[Any], list[Any]]:
        """As `Work.divide`: every image of the group alone, and the container after it."""
        group = next(islice(groups_of(self.job), self.start, None), ())
        rest = [replace(self, start=self.start + 1)] if isinstance(self.job, Container) and group else []
        return [Images((task,)) for task in group if task.wanted], rest

    def give_up(self) -> list[Outcome]:
        """As `Work.give_up`."""
        group: Group = () if isinstance(self.job, Container) else self.job
        return [Outcome(task, reason=f"{task.source}: every worker that reads it dies") for task in group]


@dataclass(frozen=True)
class Labelling:
    """Makes a worker's function; `info` is how every worker must make its results, `mark` its hash."""

    described: Described
    info: Mapping[str, str]
    writer: Writer
    mark: str
    overwrite: bool

    def __call__(self) -> Worker:
        """Load the model; `ClearclipError` if versions differ here or the output folder is not shared."""
        machine = socket.gethostname()
        segmenter = self.described.load()
        vocabulary, limit = segmenter.vocabulary(self.described.labels, self.described.threshold)
        info = segmenter.describe(segmenter.method, limit)
        differing = [key for key, value in self.info.items() if info.get(key) != value]
        if differing:
            texts = (f"{key} {info.get(key)!r}, not {self.info[key]!r}" for key in differing)
            raise ClearclipError(f"machine {machine} has {'; '.join(texts)}: all must make the same results")
        if not (self.writer.run.folder / "labels.json").is_file():
            raise ClearclipError(f"machine {machine} does not see {self.writer.run.folder}: put it in a shared folder")
        labeller = Labeller(
            segmenter, vocabulary, self.described.threshold, self.writer, self.mark, overwrite=self.overwrite
        )
        return partial(_label, labeller)


def _label(labeller: Labeller, jobs: Sequence[tuple[int, Images]]) -> Iterator[list[Answer]]:
    """Label jobs in one stream, so that the model never waits between them."""
    begun: deque[tuple[int, int, int | None]] = deque()
    ends: list[Answer] = []

    def groups() -> Iterator[Group]:
        for number, images in jobs:
            if not isinstance(images.job, Container):
                begun.append((number, 0, 1))
                yield images.job
                continue
            parts = 0
            for part, group in enumerate(groups_of(images.job)):
                if part >= images.start:
                    parts += 1
                    begun.append((number, part, None))
                    yield group
            ends.append(Answer(number, END, parts + 1, []))

    answers: list[Answer] = []
    try:
        for outcomes in labeller.run(groups()):
            number, part, of = begun.popleft()
            answers.append(Answer(number, part, of, outcomes))
            if len(answers) == GROUPS_AT_ONCE:
                yield answers
                answers = []
    except Exception:
        yield answers
        raise
    yield answers + ends
