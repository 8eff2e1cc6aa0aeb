"""Values of any type → levels from 0 (black) to 255 (white): one rule for all that reads images."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clearclip.errors import ImageError, UsageError

ENDS = (1, 255, 1023, 4095, 16383, 65535)
"""Usual values of white: of fractions, and of 8 to 16 bits."""
OVERSHOOT = 0.1
"""How far values may lie outside such a range, as a share of it, and still be of it."""
FILLED = 0.4
"""Share of a usual range that the middle values must span; less would be nearly black, or nearly grey."""
PERCENTILES = (2.0, 98.0)
FILL = 0.001
"""Share of the values that one must have to be taken for a fill value."""
SAMPLE = 1 << 22


class Range(NamedTuple):
    """The values that become black and white, and how these were guessed: empty where nothing was."""

    low: float
    high: float
    guess: str = ""


def parse_range(text: str | None) -> tuple[float, float] | None:
    """Read `LOW:HIGH`, as in `0:4095`; `None` stays, `UsageError` for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"([^:,]+):([^:,]+)", text.strip())
    try:
        if match is None:
            raise ValueError
        return check_range((float(match[1]), float(match[2])))
    except ValueError:
        raise UsageError(f"--range {text}: write two numbers as LOW:HIGH, for instance 0:4095") from None


def check_range(value_range: tuple[float, float]) -> tuple[float, float]:
    """The range itself; `UsageError` if it is none."""
    low, high = value_range
    if not (low < high and np.isfinite(high - low)):
        raise UsageError(f"the range {low:g} to {high:g}: two numbers are needed, the smaller first")
    return low, high


def find_range(values: npt.NDArray[Any], *, bits: int | None = None) -> Range:
    """The range of an image's finite values, of which `bits` are used where the file says so.

    8 bits, declared bits, all 16 bits and fractions from 0 to 1 are no guess. Else the range is the smallest of `ENDS`
    that the values fill, and where they fill none, it is their 2nd to 98th percentile.
    """
    kind = values.dtype
    if kind == np.bool_:
        return Range(0, 1)
    if kind.kind in "ui" and bits is not None and bits < 8 * kind.itemsize:
        return Range(0, 2**bits - 1)
    if kind == np.uint8:
        return Range(0, 255)
    if not values.size:
        return Range(0, 1)
    sample = values.ravel()
    if sample.size > SAMPLE:
        sample = sample[np.linspace(0, sample.size - 1, SAMPLE, dtype=np.int64)]
    values, told = _without_fill(sample), f"{kind} values"
    if values.size < sample.size:
        told += " (but for one far from all others that many pixels share: if it is fill, declare it as nodata)"
    lowest, highest = float(values.min()), float(values.max())
    low, high = (float(level) for level in np.percentile(values.astype(np.float64), PERCENTILES))
    if not np.isfinite(high - low):
        raise ImageError(f"values from {lowest:g} to {highest:g}: say which are wanted with --range (value_range=)")
    ends = ENDS if kind.kind == "f" else ENDS[1:]
    end = next((end for end in ends if -OVERSHOOT * end <= lowest and highest <= (1 + OVERSHOOT) * end), None)
    if end is not None and (high - low >= FILLED * end or lowest == highest):
        whole = 1 if kind.kind == "f" else np.iinfo(kind).max
        sure = end == whole and lowest >= 0 and highest <= end and values.size == sample.size
        return Range(0, end, "" if sure else _guess(told, f"0 to {end}"))
    if not low < high:
        low, high = (lowest, highest) if lowest < highest else (low, low + max(1.0, abs(low)))
    return Range(low, high, _guess(told, "their 2nd to 98th percentile"))


def _guess(told: str, taken: str) -> str:
    return f"{told}: {taken} was taken for black to white, a guess; --range LOW:HIGH (value_range=) says it"


def _without_fill(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values without what looks like fill: an end that many share, further from all others than they span."""
    for end in (values.min(), values.max()):
        rest = values[values != end]
        if not 0 < rest.size <= (1 - FILL) * values.size:
            continue
        lowest, highest = float(rest.min()), float(rest.max())
        if lowest < highest and min(abs(lowest - float(end)), abs(float(end) - highest)) > highest - lowest:
            values = rest
    return values


def to_levels(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """The values from low to high as levels from 0 to 255; what lies outside is cut, and what is no number black."""
    if values.dtype in (np.uint8, np.uint16) and values.size > np.iinfo(values.dtype).max:
        return to_levels(np.arange(np.iinfo(values.dtype).max + 1, dtype=np.float64), low, high).take(values)
    kind = np.float32 if values.dtype == np.float32 else np.float64
    with np.errstate(over="ignore", invalid="ignore"):  # values far outside the range
        scaled = (values.astype(kind) - kind(low)) * kind(255 / (high - low))
    return np.asarray(np.rint(np.nan_to_num(scaled, nan=0.0).clip(0, 255)), dtype=np.uint8)
