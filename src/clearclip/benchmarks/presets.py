"""Published protocols as rows of data (`presets.csv`): what a paper changed, by method and benchmark. No torch."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, replace

from clearclip.benchmarks.rows import Benchmark, get_benchmark, rows_of
from clearclip.checkpoints import CHECKPOINTS
from clearclip.errors import UsageError, nearest
from clearclip.methods import parse_method
from clearclip.protocol import Protocol

MARK = ":"
"""Between a benchmark and a preset in the name that results have."""
LARGE = "-l14"
"""Ends the name of a preset whose numbers are those for ViT-L/14."""


@dataclass(frozen=True)
class Preset:
    """One published row: a method with its words and numbers on one benchmark.

    Attributes:
        names: Whose class names, one of `NAMES`.
        protocol: With the background threshold, where there is one.
    """

    name: str
    benchmark: str
    method: str
    names: str
    protocol: Protocol

    def __str__(self) -> str:
        numbers = {"method": self.method, "names": self.names, **asdict(self.protocol)}
        return " ".join(
            f"{name}={f'{value:g}' if isinstance(value, float) else value}" for name, value in numbers.items()
        )

    def row(self) -> Benchmark:
        """The benchmark by this protocol, under a name of its own, so that no table mixes them."""
        own, limit = get_benchmark(self.benchmark), self.protocol.threshold
        return replace(
            own,
            name=f"{own.name}{MARK}{self.name}",
            title=f"{own.title}, by the preset {self.name}",
            protocol=self.protocol,
            thresholds={} if limit is None else {"*": limit},
        )


def get_preset(name: str, benchmark: str) -> Preset:
    """A preset on one of the paper's eight benchmarks.

    >>> get_preset("scclip", "voc21").protocol.threshold
    0.15

    `UsageError` for an unknown name, and with the reason for one that cannot be measured.
    """
    get_benchmark(benchmark)
    if name not in preset_names():
        raise UsageError(f"preset {name!r} is not known: {nearest(name, preset_names())}")
    found = _table().get((name, benchmark))
    if found is None:
        known = ", ".join(own for preset, own in _table() if preset == name)
        raise UsageError(f"preset {name} has no numbers for {benchmark}: it is for {known}")
    if isinstance(found, str):
        raise UsageError(f"preset {name} cannot be measured on {benchmark}: {found}")
    return found


def preset_for(name: str, model: str) -> str:
    """The preset's name for a model: `scclip-l14` for `scclip` where the model is known to be a ViT-L."""
    architectures = {key: row.architecture for row in CHECKPOINTS.values() for key in (row.name, row.source)}
    large = any(
        preset == name + LARGE and isinstance(found, Preset) for (preset, _), found in _table().items()
    ) and architectures.get(model, "").startswith("ViT-L")
    return name + LARGE if large else name


@functools.cache
def preset_names() -> tuple[str, ...]:
    """Of all presets, also those that are refused with their reason."""
    return tuple(dict.fromkeys(name for name, _ in _table()))


@functools.cache
def _table() -> dict[tuple[str, str], Preset | str]:
    """By preset and benchmark; a text is the reason why it cannot be measured."""
    return {
        (name, benchmark): row["refused"] or _preset(name, benchmark, row)
        for row in rows_of("presets.csv")
        for name in row["preset"].split()
        for benchmark in row["benchmarks"].split()
    }


def _preset(name: str, benchmark: str, row: dict[str, str]) -> Preset:
    protocol = Protocol(
        short_side=int(row["short_side"]),
        long_side=2048,
        crop_size=int(row["crop_size"]),
        stride=int(row["stride"]),
        remainder="drop",  # all of these papers
        logit_scale=float(row["logit_scale"]),
        threshold=float(row["threshold"]) if row["threshold"] else None,
        presence=row["presence"],
        area=float(row["area"]),
    )
    return Preset(name, benchmark, parse_method(row["method"]).spelling, row["names"], protocol)
