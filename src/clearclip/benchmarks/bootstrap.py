"""Whether two methods differ: mIoU of resampled images, the same ones for both (a paired bootstrap)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clearclip.benchmarks.configuration import Configuration
from clearclip.benchmarks.metrics import scores
from clearclip.benchmarks.results import Record
from clearclip.benchmarks.state import State, from_json, load_state, state_path
from clearclip.errors import ClearclipError, UsageError
from clearclip.files.shards import WHOLE
from clearclip.methods import parse_method

RESAMPLES = 2000
SEED = 0
QUANTILES = (0.025, 0.975)
MAX_CELLS = 1 << 24
"""Images times classes: 32 bytes each, as counts of both methods."""
CHUNK = 1 << 22
"""Images times resamples that are added up at once."""
FEW = 30
"""Images below which resampling them says too little of how other images might be."""
OWN = ("method", "threshold")
"""What may differ between the two: a threshold is chosen for a method."""


@dataclass(frozen=True)
class Difference:
    """First minus second in percent of mIoU, with the limits of its 95 % interval over images.

    miou and thresholds are those of the two; images are those with pixels that count.
    """

    benchmark: str
    model: str
    methods: tuple[str, str]
    thresholds: tuple[float | None, float | None]
    miou: tuple[float, float]
    difference: float
    low: float
    high: float
    images: int
    resamples: int = RESAMPLES
    seed: int = SEED

    @property
    def includes_0(self) -> bool:
        """Whether other images of the same kind could as well have shown no difference, or the opposite."""
        return self.low <= 0 <= self.high

    def as_dict(self) -> dict[str, Any]:
        """The difference as JSON-able data."""
        return asdict(self) | {"includes_0": self.includes_0}


def difference(found: Sequence[Record], names: tuple[str, str], *, folders: Iterable[Path]) -> Difference:
    """Compare two of these records by the states that lie in output folders.

    A name is a method or a run. `UsageError` if it is none, or several, or the two differ in more than the method.
    """
    places = list(dict.fromkeys(folders))
    first, second = (_state(_choose(found, name), places) for name in names)
    return _compare(first, second)


def _choose(found: Sequence[Record], name: str) -> Record:
    """The record of a name; the last where one configuration was recorded again."""
    chosen = [record for record in found if name in (record.get("run"), record["method"], record.get("name"))]
    if not chosen:
        try:
            spelling = parse_method(name).spelling
        except UsageError:
            spelling = name
        chosen = [record for record in found if record["method"] == spelling]
    if not chosen:
        raise UsageError(f"no result is of method or run {name!r}: there are {_listed(found)}")
    if any(record.get("config") != chosen[0].get("config") for record in chosen):
        raise UsageError(f"{name!r} is several results: name a run, or choose with --benchmarks: {_listed(chosen)}")
    return chosen[-1]


def _listed(found: Sequence[Record], *, most: int = 20) -> str:
    texts = dict.fromkeys(
        f"{record['method']} on {record['benchmark']} with {record['model']} (run {record.get('run')})"
        for record in found
    )
    return "; ".join([*texts][:most]) + (f"; and {len(texts) - most} more" if len(texts) > most else "")


def _state(record: Record, folders: Sequence[Path]) -> State:
    """The state that a record was read from."""
    name = f"{record['method']} on {record['benchmark']} (run {record.get('run')})"
    try:
        config: Configuration = from_json(Configuration, record.get("config"))
    except (ValueError, TypeError) as error:
        raise UsageError(f"the result of {name} is of an earlier version ({error}): measure it again") from error
    for path in (state_path(folder, config, shard=WHOLE) for folder in folders):
        if not os.path.lexists(path):
            continue
        state = load_state(path)
        if state.config != config or not state.complete:
            raise UsageError(f"{path} is not the finished state of {name}: run the same clearclip evaluate again")
        if record["miou"] not in (None, round(100 * scores(state.matrix).miou, 4)):
            raise UsageError(f"{name} was measured again since, with another mIoU: name the later run")
        return state
    raise UsageError(
        f"{name} has no state in {' or '.join(str(folder / 'state') for folder in folders)}, where the counts of each "
        "image are: name the output folder of its run, or measure it again"
    )


def _compare(first: State, second: State) -> Difference:
    if first.config == second.config:
        raise UsageError(f"both are {first.config.method} of one configuration: name two methods or runs")
    _refuse_others(first, second)
    cells = first.done * len(first.config.labels)
    if cells > MAX_CELLS:
        raise ClearclipError(
            f"{first.done:,} images of {len(first.config.labels)} classes are too many to resample: at most "
            f"{MAX_CELLS:,} images times classes are allowed (evaluate --limit measures fewer)"
        )
    used = np.unique(first.counts[:, 0])
    if len(used) < 2:
        raise ClearclipError(f"{len(used)} image has pixels that count: an interval over images needs at least 2")
    counts = np.zeros((len(used), 2, 2, len(first.config.labels)))
    for method, state in enumerate((first, second)):
        image, label, right, true, predicted = state.counts.astype(np.int64).T
        place = np.searchsorted(used, image)
        counts[place, method, 0, label], counts[place, method, 1, label] = right, true + predicted - right
    low, high = interval(counts)
    miou = tuple(100 * scores(state.matrix).miou for state in (first, second))
    return Difference(
        benchmark=first.config.benchmark,
        model=first.config.model,
        methods=(first.config.method, second.config.method),
        thresholds=(first.config.threshold, second.config.threshold),
        miou=(miou[0], miou[1]),
        difference=miou[0] - miou[1],
        low=low,
        high=high,
        images=len(used),
    )


def _refuse_others(first: State, second: State) -> None:
    """`UsageError` that names in what else than the method two states differ."""
    ours, theirs = asdict(first.config), asdict(second.config)
    parts = []
    for key in (key for key in ours if key not in OWN and ours[key] != theirs[key]):
        if isinstance(ours[key], dict):
            inner = {**ours[key], **theirs[key]}
            parts += [
                f"{key} {name} ({ours[key].get(name)} and {theirs[key].get(name)})"
                for name in inner
                if ours[key].get(name) != theirs[key].get(name)
            ]
        else:
            parts.append(key if key == "labels" else f"{key} ({ours[key]} and {theirs[key]})")
    our_truth, their_truth = (state.counts[state.counts[:, 3] > 0][:, [0, 1, 3]] for state in (first, second))
    if not parts and not np.array_equal(our_truth, their_truth):
        parts = ["images, or their truth"]
    if parts:
        raise UsageError(
            f"{first.config.method} and {second.config.method} cannot be compared, as they differ in more than the "
            f"method: {', '.join(parts)}; measure both in one clearclip evaluate --method A,B"
        )


def interval(counts: npt.NDArray[np.float64], *, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float]:
    """Limits of the difference of mIoU in percent, from counts `(N, 2, 2, C)`: image, method, intersection or union.

    Every resample draws N images with replacement and adds up their counts, as a split's mIoU does. No image may be
    without pixels.
    """
    count, columns = len(counts), counts.reshape(len(counts), -1)
    random = np.random.default_rng(seed)
    found = []
    for start in range(0, resamples, step := max(1, CHUNK // count)):
        drawn = [
            np.bincount(random.integers(count, size=count), minlength=count)
            for _ in range(min(step, resamples - start))
        ]
        sums = np.stack(drawn).astype(np.float64) @ columns  # exact: whole numbers below 2^53
        right, union = sums.reshape(len(drawn), *counts.shape[1:]).transpose(2, 0, 1, 3)
        iou = np.divide(right, union, out=np.zeros_like(right), where=union > 0)
        miou = iou.sum(axis=2) / (union > 0).sum(axis=2)
        found.append(100 * (miou[:, 0] - miou[:, 1]))
    low, high = np.quantile(np.concatenate(found), QUANTILES)
    return float(low), float(high)
