"""One evaluation by many workers of `engine.ray_pool`: shards out, states back, summed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from clearclip.benchmarks.configuration import configuration, thresholds_for
from clearclip.benchmarks.evaluation import Advanced, Evaluation, Run, measure, outcome, stored_state
from clearclip.benchmarks.predictions import hold_predictions
from clearclip.benchmarks.readers import Dataset
from clearclip.benchmarks.state import WHOLE, Shard, State, state_path, sum_of
from clearclip.errors import ClearclipError, UsageError
from clearclip.files.writing import claim
from clearclip.methods import Method, parse_methods

if TYPE_CHECKING:
    from clearclip.engine.ray_pool import Fleet
    from clearclip.engine.ray_worker import Answer, Load, Worker

SHARDS = 64
"""The same whatever the number of workers, so that a run may go on with another number."""


def evaluate_on_ray(
    load: Load,
    dataset: Dataset,
    *,
    methods: str | Method | Sequence[str | Method],
    fleet: Fleet,
    run: Run,
    thresholds: Mapping[str, float] | float | None = None,
    on_image: Advanced | None = None,
) -> Evaluation:
    """As `evaluate`, by many workers, with exactly the same numbers: confusion matrices add up.

    The data set and the output folder lie where all machines see them under one path. Interrupted and started again,
    the run goes on from the states of its shards. load makes the segmenter on a worker: a function of an importable
    module, or a `functools.partial` of one. The run needs an output folder and is no shard itself; on_image is called
    after each shard.
    """
    from clearclip.engine.ray_pool import connect

    if run.output is None or run.shard != WHOLE:
        raise UsageError("an evaluation on Ray needs an output folder, and divides the images itself: give no --shard")
    rows = parse_methods(methods)
    thresholds_for(dataset, rows, wanted=thresholds)
    order = [row.spelling for row in rows]
    items = run.select(dataset.items)
    count = min(SHARDS, len(items))
    measuring = _Measuring(load, dataset, tuple(rows), thresholds, run)
    with connect(fleet) as pool, ExitStack() as held:
        config = pool.ask(measuring.configuration)
        held.enter_context(claim(state_path(run.output, config, shard=WHOLE), is_file=True))
        predictions = held.enter_context(hold_predictions(run.predictions, dataset, config, shard=WHOLE))
        state = stored_state(config, run=run, items=items, predictions=predictions)
        if state is not None and state.complete:
            return outcome(state, order=order)
        states: list[State] = []
        for found in pool.run(measuring, [_Part(Shard(index + 1, count)) for index in range(count)], at_once=1):
            states.append(found)
            if on_image:
                matrices = np.sum([one.matrices for one in states], axis=0)
                by_method = dict(zip(config["methods"], matrices, strict=True))
                on_image(sum(one.total for one in states), len(items), by_method)
        whole = sum_of(sorted(states, key=lambda one: one.shard.index))
        whole.save(run.output)
        for one in states:
            state_path(run.output, config, shard=one.shard).unlink(missing_ok=True)
        return outcome(whole, order=order)


@dataclass(frozen=True)
class _Part:
    """A shard as a job; its state lies on the disk, so that a worker goes on where a dead one was."""

    shard: Shard

    def left(self, parts: set[int]) -> _Part:
        return self

    def divide(self) -> tuple[list[Any], list[Any]]:
        return [self], []

    def give_up(self) -> State:
        raise ClearclipError(
            f"every worker that measures shard {self.shard} dies: see how far evaluate --shard {self.shard} comes in "
            "one process"
        )


@dataclass(frozen=True)
class _Measuring:
    load: Load
    dataset: Dataset
    rows: tuple[Method, ...]
    thresholds: Mapping[str, float] | float | None
    run: Run

    def configuration(self) -> dict[str, Any]:
        limits = thresholds_for(self.dataset, self.rows, wanted=self.thresholds)
        return configuration(self.load(), self.dataset, thresholds=limits, limit=self.run.limit, seed=self.run.seed)

    def __call__(self) -> Worker:
        from clearclip.engine.ray_worker import Answer

        segmenter = self.load()

        def work(jobs: list[tuple[int, _Part]]) -> Iterator[list[Answer]]:
            for number, part in jobs:
                run = replace(self.run, shard=part.shard)
                state = measure(segmenter, self.dataset, self.rows, thresholds=self.thresholds, run=run)
                yield [Answer(number, 0, 1, state)]

        return work
