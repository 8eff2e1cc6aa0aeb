"""What runs in a worker's process on Ray: it enters the driver's folder, does blocks of jobs, and never raises."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearclip.errors import ClearclipError

if TYPE_CHECKING:
    from clearclip.segmenter import Segmenter

Load = Callable[[], "Segmenter"]
"""Makes the model where it is used; pickled, so a function of a module or a `functools.partial` of one."""

PASSED_ON = ("CLEARCLIP_CACHE", "HF_HUB_OFFLINE")


@dataclass(frozen=True)
class Answer:
    """A part of a job's answer; `of` is how many parts the job has, once that is known."""

    number: int
    part: int
    of: int | None
    value: Any


Worker = Callable[[list[tuple[int, Any]]], Iterator[list[Answer]]]


@dataclass(frozen=True)
class Place:
    """The driver's working folder and the variables that decide where things are found, for workers to enter."""

    folder: Path = field(default_factory=Path.cwd)
    environment: dict[str, str] = field(
        default_factory=lambda: {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    )

    def enter(self) -> None:
        """Go there; `ClearclipError` if this machine has no such folder."""
        os.environ.update(self.environment)
        logging.getLogger().setLevel(logging.ERROR)
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ClearclipError(
                f"{self.folder} is not there on machine {socket.gethostname()}: start in a folder that all machines "
                "share, and keep images and results in one"
            ) from error


def portable(error: Exception) -> Exception:
    """An error that the driver can raise as its own, whatever library made it."""
    if isinstance(error, ClearclipError):
        return type(error)(str(error))
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    return ClearclipError(f"a worker failed ({type(error).__name__}: {' '.join(str(error).split())[:500]})")


class Actor:
    """A worker's process; it returns errors instead of raising them, so that users see no traceback.

    `tally` counts how often a block was begun: Ray Data repeats endlessly what kills its actors.
    """

    def __init__(self, make: Callable[[], Worker], place: Place, tally: Any, tries: int) -> None:
        self._tally = tally
        self._tries = tries
        self._failure: Exception | None = None
        warnings.simplefilter("ignore")
        try:
            place.enter()
            self._work = make()
        except Exception as error:
            self._failure = portable(error)

    def __call__(self, batch: Any) -> Iterator[dict[str, list[bytes]]]:
        """Do a block of jobs, an Arrow table of `number` and `job`; yields pickled lists of answers, or an error."""
        try:
            import ray

            if self._failure is not None:
                raise self._failure
            numbers = batch.column("number").to_pylist()
            if ray.get(self._tally.begin.remote(numbers[0])) > self._tries:
                yield {"answers": [pickle.dumps([])]}
                return
            jobs = map(pickle.loads, batch.column("job").to_pylist())
            for answers in self._work(list(zip(numbers, jobs, strict=True))):
                yield {"answers": [pickle.dumps(answers)]}
        except Exception as error:
            yield {"answers": [pickle.dumps(portable(error))]}


class Tally:
    """How often each block of a round was begun; an actor beside the workers."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}

    def begin(self, number: int) -> int:
        """Count a beginning of the block whose first job has this number, and say which one it was."""
        self._begun[number] = self._begun.get(number, 0) + 1
        return self._begun[number]


def asked(question: Callable[[], Any], place: Place) -> tuple[Any, list[str]]:
    """Answer a question in a worker's process: the answer or the error, and clearclip's warnings."""
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        try:
            place.enter()
            answer: Any = question()
        except Exception as error:
            answer = portable(error)
    ours = [str(one.message) for one in noted if one.category is UserWarning and "clearclip" in one.filename]
    return answer, ours
