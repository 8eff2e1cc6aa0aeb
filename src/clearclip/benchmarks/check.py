"""Whether a data set on disk is complete and readable, before a long run depends on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clearclip.benchmarks.readers import Dataset, Item, Pair, read_ahead
from clearclip.errors import ClearclipError, ImageError
from clearclip.files.progress import track

SHOWN = 10


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        pairs: How many are complete.
        official: Size of the official split, or `None`.
        forms: How many label maps there are of each form.
        missing: One sentence for each file without its counterpart.
        broken: One sentence for each pair that cannot be used.
    """

    benchmark: str
    source: str
    pairs: int
    official: int | None
    forms: dict[str, int]
    missing: tuple[str, ...]
    broken: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether nothing is missing or broken; another count than the official one is only a warning."""
        return not self.missing and not self.broken

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a result should say beside its numbers."""
        return count_warnings(self.benchmark, self.pairs, official=self.official)

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


def check_dataset(dataset: Dataset, *, show_progress: bool | None = None) -> Report:
    """Read every image and every label map once.

    Whole files are decoded, not headers alone: only that finds a truncated photograph or a label out of range, and it
    costs seconds where a run takes an hour. `show_progress=None` shows a bar where standard error is a terminal.
    """
    return Report(
        benchmark=dataset.benchmark.name,
        source=dataset.source,
        pairs=len(dataset.items),
        official=dataset.benchmark.size,
        forms=dict(Counter(item.form.about for item in dataset.items if isinstance(item, Pair))),
        missing=dataset.missing,
        broken=tuple(broken_items(dataset.items, show_progress=show_progress)),
    )


def broken_items(items: Sequence[Item], *, show_progress: bool | None = None) -> list[str]:
    """One sentence for each item that cannot be read, naming its file; scenes are made, so there is nothing to read."""
    files = [item for item in items if isinstance(item, Pair)]
    outcomes = zip(track(files, "Checking files", show=show_progress), read_ahead(files, workers=4), strict=True)
    return [str(outcome) for _, outcome in outcomes if isinstance(outcome, ImageError)]


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
