"""Feature maps of the last block, its channels' means, and the statistics of every block, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clearclip.inspection.features import PARTS, Inspection
from clearclip.inspection.style import ATTENTION, RESIDUAL, SUM, legend_above, look, plain_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRST_CHANNELS = 64
COLORS = {"X_res": RESIDUAL, "X_attn": ATTENTION, "X_sum": SUM}
DASHES: dict[str, Any] = {"X_res": "-", "X_attn": "--", "X_sum": ":"}
NAMES = {"X_res": "$X_{res}$", "X_attn": "$X_{attn}$", "X_sum": "$X_{sum}$"}


def draw_feature_maps(inspection: Inspection) -> Figure:
    """The last block's X_res, X_attn and X_sum: magnitudes by channel and patch, and the peak channel as a map.

    Three rows (parts) by three columns (first 64 channels, all channels, peak channel). Each row has its own colour
    scale, from zero to the 99.9th percentile of its magnitudes; the triangle marks the peak channel.
    """
    from matplotlib.figure import Figure

    with look():
        figure = Figure(figsize=(7.6, 6.2), layout="constrained")
        grid = figure.subplots(3, 3, width_ratios=(1.0, 1.55, 1.0))
        for axes, part in zip(grid, PARTS.values(), strict=True):
            maps = np.abs(inspection.maps[part])
            flat = maps.reshape(-1, maps.shape[-1])
            peak = inspection.last[part]
            top = float(np.quantile(flat, 0.999))
            options: dict[str, Any] = {"cmap": "cividis", "vmin": 0, "vmax": top, "aspect": "auto"}
            first = min(FIRST_CHANNELS, flat.shape[1])
            axes[0].imshow(flat[:, :first], interpolation="nearest", **options)
            shown = axes[1].imshow(flat, interpolation="antialiased", interpolation_stage="data", **options)
            axes[2].imshow(maps[..., peak.peak_channel], cmap="cividis", vmin=0, interpolation="nearest")
            _mark(axes[0], peak.peak_channel, first)
            _mark(axes[1], peak.peak_channel, flat.shape[1])
            figure.colorbar(shown, ax=axes[1], label="magnitude", pad=0.02, extend="max", fraction=0.06)
            axes[0].set_ylabel(f"{NAMES[part]}\npatch")
            axes[1].set_title(
                f"all {flat.shape[1]} channels; peak {peak.peak_to_mean:.1f} × the mean", fontsize=8, pad=11
            )
            axes[0].set_title(f"first {first} channels", fontsize=8, pad=11)
            axes[2].set_title(f"channel {peak.peak_channel} over the image", fontsize=8, pad=11)
            for panel in axes:
                panel.grid(visible=False)
            axes[2].set_axis_off()
        grid[2][0].set_xlabel("channel")
        grid[2][1].set_xlabel("channel")
    return figure


def _mark(axes: Axes, channel: int, count: int) -> None:
    """A triangle above the axes at a channel, where it is among those shown."""
    if channel < count:
        axes.plot(
            channel,
            1.025,
            marker="v",
            markersize=7,
            color=RESIDUAL,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )


def draw_channel_means(inspection: Inspection) -> Figure:
    """Mean magnitude of every channel of the last block's parts, on a logarithmic scale."""
    from matplotlib.figure import Figure

    block = inspection.statistics[-1].block
    with look():
        figure = Figure(figsize=(7.2, 2.9), layout="constrained")
        axes = figure.subplots()
        for part in PARTS.values():
            magnitudes = inspection.channel_means[block, part][1]
            axes.plot(magnitudes, color=COLORS[part], linestyle="none", marker=".", markersize=3.5)
            peak = int(magnitudes.argmax())
            axes.plot(peak, magnitudes[peak], marker="v", markersize=8, color=COLORS[part], markeredgecolor="white")
        plain_log(axes)
        axes.set_xlim(-2, len(magnitudes) + 1)
        axes.set_xlabel("channel")
        axes.set_ylabel("mean magnitude")
        _part_legend(figure, points=True)
    return figure


def _part_legend(figure: Figure, *, points: bool = False) -> None:
    """The parts' colours; for `points` without lines, and with what the triangle means."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLORS[part], linestyle="none" if points else DASHES[part], marker="o", markersize=3.5)
        for part in PARTS.values()
    ]
    names = [NAMES[part] for part in PARTS.values()]
    if points:
        handles.append(Line2D([], [], color="#777777", linestyle="none", marker="v", markersize=8))
        names.append("peak channel, in its part's colour")
    legend_above(figure, handles, names)


PANELS = (
    ("norm", "mean norm of a patch"),
    ("peak_to_mean", "peak-to-mean ratio"),
    ("entropy", "normalised entropy"),
    ("cosine", "cosine between patches"),
    ("cosine_with_residual", "cosine with $X_{res}$"),
    ("cosine_with_attention", "cosine with $X_{attn}$"),
)


def draw_statistics(inspections: Sequence[Inspection]) -> Figure:
    """Norm, peak-to-mean ratio, entropy and cosines by block: one line per part, averaged over images."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = [row for inspection in inspections for row in inspection.statistics]
    blocks = sorted({row.block for row in rows})
    with look():
        figure = Figure(figsize=(8.4, 4.9), layout="constrained")
        for axes, (name, title) in zip(figure.subplots(2, 3).ravel(), PANELS, strict=True):
            for part in PARTS.values():
                if name == f"cosine_with_{'residual' if part == 'X_res' else 'attention' if part == 'X_attn' else ''}":
                    continue
                means = [
                    np.mean([getattr(row, name) for row in rows if row.block == block and row.part == part])
                    for block in blocks
                ]
                axes.plot(blocks, means, color=COLORS[part], linestyle=DASHES[part], marker="o", markersize=3.5)
            axes.set_title(title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if name in ("norm", "peak_to_mean"):
                plain_log(axes)
        for axes in figure.axes[3:]:
            axes.set_xlabel("block")
        _part_legend(figure)
    return figure
