"""ResCLIP's second pass: which patches have one label, by a first look, is added to the attention's logits.

From the mathematics of ResCLIP's semantic feedback (Yang et al., CVPR 2025).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip.classify.refine import PamrGrid
from clearclip.encode.windows import Axis, Plan

if TYPE_CHECKING:
    from clearclip.classify.maps import Window

STEPS, DILATIONS = 10, (8, 16)
"""Of the PAMR within, whatever refines the result."""


def sfr(window: Window) -> Tensor:
    """The stage `window=sfr`: cosines of a second pass through the last block (4.2)."""
    number = window.row.number
    labels = first_labels(window.first_look, logit_scale=window.words.logit_scale, threshold=number("temp_thd"))
    patches = patch_labels(labels, window.plan.y, window.plan.x, queries=window.cosines.shape[-1])
    shared = feedback_map(patches, sigma=number("sfr_std"), by_path=number("path") == 1)
    # The authors round twice to float16, in a float32 model as well: without that the attention differs by 1e-4.
    rounded = (number("sfr_lambda") * (shared / shared.max()).half().float()).half().float()
    return (
        window.again(rounded * number("sfr_tau"), number("sfr_tau") * (1 - number("sfr_lambda"))) @ window.words.text.T
    )


def one_window(plan: Plan) -> Plan:
    """A plan of a window by itself."""
    y, x = (
        Axis(axis.window, axis.window, (0,), axis.encoded, axis.fit, axis.padding, axis.cells)
        for axis in (plan.y, plan.x)
    )
    return Plan(y, x)


def first_labels(grid: PamrGrid, *, logit_scale: float, threshold: float) -> Tensor:
    """The best query of each pixel of a window, or the first query below the threshold, `(H, W)`."""
    winners, best = grid.best(logit_scale=logit_scale)
    assert best is not None  # it was asked for
    return winners.masked_fill_(best < threshold, 0)


def patch_labels(labels: Tensor, y: Axis, x: Axis, *, queries: int) -> Tensor:
    """The most frequent label among each patch's pixels, `(gh, gw)` from `(H, W)`; of equally many the smallest.

    Pixels beyond the last whole patch are not looked at.
    """
    rows, columns = (
        (torch.arange(axis.window, device=labels.device) + axis.padding) // (axis.encoded // axis.cells)
        for axis in (y, x)
    )
    seen = (rows < y.cells)[:, None] & (columns < x.cells)
    patches = (rows[:, None] * x.cells + columns)[seen]
    counts = torch.bincount(patches * queries + labels[seen], minlength=y.cells * x.cells * queries)
    return counts.view(y.cells, x.cells, queries).argmax(dim=-1)


def paths(labels: Tensor) -> Tensor:
    """Whether the way from one patch to another stays in its label, `(N, N)` bool from `(gh, gw)`; not symmetric.

    Of the straight line only the first dist / n is looked at, n being the longer side of the grid less one.
    """
    height, width = labels.shape
    count = max(height, width) - 1
    flat = labels.flatten()
    held = torch.ones(len(flat), len(flat), dtype=torch.bool, device=labels.device)
    distances = _distances(height, width).to(labels.device)
    for step, share in enumerate(torch.linspace(0, 1, count + 1)):  # its own last bits decide halves on even n
        rows, columns = (
            (torch.arange(side)[:, None] * (1 - share) + torch.arange(side) * share).round().long()
            for side in (height, width)
        )
        place = rows[:, None, :, None] * width + columns[None, :, None, :]
        there = flat[place.flatten(0, 1).flatten(1).to(labels.device)]
        held &= (there == flat[:, None]) | (distances < step)
    return held


def _distances(height: int, width: int) -> Tensor:
    """Between patches, the larger of rows and columns, `(N, N)`."""
    rows, columns = ((torch.arange(side)[:, None] - torch.arange(side)).abs() for side in (height, width))
    return torch.maximum(rows[:, None, :, None], columns[None, :, None, :]).flatten(0, 1).flatten(1)


def feedback_map(labels: Tensor, *, sigma: float, by_path: bool = True) -> Tensor:
    """How much patches share a label, `(N, N)` float32 from `(gh, gw)`; rows sum to 1 (F of 4.2).

    Smoothed along the flattened grid, over the ends of its rows, as the authors do. With `by_path` patches of one
    label that no path joins share less, the farther they are apart.
    """
    flat, (height, width) = labels.flatten(), labels.shape
    same = (flat[:, None] == flat).float()
    if by_path:
        apart = (-_distances(height, width) / max(height - 1, width - 1, 1)).exp().to(labels.device)
        same = same * torch.where(paths(labels), 1.0, apart)
    length = min(len(flat), int(6 * sigma + 1))
    half = (length + (length % 2 == 0)) // 2
    taps = (-torch.arange(-half, half + 1, device=labels.device).float().square() / (2 * sigma**2)).exp()
    smooth = F.conv1d(same[:, None], (taps / taps.sum())[None, None], padding=half)[:, 0]
    return smooth / (smooth.sum(dim=1, keepdim=True) + 1e-8)
