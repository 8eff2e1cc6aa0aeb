"""One pass over a data set for any number of methods: the resumable loop and what it returns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clearclip.benchmarks.check import broken_items, count_warnings, refuse, shifted_warnings, truth_warnings
from clearclip.benchmarks.configuration import Configuration, Facts, configurations, facts, thresholds_for
from clearclip.benchmarks.metrics import Matrix, Scores, confusion, scores
from clearclip.benchmarks.predictions import Predictions, hold_predictions
from clearclip.benchmarks.readers import OWN, Dataset, Item, read_ahead
from clearclip.benchmarks.state import State, add_shards, load_state, refuse_earlier, state_path
from clearclip.errors import ClearclipError, ImageError, UsageError
from clearclip.files.shards import WHOLE, Shard
from clearclip.files.writing import claim
from clearclip.methods import Method, parse_methods
from clearclip.protocol import Presence

if TYPE_CHECKING:
    from clearclip.segmenter import Segmenter

Advanced = Callable[[int, int, Mapping[str, Matrix]], None]


@dataclass(frozen=True)
class Run:
    """How a run goes about its images; nothing but `limit` and `seed` is part of its configuration.

    Attributes:
        output: Folder of states and results; `None` keeps nothing and cannot go on after an interruption.
        limit: Only the first images of the split.
        shard: Only every n-th of them.
        skip_broken: Leave out what cannot be used, and list it, instead of stopping before the first image.
        overwrite: Begin anew although there is a state.
        predictions: Folder for palette PNGs of every prediction, a folder for each method.
        seed: Set before the first image, and recorded; evaluation itself draws no random number.
        save_seconds: Least time between two saved states.
    """

    output: Path | None = None
    limit: int | None = None
    shard: Shard = WHOLE
    skip_broken: bool = False
    overwrite: bool = False
    predictions: Path | None = None
    seed: int = 0
    save_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit={self.limit}: at least 1 image is needed")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed={self.seed}: a whole number from 0 to {2**32 - 1:,} is needed")

    def select(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items that `limit` and `shard` leave; `UsageError` where none is left."""
        limited = items[: self.limit]
        selected = limited[self.shard.index - 1 :: self.shard.count]
        if not selected:
            raise UsageError(f"shard {self.shard} of {len(limited)} images is empty: use fewer shards")
        return selected


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The outcome of a run.

    Attributes:
        config: By method, everything the numbers depend on.
        facts: By method, device, versions, the data's place, when the run began, its id.
        classes: Names, in the order of the matrices.
        matrices: By method, `(C, C)` int64, row = true class.
        images: How many were counted.
        skipped: One sentence for each image or pair left out.
        warnings: What must be known to compare these numbers with others.
        image_scores: By method, `(N,)` mIoU of each image of the part in its order; `nan` for a skipped one.
        names: By method, the name of a row of one's own.
    """

    config: dict[str, Configuration]
    facts: dict[str, Facts]
    shard: Shard
    classes: tuple[str, ...]
    matrices: dict[str, Matrix]
    images: int
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float
    image_scores: dict[str, npt.NDArray[np.float32]]
    names: dict[str, str] = field(default_factory=dict)

    def scores(self, method: str) -> Scores:
        """Scores of one method, by its spelling."""
        return scores(self.matrices[method])

    def is_official(self, method: str) -> bool:
        """Whether a method was measured on the benchmark's own images, by its own protocol and threshold."""
        return self.images == self.facts[method].official.images and self.is_by_protocol(method)

    def is_by_protocol(self, method: str) -> bool:
        """Whether a method was measured by the benchmark's own protocol and threshold."""
        config, official = self.config[method], self.facts[method].official
        return (config.protocol, config.threshold) == (official.protocol, official.threshold)


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    methods: str | Method | Iterable[str | Method] | None = None,
    thresholds: Mapping[str, float] | float | None = None,
    run: Run | None = None,
    on_image: Advanced | None = None,
) -> Evaluation:
    """Measure methods on a data set: each image goes through the trunk once for all of them.

    The state is one exact confusion matrix per method over the whole split (mIoU is not a mean of per-image scores).
    Interrupted at any moment and started again with the same arguments and output folder, the run goes on from the last
    saved state and ends with the same numbers; nothing is computed again where it is complete. methods are by default
    the segmenter's own; thresholds are the paper's, or one number for all, or by spelling. on_image is called after
    each image with the number done, the total, and the matrices so far by method. `ClearclipError` if a file is missing
    or broken and `run.skip_broken` is off.
    """
    run = run or Run()
    rows = parse_methods(segmenter.method if methods is None else methods)
    limits = thresholds_for(dataset, rows, wanted=thresholds)
    return outcome(measure(segmenter, dataset, limits, run=run, on_image=on_image), rows)


def measure(
    segmenter: Segmenter,
    dataset: Dataset,
    thresholds: Mapping[str, float | None],
    *,
    run: Run,
    on_image: Advanced | None = None,
) -> list[State]:
    """As `evaluate`, for the methods of `thresholds_for`, down to the complete states that an outcome is made of."""
    items = run.select(dataset.items)
    configs = configurations(segmenter, dataset, thresholds=thresholds, limit=run.limit, seed=run.seed)
    with held_states(configs, dataset, items, run=run) as (found, predictions):
        states = {
            config.method: found.get(config.method)
            or State.begin(config, facts(segmenter, dataset, config=config), shard=run.shard, total=len(items))
            for config in configs
        }
        if not run.skip_broken:
            todo = items[min(state.done for state in states.values()) :]
            broken = broken_items(todo, show_progress=segmenter.show_progress)
            refuse(dataset.benchmark.name, missing=dataset.missing, broken=broken)
        elif dataset.missing:
            for name, state in states.items():
                states[name] = replace(state, skipped=tuple(dict.fromkeys((*dataset.missing, *state.skipped))))
        _advance(states, segmenter, dataset, items, run=run, predictions=predictions, on_image=on_image)
        return list(states.values())


def merge(folders: Iterable[Path], *, output: Path | None = None) -> list[Evaluation]:
    """Add up the finished shards below output folders, exactly: an outcome for methods that differ in nothing else.

    output gets the state of each whole run, as if it had not been divided.
    """
    runs: dict[str, list[State]] = {}
    for state in sorted(add_shards(folders), key=lambda state: state.config.method):
        if output is not None:
            path = state_path(output, state.config, shard=WHOLE)
            with claim(path, is_file=True):
                if not os.path.lexists(path) or not load_state(path).complete:  # an error if it is none of ours
                    state.save(output)
        runs.setdefault(replace(state.config, method="", threshold=None).key, []).append(state)
    return [outcome(states) for states in runs.values()]


@contextmanager
def held_states(
    configs: Sequence[Configuration], dataset: Dataset, items: Sequence[Item], *, run: Run
) -> Iterator[tuple[dict[str, State], Predictions | None]]:
    """Claim the files of a run; yields the saved states to go on from, by method, and where predictions go.

    A state that lacks predictions that are asked for is none to go on from. `UsageError` if a file is no state of this
    run, `run.overwrite` or not: it is not ours then, or damaged. The same for predictions.
    """
    paths = {} if run.output is None else {one.method: state_path(run.output, one, shard=run.shard) for one in configs}
    found: dict[str, State] = {}
    with ExitStack() as held:
        for path in paths.values():
            held.enter_context(claim(path, is_file=True))
        predictions = held.enter_context(hold_predictions(run.predictions, dataset, configs, shard=run.shard))
        if predictions is not None:
            predictions.check(items, overwrite=run.overwrite)
        for config in configs if run.output is not None else ():
            path = paths[config.method]
            if not os.path.lexists(path):
                continue
            state = load_state(path)
            if (state.config, state.shard, state.total) != (config, run.shard, len(items)):
                raise UsageError(
                    f"{path} is the state of another run than its name says: move or delete it, and start again"
                )
            seen = (item for item, score in zip(items, state.image_scores, strict=False) if not np.isnan(score))
            if predictions is None or all(predictions.stand(config.method, item) for item in seen):
                found[config.method] = state
        if run.output is not None and not run.overwrite and not all(map(os.path.lexists, paths.values())):
            refuse_earlier(run.output, configs[0])
        yield {} if run.overwrite else found, predictions


def _advance(
    states: dict[str, State],
    segmenter: Segmenter,
    dataset: Dataset,
    items: Sequence[Item],
    *,
    run: Run,
    predictions: Predictions | None,
    on_image: Advanced | None,
) -> None:
    """Take the states through the images that they lack; every one on the way is whole, so that any may be saved."""
    import torch

    unfinished = [name for name, state in states.items() if not state.complete]
    if not unfinished:
        return
    torch.manual_seed(run.seed)
    segmenter.embed(dataset.vocabulary)
    first = min(states[name].done for name in unfinished)
    saved = last = time.monotonic()
    for index, sample in enumerate(read_ahead(items[first:], value_range=segmenter.value_range), start=first):
        behind = {name: states[name] for name in unfinished if states[name].done == index}
        found: Mapping[str, Matrix | str]
        if isinstance(sample, ImageError):
            if not run.skip_broken:
                raise sample
            found = dict.fromkeys(behind, str(sample))
        else:
            thresholds = {name: state.config.threshold for name, state in behind.items()}
            label_maps = predict(sample.image, segmenter, dataset, thresholds=thresholds, truth=sample.truth)
            if predictions is not None:
                predictions.save(label_maps, items[index])
            classes = len(dataset.vocabulary.labels)
            found = {name: confusion(sample.truth, one, classes=classes) for name, one in label_maps.items()}
        now = time.monotonic()
        states |= {name: state.advance(found[name], seconds=now - last) for name, state in behind.items()}
        last = now
        if run.output is not None and (index + 1 == len(items) or now - saved >= run.save_seconds):
            for name in unfinished:
                states[name].save(run.output)
            saved = time.monotonic()
        if on_image:
            on_image(index + 1, len(items), {name: state.matrix for name, state in states.items()})


def predict(
    image: npt.NDArray[np.uint8],
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    thresholds: Mapping[str, float | None],
    truth: npt.NDArray[np.integer] | None = None,
) -> dict[str, npt.NDArray[np.integer]]:
    """Label maps of one image by each method that has an entry in thresholds; an oracle of presence asks the truth."""
    limits = None
    maps = Presence.parse(segmenter.protocol.presence).makes_maps
    if dataset.vocabulary.background is not None and not maps:
        limits = {method: value or 0.0 for method, value in thresholds.items()}
    encoded = segmenter.encode(image, method=list(thresholds))
    if segmenter.protocol.presence == "oracle" and truth is not None:
        from clearclip.classify.presence import oracle

        verdicts = oracle(truth, dataset.vocabulary)
        made: dict[str, npt.NDArray[np.integer]] = {}
        for method in thresholds:
            words = segmenter.prepare(dataset.vocabulary, threshold=None if limits is None else limits[method])
            made[method] = segmenter.classify(encoded, replace(words, verdicts=verdicts), method=method).label_map
        return made
    found = segmenter.classify(encoded, dataset.vocabulary, method=list(thresholds), threshold=limits)
    return {method: found[method].label_map for method in thresholds}


def outcome(states: Sequence[State], rows: Sequence[Method] = ()) -> Evaluation:
    """What complete states of one run say, in their order; `ClearclipError` if no image could be used.

    rows are the methods, whose own names it has.
    """
    first, config = states[0], states[0].config
    skipped = tuple(dict.fromkeys(sentence for state in states for sentence in state.skipped))
    if not first.evaluated:
        raise ClearclipError(f"{config.benchmark}: none of {first.total} images could be used: {skipped[0]}")
    by_method = {state.config.method: state for state in states}
    return Evaluation(
        config={method: state.config for method, state in by_method.items()},
        facts={method: state.facts for method, state in by_method.items()},
        shard=first.shard,
        classes=tuple(words[0] for words in config.labels),
        matrices={method: state.matrix for method, state in by_method.items()},
        images=first.evaluated,
        skipped=skipped,
        warnings=_warnings(states, skipped=len(skipped)),
        seconds=max(state.seconds for state in states),
        image_scores={method: state.image_scores for method, state in by_method.items()},
        names={row.spelling: row.own_name for row in rows if row.own_name is not None},
    )


def _warnings(states: Sequence[State], *, skipped: int) -> tuple[str, ...]:
    config, official = states[0].config, states[0].facts.official
    found = []
    if skipped:
        found.append(f"{skipped:,} left out because they could not be used (see skipped)")
    if config.protocol != official.protocol:
        found.append("measured by another protocol than the benchmark's own")
    other = [state.config.method for state in states if state.config.threshold != state.facts.official.threshold]
    if other:
        found.append(f"measured with another background threshold than the benchmark's own: {', '.join(sorted(other))}")
    if OWN in config.benchmark:
        matrix = states[0].matrix
        found += truth_warnings([words[0] for words in config.labels], matrix.sum(axis=1)) + shifted_warnings(matrix)
    count = count_warnings(config.benchmark, states[0].evaluated, official=official.images)
    return (*count, *(f"{config.benchmark}: {sentence}" for sentence in found))
