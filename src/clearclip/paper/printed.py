"""Numbers that the supplement prints beyond single cells, quoted: table 1, and table 2's means and gains.

The single cells are in `benchmarks.published`.
"""

from __future__ import annotations

from collections.abc import Sequence

from clearclip.benchmarks.published import published_number
from clearclip.paper.rows import with_clearclip

TABLE1: dict[float | str, float] = {
    0: 22.1, 5: 30.2, 10: 33.5, 30: 37.4, 50: 38.0, 70: 38.1, 100: 38.1, "normalized": 38.1,
}  # fmt: skip
"""Mean mIoU of CLIP ViT-B/16 over eight benchmarks by β in percent (ClearCLIP supplement, table 1)."""

TABLE1_MODEL = "clip-b16"

MISPRINTED_MEANS = {("clip-b16", "maskclip+clearclip"): 29.5, ("clip-b16", "sclip+clearclip"): 37.9}
"""Means of table 2 that do not follow from their own five cells, as printed."""

MISPRINTED_GAINS = {
    ("clip-b16", "maskclip+clearclip"): 1.8,
    ("clip-b16", "sclip+clearclip"): 1.6,
    ("clip-l14", "maskclip+clearclip"): 11.1,
    ("clip-l14", "sclip+clearclip"): 15.4,
}
"""Gains of table 2 that do not follow from their own cells, as printed; those of ViT-L/14 are swapped."""


def published_mean(benchmarks: Sequence[str], *, model: str, method: str) -> float | None:
    """The mean in percent that the paper's own cells give, or `None` where it lacks one."""
    return whole_mean(published_cells(benchmarks, model=model, method=method))


def published_cells(benchmarks: Sequence[str], *, model: str, method: str) -> list[float | None]:
    """The paper's numbers of a row."""
    found = [published_number(name, model=model, method=method) for name in benchmarks]
    return [cell.miou if cell else None for cell in found]


def whole_mean(cells: Sequence[float | None]) -> float | None:
    """Only of a whole row: a mean over other benchmarks than its neighbour's would mislead."""
    known = [cell for cell in cells if cell is not None]
    return sum(known) / len(known) if known and len(known) == len(cells) else None


def published_gain(benchmarks: Sequence[str], *, model: str, base: str) -> float | None:
    """What ClearCLIP adds to a method, by the paper's own cells; arguments as `published_mean`."""
    before = published_mean(benchmarks, model=model, method=base)
    after = published_mean(benchmarks, model=model, method=with_clearclip(base))
    return None if before is None or after is None else after - before


def misprints(benchmarks: Sequence[str]) -> list[str]:
    """Sentences about means and gains of table 2 that do not follow from the paper's own cells."""
    found = []
    for (model, method), printed in MISPRINTED_MEANS.items():
        mean = published_mean(benchmarks, model=model, method=method)
        found.append(f"{model}, {method}: the paper prints the mean {printed:.1f}, its own cells give {mean:.1f}")
    for (model, method), printed in MISPRINTED_GAINS.items():
        gain = published_gain(benchmarks, model=model, base=method.removesuffix("+clearclip"))
        found.append(f"{model}, {method}: the paper prints the gain +{printed:.1f}, its own cells give {gain:+.1f}")
    return found
