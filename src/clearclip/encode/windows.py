"""Sliding windows: where they lie, how they are cut out, and how their grids of cells become pixels again.

Upsampling a window's grid, cropping its padding, stitching the windows, dividing by their overlap and resizing to the
original size are linear and separable in y and x (protocol, inference steps 2, 3 and 6). So for each axis they are one
small matrix from the cells of all windows to the output pixels. No model library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

LINEAR = 1e-9
"""A second difference of weights below this is rounding."""
LONGEST = 16
"""Most pixels between two knots."""


def window_starts(length: int, crop_size: int, stride: int) -> tuple[int, ...]:
    """Where the windows of one axis begin, in pixels; the last one is shifted back to end at the border."""
    last = max(length - crop_size, 0)
    return (*range(0, last, stride), last)


@dataclass(frozen=True)
class Axis:
    """One axis of a window plan, in pixels of the resized image.

    Attributes:
        length: Pixels of the image.
        window: Pixels of a window.
        starts: Where the windows begin.
        encoded: Pixels of a window as the encoder sees it, whole patches.
        fit: How a window becomes that: `"pad"`: zeros on both sides; `"drop"`: the remainder at its end is not seen,
            and the cells are stretched over it; `"resize"`: it is resized to a square (BLIP).
        padding: Pixels of zeros before the window.
        cells: Patches of an encoded window.
    """

    length: int
    window: int
    starts: tuple[int, ...]
    encoded: int
    fit: str
    padding: int
    cells: int

    @property
    def stretch(self) -> Tensor:
        """The matrix from a window's cells to its pixels, `(window, cells)` float64."""
        if self.fit == "pad":
            return bilinear_matrix(self.cells, self.encoded)[self.padding : self.padding + self.window]
        return bilinear_matrix(self.cells, self.window)

    def upsampling(self, out_length: int) -> Upsampling:
        """The linear map from the cells of all windows to output pixels; made once per axis and length."""
        return _upsampling(self, out_length)

    def matrix(self, out_length: int) -> Tensor:
        """`(out_length, len(starts) · cells)` float32, the matrix of `upsampling`; rows sum to 1."""
        return self.upsampling(out_length).matrix


@dataclass(frozen=True, eq=False)
class Upsampling:
    """The way from the cells of one axis to its output pixels.

    Between two neighbouring knots the matrix's rows are linear in the pixel, so that whatever is upsampled takes its
    extremes at knots. Cell centres, borders of windows and the second resize make them.

    Attributes:
        matrix: `(out_length, cells of all windows)` float32; rows sum to 1.
        knots: `(K,)` int64, pixels, at least two: the first is 0, the last is the last pixel.
    """

    matrix: Tensor
    knots: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Upsampling:
        """A matrix `(out_length, cells of all windows)` in float32 with its knots."""
        count = len(matrix)
        bends = matrix.diff(n=2, dim=0).abs().amax(dim=1) > LINEAR if count > 2 else torch.zeros(0, dtype=torch.bool)
        knots = [0, *(bends.nonzero()[:, 0] + 1).tolist(), count - 1]
        dense = [knots[0]]
        for knot in knots[1:]:
            pieces = -(-(knot - dense[-1]) // LONGEST)
            before = dense[-1]
            dense += [before + (knot - before) * piece // pieces for piece in range(1, pieces)] + [knot]
        return cls(matrix.float(), torch.tensor(dense))


@lru_cache(maxsize=32)
def _upsampling(axis: Axis, out_length: int) -> Upsampling:
    upsample = axis.stretch
    stitched = torch.zeros(axis.length, len(axis.starts), axis.cells, dtype=torch.float64)
    overlap = torch.zeros(axis.length, 1, 1, dtype=torch.float64)
    for index, start in enumerate(axis.starts):
        stitched[start : start + axis.window, index] = upsample
        overlap[start : start + axis.window] += 1
    flat = (stitched / overlap).flatten(1)
    low, high, weight = _taps(axis.length, out_length)
    matrix = torch.lerp(flat[low], flat[high], weight[:, None])
    return Upsampling.of(matrix)


@dataclass(frozen=True)
class Plan:
    """The windows of one resized image.

    Attributes:
        y: Vertical axis.
        x: Horizontal axis.
    """

    y: Axis
    x: Axis

    @property
    def count(self) -> int:
        """Number of windows."""
        return len(self.y.starts) * len(self.x.starts)

    @property
    def grid_size(self) -> tuple[int, int]:
        """`(gh, gw)` cells of one window."""
        return self.y.cells, self.x.cells

    def cut(self, image: Tensor, *, start: int = 0, stop: int | None = None) -> Tensor:
        """Windows of an image `(3, H, W)` as the encoder sees them, `(count, 3, h, w)`, row by row."""
        places = [(y, x) for y in self.y.starts for x in self.x.starts][start:stop]
        windows = torch.stack([image[:, y : y + self.y.window, x : x + self.x.window] for y, x in places])
        encoded = (self.y.encoded, self.x.encoded)
        if windows.shape[2:] == encoded:
            return windows
        if self.y.fit == "resize":
            return F.interpolate(windows, size=encoded, mode="bilinear", align_corners=False)
        top, left = self.y.padding, self.x.padding  # what is dropped is padded by less than nothing
        return F.pad(windows, (left, encoded[1] - self.x.window - left, top, encoded[0] - self.y.window - top))


def plan_windows(size: tuple[int, int], *, crop_size: int, stride: int, patch_size: int, fit: str = "pad") -> Plan:
    """Lay windows over a resized image of `(height, width)`, so that they cover every pixel.

    An image smaller than the crop size gives one smaller window, 0 makes the whole image one. `fit` as in `Axis`; an
    axis shorter than one patch is padded instead of dropped.
    """
    side = crop_size or max(size)

    def axis(length: int) -> Axis:
        window = min(side, length)
        used = "pad" if fit == "drop" and window < patch_size else fit
        wanted = side if used == "resize" else window
        encoded = wanted // patch_size * patch_size if used == "drop" else wanted + -wanted % patch_size
        return Axis(
            length=length,
            window=window,
            starts=window_starts(length, side, stride),
            encoded=encoded,
            fit=used,
            padding=(encoded - window) // 2 if used == "pad" else 0,
            cells=encoded // patch_size,
        )

    return Plan(axis(size[0]), axis(size[1]))


def bilinear_matrix(length: int, out_length: int) -> Tensor:
    """Bilinear interpolation (`align_corners=False`, no antialiasing), `(out_length, length)` float64."""
    low, high, weight = _taps(length, out_length)
    matrix = torch.zeros(out_length, length, dtype=torch.float64)
    rows = torch.arange(out_length)
    matrix[rows, low] = 1 - weight
    matrix[rows, high] += weight
    return matrix


def _taps(length: int, out_length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of every sample wanted the two samples it lies between, and the weight of the second."""
    position = ((torch.arange(out_length, dtype=torch.float64) + 0.5) * (length / out_length) - 0.5).clamp_(
        0, length - 1
    )
    low = position.floor().long().clamp_(max=max(length - 2, 0))
    return low, (low + 1).clamp_(max=length - 1), position - low


def resample_band(length: int, out_length: int, start: int, stop: int, *, antialias: bool) -> tuple[int, Tensor]:
    """The samples from `start` to `stop` of a bilinear resize as a matrix over the few samples that they depend on.

    The first sample given, and `(stop - start, n)` float64 weights of n samples, whose rows sum to 1. `antialias`
    widens the triangle when shrinking, so that every sample given counts.
    """
    step = length / out_length
    reach = max(step, 1.0) if antialias else 1.0
    centers = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * step - 0.5
    if not antialias:
        centers.clamp_(0, length - 1)
    first = max(0, math.floor(float(centers[0]) - reach))
    last = min(length, math.ceil(float(centers[-1]) + reach) + 1)
    samples = torch.arange(first, last, dtype=torch.float64)
    weights = (1 - (samples - centers[:, None]).abs() / reach).clamp_(min=0)
    used = weights.any(dim=0).nonzero()[:, 0]
    low, high = int(used[0]), int(used[-1]) + 1
    return first + low, (weights[:, low:high] / weights.sum(dim=1, keepdim=True))


@dataclass(frozen=True, eq=False)
class Part(Axis):
    """The windows of an axis that some output pixels depend on, and the way from their cells to just these pixels.

    Attributes:
        first: Index of the first of these windows in the whole axis.
        way: The matrix of these pixels with its knots.
    """

    first: int
    way: Upsampling

    def upsampling(self, out_length: int) -> Upsampling:
        """As `Axis.upsampling`, of these pixels alone."""
        assert out_length == len(self.way.matrix)
        return self.way


def part_of(axis: Axis, out_length: int, start: int, stop: int) -> Part:
    """What the output pixels from `start` to `stop` depend on; equal to those rows of `axis.matrix(out_length)`."""
    begin, resample = resample_band(axis.length, out_length, start, stop, antialias=False)
    end = begin + resample.shape[1]
    reaching = [index for index, left in enumerate(axis.starts) if left < end and left + axis.window > begin]
    chosen = axis.starts[reaching[0] : reaching[-1] + 1]
    upsample = axis.stretch
    stitched = torch.zeros(end - begin, len(chosen), axis.cells, dtype=torch.float64)
    for index, left in enumerate(chosen):
        low, high = max(left, begin), min(left + axis.window, end)
        stitched[low - begin : high - begin, index] = upsample[low - left : high - left]
    overlap = torch.tensor(
        [sum(left <= pixel < left + axis.window for left in chosen) for pixel in range(begin, end)],
        dtype=torch.float64,
    )
    weights = resample @ (stitched / overlap[:, None, None]).flatten(1)
    return Part(
        length=axis.length,
        window=axis.window,
        starts=chosen,
        encoded=axis.encoded,
        fit=axis.fit,
        padding=axis.padding,
        cells=axis.cells,
        first=reaching[0],
        way=Upsampling.of(weights),
    )
