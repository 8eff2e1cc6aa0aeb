"""Whether a data set on disk is complete and readable, before a long run depends on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clearclip.benchmarks.decoding import IGNORE
from clearclip.benchmarks.readers import OWN, Dataset, Item, Pair, Sample, read_ahead
from clearclip.errors import ClearclipError, ImageError
from clearclip.files.progress import track

SHOWN = 10
NEARLY_ALL = 0.99
"""Share of the truth that one label hardly has."""
MUCH_BETTER = 0.1
"""Mean accuracy by which another reading of the truth must be better to be told."""


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        pairs: How many are complete.
        official: Size of the official split, or `None`.
        forms: How many label maps there are of each form.
        missing: One sentence for each file without its counterpart.
        broken: One sentence for each pair that cannot be used.
        truth: What the truth of a data set of one's own cannot mean.
    """

    benchmark: str
    source: str
    pairs: int
    official: int | None
    forms: dict[str, int]
    missing: tuple[str, ...]
    broken: tuple[str, ...]
    truth: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether nothing is missing or broken; another count than the official one is only a warning."""
        return not self.missing and not self.broken

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a result should say beside its numbers."""
        return (*count_warnings(self.benchmark, self.pairs, official=self.official), *self.truth)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return {
            "benchmark": self.benchmark,
            "data": self.source,
            "pairs": self.pairs,
            "official": self.official,
            "forms": self.forms,
            "missing": list(self.missing),
            "broken": list(self.broken),
            "warnings": list(self.warnings),
            "usable": self.usable,
        }


def count_warnings(benchmark: str, pairs: int, *, official: int | None) -> tuple[str, ...]:
    """A warning where the number of images is not the official split's."""
    if official is None or pairs == official:
        return ()
    return (f"{benchmark}: images: {pairs:,}, official split: {official:,}; not comparable with published numbers",)


def truth_warnings(names: Sequence[str], counts: npt.NDArray[np.int64]) -> list[str]:
    """What the number of true pixels of each label cannot mean: none, or nearly all."""
    total = int(counts.sum())
    if not total:
        return ["the truth holds no label at all: every pixel is ignored"]
    absent = [f"{index} {names[index]}" for index in np.flatnonzero(counts == 0).tolist()]
    most = int(counts.argmax())
    said = []
    if absent:
        more = f" and {len(absent) - SHOWN} more" if absent[SHOWN:] else ""
        said.append(f"the truth never holds {', '.join(absent[:SHOWN])}{more}")
    if counts[most] >= NEARLY_ALL * total and len(counts) > 1:
        said.append(f"{most} {names[most]} is {counts[most] / total:.1%} of the truth")
    if not said:
        return []
    hint = "for masks of 0 and 255, --values 0,255" if len(names) == 2 else "where 0 means unlabelled, --ignored 0"
    return [f"{' and '.join(said)}: the first values are taken for labels, and 255 is ignored ({hint})"]


def shifted_warnings(matrix: npt.NDArray[np.int64]) -> list[str]:
    """Whether predictions fit the truth much better if its 0 means unlabelled and labels begin at 1.

    The truth must hold two labels beyond 0: where it holds one, much of it is often taken for label 0.
    """
    present = np.flatnonzero(matrix.sum(axis=1))
    later = present[present > 0]
    if len(later) < 2:
        return []
    accuracy = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    now, shifted = accuracy[present, present].mean(), accuracy[later, later - 1].mean()
    if shifted < now + MUCH_BETTER:
        return []
    return [
        f"mAcc would be {shifted:.1%} instead of {now:.1%} if 0 meant unlabelled and 1 the first label (--ignored 0)"
    ]


def check_dataset(dataset: Dataset, *, show_progress: bool | None = None) -> Report:
    """Read every image and every label map once.

    Whole files are decoded, not headers alone: only that finds a truncated photograph or a label out of range, and it
    costs seconds where a run takes an hour. `show_progress=None` shows a bar where standard error is a terminal.
    """
    broken, counts = [], np.zeros(len(dataset.vocabulary.labels), dtype=np.int64)
    for outcome in _read(dataset.items, show_progress):
        if isinstance(outcome, ImageError):
            broken.append(str(outcome))
        else:
            counts += np.bincount(outcome.truth[outcome.truth != IGNORE], minlength=len(counts))
    is_own = OWN in dataset.benchmark.name and len(broken) < len(dataset.items)
    return Report(
        benchmark=dataset.benchmark.name,
        source=dataset.source,
        pairs=len(dataset.items),
        official=dataset.benchmark.size,
        forms=dict(Counter(item.form.about for item in dataset.items if isinstance(item, Pair))),
        missing=dataset.missing,
        broken=tuple(broken),
        truth=tuple(truth_warnings(dataset.vocabulary.names, counts)) if is_own else (),
    )


def broken_items(items: Sequence[Item], *, show_progress: bool | None = None) -> list[str]:
    """One sentence for each item that cannot be read, naming its file; scenes are made, so there is nothing to read."""
    return [str(outcome) for outcome in _read(items, show_progress) if isinstance(outcome, ImageError)]


def _read(items: Sequence[Item], show_progress: bool | None) -> Iterator[Sample | ImageError]:
    files = [item for item in items if isinstance(item, Pair)]
    outcomes = zip(track(files, "Checking files", show=show_progress), read_ahead(files, workers=4), strict=True)
    yield from (outcome for _, outcome in outcomes)


def refuse(benchmark: str, *, missing: Sequence[str], broken: Sequence[str]) -> None:
    """Stop a run whose data is not whole: `ClearclipError` that names the first problems."""
    problems = [*missing, *broken]
    if not problems:
        return
    shown = "\n".join(f"  {problem}" for problem in problems[:SHOWN])
    more = f"\n  … and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
    raise ClearclipError(
        f"{benchmark}: {len(problems):,} of its files cannot be used (--skip-broken leaves them out and lists them):\n"
        f"{shown}{more}"
    )
