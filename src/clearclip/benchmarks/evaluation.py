"""One pass over a data set for any number of methods: the resumable loop and what it returns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clearclip.benchmarks.check import broken_items, refuse
from clearclip.benchmarks.configuration import configuration, facts, thresholds_for, warnings_of
from clearclip.benchmarks.metrics import Matrix, Scores, confusion, scores
from clearclip.benchmarks.predictions import Predictions, hold_predictions
from clearclip.benchmarks.readers import Dataset, Item, Sample, read_ahead
from clearclip.benchmarks.state import (
    WHOLE,
    Shard,
    State,
    add_shards,
    config_key,
    empty_state,
    load_state,
    refuse_earlier,
    state_path,
)
from clearclip.errors import ClearclipError, ImageError, UsageError
from clearclip.files.writing import claim
from clearclip.methods import Method, parse_method, parse_methods

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
        config: Everything the numbers depend on.
        facts: Device, versions, the data's place, when the run began, its id.
        classes: Names, in the order of the matrices.
        matrices: By method, `(C, C)` int64, row = true class.
        images: How many were counted.
        skipped: One sentence for each image or pair left out.
        warnings: What must be known to compare these numbers with others.
        image_scores: By method, `(N,)` mIoU of each image of the part in its order; `nan` for a skipped one.
    """

    config: dict[str, Any]
    facts: dict[str, Any]
    shard: Shard
    classes: tuple[str, ...]
    matrices: dict[str, Matrix]
    images: int
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float
    image_scores: dict[str, npt.NDArray[np.float32]]

    def scores(self, method: str) -> Scores:
        """Scores of one method, by its spelling."""
        return scores(self.matrices[method])


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

    The state is one exact confusion matrix a method over the whole split (mIoU is not a mean of per-image scores).
    Interrupted at any moment and started again with the same arguments and output folder, the run goes on from the last
    saved state and ends with the same numbers; nothing is computed again where it is complete. methods are by default
    the segmenter's own; thresholds are the paper's, or one number for all, or by spelling. on_image is called after
    each image with the number done, the total, and the matrices so far by method. `ClearclipError` if a file is missing
    or broken and `run.skip_broken` is off.
    """
    run = run or Run()
    rows = parse_methods(segmenter.method if methods is None else methods)
    state = measure(segmenter, dataset, rows, thresholds=thresholds, run=run, on_image=on_image)
    return outcome(state, order=[row.spelling for row in rows])


def measure(
    segmenter: Segmenter,
    dataset: Dataset,
    rows: Sequence[Method],
    *,
    thresholds: Mapping[str, float] | float | None,
    run: Run,
    on_image: Advanced | None = None,
) -> State:
    """As `evaluate`, down to the complete state that an outcome is made of."""
    limits = thresholds_for(dataset, rows, wanted=thresholds)
    items = run.select(dataset.items)
    config = configuration(segmenter, dataset, thresholds=limits, limit=run.limit, seed=run.seed)
    state_file = None if run.output is None else state_path(run.output, config, shard=run.shard)
    with ExitStack() as held:
        if state_file is not None:
            held.enter_context(claim(state_file, is_file=True))
        predictions = held.enter_context(hold_predictions(run.predictions, dataset, config, shard=run.shard))
        state = stored_state(config, run=run, items=items, predictions=predictions)
        if state is None:
            state = empty_state(
                config,
                facts=facts(segmenter, dataset, config=config),
                shard=run.shard,
                total=len(items),
                classes=len(dataset.vocabulary.labels),
            )
        if not run.skip_broken:
            todo = items[state.done :]
            broken = broken_items(todo, show_progress=segmenter.show_progress)
            refuse(dataset.benchmark.name, missing=dataset.missing, broken=broken)
        elif dataset.missing:
            state = replace(state, skipped=tuple(dict.fromkeys((*dataset.missing, *state.skipped))))
        return _advance(state, segmenter, dataset, items, run=run, predictions=predictions, on_image=on_image)


def merge(folders: Iterable[Path]) -> list[Evaluation]:
    """Add up the finished shards below output folders, exactly: one outcome for each configuration found."""
    return [outcome(state, order=state.config["methods"]) for state in add_shards(folders)]


def stored_state(
    config: dict[str, Any], *, run: Run, items: Sequence[Item], predictions: Predictions | None
) -> State | None:
    """The saved state to go on from; `None` where there is none, or where it lacks predictions that are asked for.

    `UsageError` if the file is no state of this run, `run.overwrite` or not: it is not ours then, or damaged. The same
    for predictions.
    """
    if predictions is not None:
        predictions.check(items, overwrite=run.overwrite)
    if run.output is None:
        return None
    path = state_path(run.output, config, shard=run.shard)
    if not os.path.lexists(path):
        if not run.overwrite:
            refuse_earlier(run.output, config)
        return None
    state = load_state(path)
    if (config_key(state.config), state.shard, state.total) != (config_key(config), run.shard, len(items)):
        raise UsageError(f"{path} is the state of another run than its name says: move or delete it, and start again")
    seen = (index for index in range(state.done) if not np.isnan(state.image_scores[:, index]).all())
    if run.overwrite or (
        predictions is not None
        and not all(predictions.stand(method, items[index]) for index in seen for method in config["methods"])
    ):
        return None
    return state


def _advance(
    state: State,
    segmenter: Segmenter,
    dataset: Dataset,
    items: Sequence[Item],
    *,
    run: Run,
    predictions: Predictions | None,
    on_image: Advanced | None,
) -> State:
    """Go through the images that are left; every state on the way is whole, so that any may be saved."""
    import torch

    methods: list[str] = state.config["methods"]
    if state.complete:
        return state
    torch.manual_seed(run.seed)
    segmenter.embed(dataset.vocabulary)
    saved = last = time.monotonic()
    for item, sample in zip(items[state.done :], read_ahead(items[state.done :]), strict=True):
        if isinstance(sample, ImageError):
            if not run.skip_broken:
                raise sample
            column = np.full((len(methods), 1), np.nan, dtype=np.float32)
            state = replace(state, skipped=(*state.skipped, str(sample)))
        else:
            label_maps = predict(sample, segmenter, dataset, config=state.config)
            if predictions is not None:
                predictions.save(label_maps, item)
            classes = len(dataset.vocabulary.labels)
            counted = np.stack([confusion(sample.truth, one, classes=classes) for one in label_maps.values()])
            column = np.array([[scores(matrix).miou] for matrix in counted], dtype=np.float32)
            state = replace(state, matrices=state.matrices + counted, evaluated=state.evaluated + 1)
        now = time.monotonic()
        state = replace(
            state,
            done=state.done + 1,
            image_scores=np.concatenate([state.image_scores, column], axis=1),
            seconds=state.seconds + now - last,
        )
        last = now
        if run.output is not None and now - saved >= run.save_seconds:
            state.save(run.output)
            saved = time.monotonic()
        if on_image:
            on_image(state.done, state.total, dict(zip(methods, state.matrices, strict=True)))
    if run.output is not None:
        state.save(run.output)
    return state


def predict(
    sample: Sample, segmenter: Segmenter, dataset: Dataset, *, config: dict[str, Any]
) -> dict[str, npt.NDArray[np.integer]]:
    """Label maps of one image by every method of a configuration, in its order."""
    methods = [parse_method(spelling) for spelling in config["methods"]]
    if dataset.vocabulary.background is None:
        thresholds = None
    else:
        thresholds = {method: value or 0.0 for method, value in config["thresholds"].items()}
    encoded = segmenter.encode(sample.image, method=methods)
    found = segmenter.classify(encoded, dataset.vocabulary, method=methods, threshold=thresholds)
    return {method: found[method].label_map for method in config["methods"]}


def outcome(state: State, *, order: Sequence[str]) -> Evaluation:
    """What a complete state says, its methods in the given order; `ClearclipError` if no image could be used."""
    if not state.evaluated:
        raise ClearclipError(
            f"{state.config['benchmark']}: none of {state.total} images could be used: {state.skipped[0]}"
        )
    by_method = dict(zip(state.config["methods"], state.matrices, strict=True))
    image_scores = dict(zip(state.config["methods"], state.image_scores, strict=True))
    return Evaluation(
        config=state.config,
        facts=state.facts,
        shard=state.shard,
        classes=tuple(label[0] for label in state.config["labels"]),
        matrices={method: by_method[method] for method in order},
        images=state.evaluated,
        skipped=state.skipped,
        warnings=warnings_of(state),
        seconds=state.seconds,
        image_scores={method: image_scores[method] for method in order},
    )
