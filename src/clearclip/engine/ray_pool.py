"""A pool of workers on Ray Data: gives jobs out, collects answers, repeats the jobs of workers that died."""

from __future__ import annotations

import logging
import math
import os
import pickle
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from clearclip.engine.ray_start import ENVIRONMENT, no_greetings, private_place
from clearclip.engine.ray_worker import Actor, Answer, Place, Tally, Worker, asked
from clearclip.errors import ClearclipError, UsageError
from clearclip.files.optional import require

Value = TypeVar("Value")
TRIES = 2


@dataclass(frozen=True)
class Fleet:
    """How many workers and what each takes; `UsageError` if a number is out of range.

    `None` for `workers`: one per GPU, else as the processors allow; for `address`: a cluster of its own on this
    machine; for `gpus` of a worker: one where the cluster has any.
    """

    workers: int | None = None
    address: str | None = None
    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers={self.workers}: at least 1 is needed")
        if not self.cpus > 0:
            raise UsageError(f"cpus_per_worker={self.cpus!r}: more than 0 are needed")
        if self.gpus is not None and not self.gpus >= 0:
            raise UsageError(f"gpus_per_worker={self.gpus!r}: 0 or more are needed")


class Work(Protocol):
    """A job that can go on after the worker that had it died."""

    def left(self, parts: set[int]) -> Any:
        """What remains of it once those parts are done."""

    def divide(self) -> tuple[list[Any], list[Any]]:
        """Its smallest jobs, one of which kills workers, and the rest of it."""

    def give_up(self) -> Any:
        """The answer to a smallest job that kills workers; `ClearclipError` if the run cannot do without it."""


class Pool:
    """Workers of a connected cluster; `connect` gives one."""

    def __init__(self, fleet: Fleet, ray: Any) -> None:
        self._ray = ray
        resources = ray.cluster_resources()
        self.gpus = fleet.gpus if fleet.gpus is not None else float(resources.get("GPU", 0) >= 1)
        self.cpus = fleet.cpus
        enough = resources.get("GPU", 0) / self.gpus if self.gpus else resources.get("CPU", 1) / self.cpus
        self.size = fleet.workers or max(1, int(enough))
        self.place = Place()
        if fleet.address is None and (enough < 1 or resources.get("CPU", 1) < self.cpus):
            raise UsageError(
                f"a worker of {self.cpus:g} cores and {self.gpus:g} GPUs does not fit this machine with "
                f"{resources.get('CPU', 0):g} cores and {resources.get('GPU', 0):g} GPUs: lower --cpus-per-worker or "
                "--gpus-per-worker"
            )
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        if not any(
            all(node["Resources"].get(kind, 0) >= least for kind, least in wanted.items())
            for node in ray.nodes()
            if node["Alive"]
        ):
            warnings.warn(
                f"no machine of the cluster has the {self.cpus:g} cores and {self.gpus:g} GPUs of a worker: waiting",
                stacklevel=3,
            )

    def ask(self, question: Callable[[], Value]) -> Value:
        """Call a question once on a worker; its `ClearclipError`s are raised, its warnings repeated here."""
        remote = self._ray.remote(num_cpus=self.cpus, num_gpus=self.gpus)(asked)
        with _rays_own_errors(self._ray):
            answer, noted = self._ray.get(remote.remote(question, self.place))
        for text in noted:
            warnings.warn(text, stacklevel=2)
        if isinstance(answer, Exception):
            raise answer
        given: Value = answer
        return given

    def run(self, make: Callable[[], Worker], jobs: Iterable[Work], *, at_once: int) -> Generator[Any, None, None]:
        """Have jobs done, at most `at_once` in one go; yields the values of their answers in any order, each once.

        A worker that dies is started again. Its jobs are repeated; one that is lost for the second time is repeated
        alone, then in its smallest parts, and given up where one of these still kills its worker. A worker's `OSError`
        or `ClearclipError` is raised after the answers before it.
        """
        packed = _packed(jobs)
        block = max(1, min(at_once, len(packed) // (8 * self.size)))
        lost = yield from self._round(make, packed, block=block, careful=False)
        again: list[Work] = [job.left(parts) for job, parts in lost]
        while again:
            smallest, rest = [], []
            for job, parts in (yield from self._round(make, _packed(again), block=1, careful=True)):
                alone, after = job.left(parts).divide()
                smallest += alone
                rest += after
            for job, _ in (yield from self._round(make, _packed(smallest), block=1, careful=True)):
                yield job.give_up()
            again = rest

    def _round(
        self, make: Callable[[], Worker], packed: Sequence[bytes], *, block: int, careful: bool
    ) -> Generator[Any, None, list[tuple[Work, set[int]]]]:
        """Give every job out once; returns those without a complete answer, with the parts that arrived."""
        if not packed:
            return []
        done: dict[int, set[int]] = {number: set() for number in range(len(packed))}
        total: dict[int, int] = {}
        for answer in self._answers(make, packed, block=block, careful=careful):
            parts = done.get(answer.number)
            if parts is None or answer.part in parts:
                continue  # a repeated job gives some parts twice
            parts.add(answer.part)
            if answer.of is not None:
                total[answer.number] = answer.of
            if len(parts) == total.get(answer.number):
                del done[answer.number], total[answer.number]
            yield answer.value
        return [(pickle.loads(packed[number]), parts) for number, parts in done.items()]

    def _answers(
        self, make: Callable[[], Worker], packed: Sequence[bytes], *, block: int, careful: bool
    ) -> Iterator[Answer]:
        import pyarrow
        import ray.data

        tables = [
            pyarrow.table({"number": numbers, "job": [packed[number] for number in numbers]})
            for numbers in (range(start, min(start + block, len(packed))) for start in range(0, len(packed), block))
        ]
        _silence_ray_data()
        tally = self._ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Tally).remote()
        jobs = ray.data.from_arrow(tables)
        jobs.context.enable_progress_bars = False
        jobs.context.target_max_block_size = 1  # every answer is on its way at once
        jobs.context.max_errored_blocks = -1  # a job whose worker died is missed below, not raised
        answers = jobs.map_batches(
            Actor,
            fn_constructor_args=(make, self.place, tally, 1 if careful else TRIES),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            compute=ray.data.ActorPoolStrategy(
                size=min(self.size, len(tables)), max_tasks_in_flight_per_actor=1 if careful else None
            ),
        )
        batches = iter(answers.iter_batches(batch_size=None, batch_format="pyarrow"))
        with _rays_own_errors(self._ray), closing(batches):
            for batch in batches:
                for row in batch.column("answers").to_pylist():
                    found = pickle.loads(row)
                    if isinstance(found, Exception):
                        raise found
                    yield from found


def _packed(jobs: Iterable[Work]) -> list[bytes]:
    return [pickle.dumps(job) for job in jobs]


@contextmanager
def connect(fleet: Fleet) -> Iterator[Pool]:
    """Workers of the cluster at an address, of the one that this process is connected to, or of one of its own.

    `UsageError` if Ray is not installed, there is no cluster at the address, or no worker fits this machine.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray = require("ray", extra="ray", purpose="--engine ray")
    require("ray.data", extra="ray", purpose="--engine ray")
    if ray.is_initialized():
        yield Pool(fleet, ray)
        return
    cores = max(os.cpu_count() or 1, math.ceil((fleet.workers or 1) * fleet.cpus))
    with private_place(cores) if fleet.address is None else nullcontext({"address": fleet.address}) as options:
        try:
            try:
                with no_greetings():
                    ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
            except (ConnectionError, OSError, RuntimeError, ValueError) as error:
                place = "on this machine" if fleet.address is None else f"at {fleet.address}"
                raise UsageError(f"there is no Ray cluster {place} ({_told(error)}): ray start --head") from error
            yield Pool(fleet, ray)
        finally:
            ray.shutdown()


def _silence_ray_data() -> None:
    """Ray Data logs to the console; its log file has the same."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL + 1)


@contextmanager
def _rays_own_errors(ray: Any) -> Iterator[None]:
    try:
        yield
    except ray.exceptions.RayError as error:
        raise ClearclipError(
            f"Ray gave up ({type(error).__name__}: {_told(error)}): start again to go on with what is left"
        ) from error


def _told(error: BaseException) -> str:
    """One line of an error; Ray puts the message of a worker's error last."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if len(lines) > 1 and lines[0].startswith("\x1b") else 0][:300]
