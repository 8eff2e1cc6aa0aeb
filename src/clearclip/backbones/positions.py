"""Resize of a position table to another grid: the one place where it is done."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(table: Tensor, grid_size: tuple[int, int], *, native: tuple[int, int], how: str) -> Tensor:
    """Position table `(R + gh · gw, C)` for a grid; the native grid's is returned unchanged.

    The first R rows of table `(R + native_h · native_w, C)` belong to prefix tokens. how: `"offset"`: bicubic with the
    scale factors `(gh + 0.1) / native_h`, `(gw + 0.1) / native_w`, as CLIP's users since DINO have it (protocol,
    inference step 4); `"size"`: bicubic to the grid (BLIP); `"antialias"`: the same with antialiasing (GEM);
    `"bilinear16"`: bilinear, then rounded to float16, at the native grid as well (CLIPer).
    """
    if grid_size == native and how != "bilinear16":
        return table
    prefix = len(table) - native[0] * native[1]
    prefix_rows, patches = table[:prefix], table[prefix:]
    image = patches.reshape(1, *native, -1).permute(0, 3, 1, 2).float()
    if how == "offset":
        factors = ((grid_size[0] + 0.1) / native[0], (grid_size[1] + 0.1) / native[1])
        resized = F.interpolate(
            image, scale_factor=factors, mode="bicubic", align_corners=False, recompute_scale_factor=False
        )
    elif how == "bilinear16":
        resized = F.interpolate(image, size=grid_size, mode="bilinear", align_corners=False).half()
        prefix_rows = prefix_rows.half().to(table.dtype)
    else:
        resized = F.interpolate(
            image, size=grid_size, mode="bicubic", align_corners=False, antialias=how == "antialias"
        )
    if resized.shape[-2:] != grid_size:
        raise AssertionError(f"the position table came out as {tuple(resized.shape[-2:])} instead of {grid_size}")
    return torch.cat([prefix_rows, resized.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)])
