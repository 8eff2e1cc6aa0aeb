"""What runs in a worker's process on Ray: it goes where the program was started, does blocks of jobs, never raises.

Belongs here: everything that a worker executes beside the job itself. Does not: giving jobs out (`ray_pool`), what a
job is (`on_ray`, `benchmarks.distributed`).
"""

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
    """What a worker gives back.

    Attributes:
        number: The job's, in the round that it was given out in.
        part: Which part of the job this is.
        of: How many parts the job has, once that is known.
        value: The answer itself.
    """

    number: int
    part: int
    of: int | None
    value: Any


Worker = Callable[[list[tuple[int, Any]]], Iterator[list[Answer]]]


@dataclass(frozen=True)
class Place:
    """Where the program was started, for workers to be there too: relative paths and the text cache.

    Attributes:
        folder: The working folder.
        environment: Variables that decide where things are found.
    """

    folder: Path = field(default_factory=Path.cwd)
    environment: dict[str, str] = field(
        default_factory=lambda: {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    )

    def enter(self) -> None:
        """Go there.

        Raises:
            ClearclipError: There is no such folder on this machine.
        """
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
    """An error that the driver can raise as its own, whatever libraries made it.

    Args:
        error: What a worker met.

    Returns:
        It, where it is one of ours or the system's, else one of ours with its words.
    """
    if isinstance(error, ClearclipError):
        return type(error)(str(error))
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    return ClearclipError(f"a worker failed ({type(error).__name__}: {' '.join(str(error).split())[:500]})")


class Actor:
    """What runs in a worker's process; it never raises, so that no traceback is anybody's way to learn of a failure.

    Args:
        make: Makes the worker's function, once.
        place: Where to be.
        tally: Counts how often a block was begun: Ray Data repeats without end what kills its actors.
        tries: How often that may be.
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
        """Do a block of jobs.

        Args:
            batch: An Arrow table with the columns `number` and `job`.

        Yields:
            One row: a pickled list of answers, or the error that ends the run.
        """
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
        """Count a beginning.

        Args:
            number: Of the block's first job.

        Returns:
            How many there were, with this one.
        """
        self._begun[number] = self._begun.get(number, 0) + 1
        return self._begun[number]


def asked(question: Callable[[], Any], place: Place) -> tuple[Any, list[str]]:
    """Answer a question in a worker's process.

    Args:
        question: Called once.
        place: Where to be.

    Returns:
        The answer or the error, and the warnings that are ours.
    """
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
