"""How every picture of the package looks, and how it is saved. Matplotlib is imported when a picture is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearclip.files.lettering import SHIPPED, drawn, font_of
from clearclip.files.optional import require
from clearclip.files.writing import atomic_write

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito's colour-blind-safe palette (https://jfly.uni-koeln.de/color/); yellow last, it is faint on white."""

RESIDUAL, ATTENTION, SUM = OKABE_ITO[1], OKABE_ITO[0], OKABE_ITO[6]
"""Colours of X_res, X_attn and X_sum in every figure."""

_LOOK: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "svg.hashsalt": "clearclip",
    "figure.dpi": 100,
    "savefig.dpi": 300,
}


@contextmanager
def look() -> Iterator[None]:
    """Within the block, figures are made and saved in the package's look; the caller's settings stay as they are."""
    with require_matplotlib().rc_context(_LOOK):
        yield


def require_matplotlib() -> Any:
    """matplotlib; `UsageError` where it is not installed, which is asked before the work that a figure shows."""
    return require("matplotlib", extra="paper", purpose="a figure")


def write(text: Text, words: str) -> None:
    """Give a text of a figure a user's words: never a formula, in fonts that have the letters."""
    from matplotlib.font_manager import FontProperties, fontManager

    families = ["DejaVu Sans"]
    for path in dict.fromkeys(map(font_of, drawn(words))):
        if path not in (None, SHIPPED):
            fontManager.addfont(path)
            families.append(FontProperties(fname=path).get_name())
    text.set(text=drawn(words), parse_math=False, fontfamily=families)


def legend_above(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], *, columns: int = 4) -> None:
    """A legend in a row of its own above the axes, where it covers nothing; the figure has the constrained layout."""
    figure.legend(list(handles), list(labels), loc="outside upper center", ncols=min(columns, max(1, len(labels))))


def plain_log(axes: Axes) -> None:
    """A logarithmic vertical axis whose ticks are plain numbers, also where it spans less than a decade."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    span = high / low
    steps = (1,) if span > 200 else (1, 2, 5) if span > 12 else (1, 2, 3, 5) if span > 3 else range(1, 10)
    axes.yaxis.set_major_locator(LogLocator(subs=[float(step) for step in steps]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as `.svg`, `.pdf` or `.png` by the suffix, without a date in the file, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dates: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with look(), atomic_write(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], metadata=dates.get(path.suffix))
    return path
