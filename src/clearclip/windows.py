"""Sliding windows: where they lie, how they are cut out, and how their grids of cells become pixels again.

Upsampling a window's grid, cropping its padding, stitching the windows, dividing by their overlap and resizing to the
original size are linear and separable in y and x (protocol, inference steps 2, 3 and 6). So for each axis they are one
small matrix from the cells of all windows to the output pixels. No model library.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def window_starts(length: int, crop_size: int, stride: int) -> tuple[int, ...]:
    """Where the windows of one axis begin; the last one is shifted back to end at the border.

    Args:
        length: Pixels of the axis.
        crop_size: Pixels of a window.
        stride: Step, at most `crop_size`.

    Returns:
        Increasing starts, at least one; a window never reaches beyond the axis unless it is longer.
    """
    last = max(length - crop_size, 0)
    return (*range(0, last, stride), last)


@dataclass(frozen=True)
class Axis:
    """One axis of a window plan, in pixels of the resized image.

    Attributes:
        length: Pixels of the image.
        window: Pixels of a window.
        starts: Where the windows begin.
        encoded: Pixels of a window as the encoder sees it: padded to whole patches, or resized.
        padding: Pixels of that padding before the window; `None` where the window is resized instead.
        cells: Patches of an encoded window.
    """

    length: int
    window: int
    starts: tuple[int, ...]
    encoded: int
    padding: int | None
    cells: int

    def matrix(self, out_length: int) -> Tensor:
        """The linear map from the cells of all windows to output pixels.

        Args:
            out_length: Pixels of the output.

        Returns:
            `(out_length, len(starts) · cells)` float32; rows sum to 1.
        """
        if self.padding is None:
            upsample = bilinear_matrix(self.cells, self.window)
        else:
            upsample = bilinear_matrix(self.cells, self.encoded)[self.padding : self.padding + self.window]
        stitched = torch.zeros(self.length, len(self.starts), self.cells, dtype=torch.float64)
        overlap = torch.zeros(self.length, 1, 1, dtype=torch.float64)
        for index, start in enumerate(self.starts):
            stitched[start : start + self.window, index] = upsample
            overlap[start : start + self.window] += 1
        flat = (stitched / overlap).flatten(1)
        return (bilinear_matrix(self.length, out_length) @ flat).float()


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

    def cut(self, image: Tensor) -> Tensor:
        """The windows as the encoder sees them.

        Args:
            image: `(3, H, W)`, resized and normalised.

        Returns:
            `(count, 3, encoded_h, encoded_w)`, row by row.
        """
        windows = torch.stack(
            [image[:, y : y + self.y.window, x : x + self.x.window] for y in self.y.starts for x in self.x.starts]
        )
        encoded = (self.y.encoded, self.x.encoded)
        if self.y.padding is None or self.x.padding is None:
            if windows.shape[2:] == encoded:
                return windows
            return F.interpolate(windows, size=encoded, mode="bilinear", align_corners=False)
        top, left = self.y.padding, self.x.padding
        return F.pad(
            windows,
            (left, encoded[1] - self.x.window - left, top, encoded[0] - self.y.window - top),
        )


def plan_windows(size: tuple[int, int], *, crop_size: int, stride: int, patch_size: int, square: bool = False) -> Plan:
    """Lay windows over an image.

    Args:
        size: `(height, width)` of the resized image.
        crop_size: Side of a window; an image smaller than it gives one smaller window.
        stride: Step of the windows.
        patch_size: Side of a patch.
        square: Resize every window to `crop_size` instead of padding it to whole patches (BLIP).

    Returns:
        The plan; its windows cover every pixel.
    """

    def axis(length: int) -> Axis:
        window = min(crop_size, length)
        encoded = (crop_size if square else window) + -(crop_size if square else window) % patch_size
        return Axis(
            length=length,
            window=window,
            starts=window_starts(length, crop_size, stride),
            encoded=encoded,
            padding=None if square else (encoded - window) // 2,
            cells=encoded // patch_size,
        )

    return Plan(axis(size[0]), axis(size[1]))


def bilinear_matrix(length: int, out_length: int) -> Tensor:
    """Bilinear interpolation (`align_corners=False`, no antialiasing) as a matrix.

    Args:
        length: Samples given.
        out_length: Samples wanted.

    Returns:
        `(out_length, length)` float64; rows sum to 1.
    """
    if length == out_length:
        return torch.eye(length, dtype=torch.float64)
    scale = length / out_length
    position = ((torch.arange(out_length, dtype=torch.float64) + 0.5) * scale - 0.5).clamp_(0, length - 1)
    low = position.floor().long().clamp_(max=max(length - 2, 0))
    weight = position - low
    matrix = torch.zeros(out_length, length, dtype=torch.float64)
    rows = torch.arange(out_length)
    matrix[rows, low] = 1 - weight
    matrix[rows, (low + 1).clamp_(max=length - 1)] += weight
    return matrix
