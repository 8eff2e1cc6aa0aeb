"""One evaluation by many workers of `engine.ray_pool`: shards out, states back, summed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clearclip.benchmarks.configuration import Configuration, configurations, thresholds_for
from clearclip.benchmarks.evaluation import Advanced, Evaluation, Run, held_states, measure, outcome
from clearclip.benchmarks.readers import Dataset
from clearclip.benchmarks.state import State, state_path, sum_of
from clearclip.errors import ClearclipError, UsageError
from clearclip.files.shards import WHOLE, Shard
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
    limits = thresholds_for(dataset, rows, wanted=thresholds)
    items = run.select(dataset.items)
    count = min(SHARDS, len(items))
    measuring = _Measuring(load, dataset, limits, run)
    with connect(fleet) as pool:
        configs = pool.ask(measuring.configurations)
        with held_states(configs, dataset, items, run=run) as (found, _):
            whole = {name: state for name, state in found.items() if state.complete}
            missing = {name: limit for name, limit in limits.items() if name not in whole}
            parts: list[list[State]] = []
            jobs = [_Part(Shard(index + 1, count)) for index in range(count)]
            for states in pool.run(replace(measuring, limits=missing), jobs, at_once=1) if missing else ():
                parts.append(states)
                if on_image:
                    sums = {
                        one[0].config.method: sum(state.matrix for state in one) for one in zip(*parts, strict=True)
                    }
                    on_image(sum(one[0].total for one in parts), len(items), sums)
            for shards in zip(*sorted(parts, key=lambda states: states[0].shard.index), strict=True):
                state = whole[shards[0].config.method] = sum_of(shards)
                state.save(run.output)
                for one in shards:
                    state_path(run.output, one.config, shard=one.shard).unlink(missing_ok=True)
            return outcome([whole[name] for name in limits], rows)


@dataclass(frozen=True)
class _Part:
    """A shard as a job; its state lies on the disk, so that a worker goes on where a dead one was."""

    shard: Shard

    def left(self, parts: set[int]) -> _Part:
        return self

    def divide(self) -> tuple[list[Any], list[Any]]:
        return [self], []

    def give_up(self) -> list[State]:
        raise ClearclipError(
            f"every worker that measures shard {self.shard} dies: see how far evaluate --shard {self.shard} comes in "
            "one process"
        )


@dataclass(frozen=True)
class _Measuring:
    load: Load
    dataset: Dataset
    limits: Mapping[str, float | None]
    run: Run

    def configurations(self) -> list[Configuration]:
        run = self.run
        return configurations(self.load(), self.dataset, thresholds=self.limits, limit=run.limit, seed=run.seed)

    def __call__(self) -> Worker:
        from clearclip.engine.ray_worker import Answer

        segmenter = self.load()

        def work(jobs: list[tuple[int, _Part]]) -> Iterator[list[Answer]]:
            for number, part in jobs:
                run = replace(self.run, shard=part.shard)
                yield [Answer(number, 0, 1, measure(segmenter, self.dataset, self.limits, run=run))]

        return work
