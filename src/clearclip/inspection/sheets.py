"""Figures 3 and 4 and `clearclip compare`: methods side by side, truth where there is any, one shared legend."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clearclip.benchmarks import BENCHMARKS, confusion, scores
from clearclip.benchmarks.rows import vocabulary_of
from clearclip.files.drawing import draw_overlay
from clearclip.inspection.style import look, write
from clearclip.vocabulary import Vocabulary, distinct_colors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_SHARE = 0.005
"""A label is in the legend where it covers at least this share of some picture of the sheet."""

OPACITY = 0.85
SHEET_INCHES = 7.2
"""As wide as a printed page's text; sheets of many methods are wider, for a picture has at least `LEAST_INCHES`."""
LEAST_INCHES = 0.95
MOST_INCHES = 2.4
BACKGROUND = "background"
TITLES = {"vanilla": "CLIP", "maskclip": "MaskCLIP", "sclip": "SCLIP", "gem": "GEM", "clearclip": "ClearCLIP"}

LabelMap = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class SheetRow:
    """One image of a sheet.

    Attributes:
        image: `(H, W, 3)` uint8.
        label_maps: By method, `(H, W)` indices into the vocabulary.
        truth: `(H, W)`, 255 = ignored; `None` where there is none.
    """

    name: str
    image: npt.NDArray[np.uint8]
    label_maps: Mapping[str, LabelMap]
    truth: npt.NDArray[np.uint8] | None = None

    def miou(self, method: str, *, classes: int) -> float | None:
        """This image's own mIoU in percent, over the classes that occur; `None` without truth."""
        if self.truth is None:
            return None
        return 100 * scores(confusion(self.truth, self.label_maps[method], classes=classes)).miou


def same_colors(vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary with the colours that benchmarks' labels have on every sheet; other labels keep theirs."""
    known = known_colors()
    labels = tuple(replace(label, color=known.get(label.name, label.color)) for label in vocabulary.labels)
    return replace(vocabulary, labels=labels)


@functools.cache
def known_colors() -> dict[str, tuple[int, int, int]]:
    """Colours of all benchmarks' labels by name: those of `scenes` as it has them, the others in `BENCHMARKS`' order.

    The data sets' own palettes are not used: they give one thing different colours.
    """
    own = vocabulary_of("scenes")
    colors = {BACKGROUND: (0, 0, 0)} | {name: _rgb(rgb) for name, rgb in zip(own.names, own.palette, strict=True)}
    others = dict.fromkeys(name for benchmark in BENCHMARKS for name in vocabulary_of(benchmark).names)
    new = [name for name in others if name not in colors]
    drawn = distinct_colors(len(own.names) + len(new))[len(own.names) :]
    return colors | {name: _rgb(rgb) for name, rgb in zip(new, drawn, strict=True)}


def _rgb(color: npt.NDArray[np.integer[Any]]) -> tuple[int, int, int]:
    red, green, blue = color.tolist()
    return red, green, blue


def draw_sheet(rows: Sequence[SheetRow], vocabulary: Vocabulary, *, titles: Mapping[str, str] | None = None) -> Figure:
    """A row for each image: the image, its truth, and each method's labels over it; below them the shared legend.

    rows all have the same methods; titles are headings by method, by default usual names, else spellings. Under a
    picture stands its own mIoU where there is truth.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    headings = {**TITLES, **(titles or {})}
    methods = list(rows[0].label_maps)
    has_truth = any(row.truth is not None for row in rows)
    across = 1 + has_truth + len(methods)
    inches = min(MOST_INCHES, max(LEAST_INCHES, SHEET_INCHES / across))
    heights = [row.image.shape[0] / row.image.shape[1] * inches for row in rows]
    shown = _shown(rows, len(vocabulary.names))
    with look():
        longest = max((len(vocabulary.names[index]) for index in shown), default=1)
        columns = max(2, int(across * inches / (0.075 * longest + 0.35)))
        legend_inches = 0.15 * -(-len(shown) // columns) + 0.1
        figure = Figure(
            figsize=(across * inches + 0.15, sum(heights) + 0.16 * len(rows) + 0.3 + legend_inches),
            layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.02, wspace=0.01, hspace=0.01),
        )
        panels = figure.subplots(len(rows), across, squeeze=False, height_ratios=heights)
        for axes, row in zip(panels, rows, strict=True):
            for panel in axes:
                panel.set_xticks([])
                panel.set_yticks([])
                panel.grid(visible=False)
                panel.spines[:].set_visible(False)
            axes[0].imshow(row.image)
            write(axes[0].set_ylabel("", fontsize=7), row.name)
            if row.truth is not None:
                axes[1].imshow(draw_overlay(row.image, row.truth, vocabulary.palette, opacity=OPACITY))
            for panel, method in zip(axes[1 + has_truth :], methods, strict=True):
                panel.imshow(draw_overlay(row.image, row.label_maps[method], vocabulary.palette, opacity=OPACITY))
                miou = row.miou(method, classes=len(vocabulary.names))
                if miou is not None:
                    panel.set_xlabel(f"{miou:.1f}", labelpad=1.5, fontsize=7)
        names = ["image", *(["truth"] if has_truth else []), *(_title(method, headings) for method in methods)]
        for panel, name in zip(panels[0], names, strict=True):
            longest = max(len(line) for line in name.split("\n"))
            panel.set_title(name, fontsize=min(8, 120 * inches / longest), pad=3)
        _legend(figure, vocabulary, shown, columns=columns)
    return figure


def _title(method: str, headings: Mapping[str, str]) -> str:
    base, plus, _ = method.partition("+clearclip")
    if plus and method == f"{base}+clearclip" and base in headings:
        return f"{headings[base]}\n+ ClearCLIP"
    return headings.get(method, method.replace("[", "\n[").replace(",", ",\n"))


def _shown(rows: Sequence[SheetRow], count: int) -> list[int]:
    """Labels of the legend, in the vocabulary's order."""
    seen: set[int] = set()
    for row in rows:
        for label_map in (*row.label_maps.values(), *([row.truth] if row.truth is not None else [])):
            shares = np.bincount(label_map[label_map < count].ravel(), minlength=count) / label_map.size
            seen.update(np.flatnonzero(shares >= SHOWN_SHARE).tolist())
    return sorted(seen)


def _legend(figure: Figure, vocabulary: Vocabulary, shown: Sequence[int], *, columns: int) -> None:
    from matplotlib.patches import Patch

    palette = vocabulary.palette / 255
    patches = [Patch(facecolor=tuple(palette[index]), edgecolor="#333333", linewidth=0.5) for index in shown]
    legend = figure.legend(
        patches,
        [str(index) for index in shown],
        loc="outside lower center",
        ncols=min(columns, max(1, len(shown))),
        fontsize=7,
        handlelength=1.1,
        handleheight=1.1,
        columnspacing=1.2,
    )
    for text, index in zip(legend.get_texts(), shown, strict=True):
        write(text, vocabulary.names[index])
