"""Images → windows → features: what of an image is computed once, and what each method adds to it.

Belongs here: cutting images into windows and running a backbone over them, many images and methods together. Does not:
words, label maps (`segmenter`), one block's mathematics (`decompose`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip.backbones import Backbone
from clearclip.decompose import check_depth, group_by_table, rewrite, trunk
from clearclip.images import normalize, resize, resized_size
from clearclip.methods import Method
from clearclip.protocol import CLIP_MEAN, CLIP_STD, Protocol
from clearclip.windows import Plan, plan_windows

WINDOWS_AT_ONCE = 16


@dataclass
class Encoded:
    """An image that the trunk has read: what `Segmenter.classify` starts from.

    Attributes:
        image: `(H, W, 3)` uint8.
        plan: Its windows.
        windows: The windows as the encoder sees them, `(count, 3, h, w)`.
    """

    image: npt.NDArray[np.uint8]
    plan: Plan
    windows: Tensor = field(repr=False)
    _streams: dict[str, list[Tensor]] = field(default_factory=dict, repr=False)
    _features: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def features(self, method: Method) -> Tensor:
        """What `add_features` found.

        Args:
            method: A row it was asked for.

        Returns:
            `(count, gh, gw, E)` float32, unit length.
        """
        return self._features[method.spelling]


def plan_of(backbone: Backbone, size: tuple[int, int], protocol: Protocol) -> Plan:
    """The windows of a resized image.

    Args:
        backbone: Decides the patch size, and whether windows must be square.
        size: `(height, width)`.
        protocol: In pixels.

    Returns:
        The plan.
    """
    return plan_windows(
        size,
        crop_size=int(protocol.crop_size),
        stride=int(protocol.stride),
        patch_size=backbone.patch_size,
        square=backbone.square_windows,
    )


def cut_images(backbone: Backbone, images: Iterable[npt.NDArray[np.uint8]], protocol: Protocol) -> list[Encoded]:
    """Resize, normalise and cut images into windows; nothing of the model is run.

    Args:
        backbone: Whose windows.
        images: `(H, W, 3)` each.
        protocol: In pixels.

    Returns:
        One value an image, still without features.
    """
    own = protocol.normalization == "model"
    mean, std = (backbone.mean, backbone.std) if own else (CLIP_MEAN, CLIP_STD)
    encoded = []
    for image in images:
        size = resized_size(image.shape[0], image.shape[1], protocol)
        plan = plan_of(backbone, size, protocol)
        encoded.append(Encoded(image, plan, plan.cut(normalize(resize(image, size), mean=mean, std=std))))
    return encoded


@torch.no_grad()
def add_features(backbone: Backbone, images: Sequence[Encoded], methods: Sequence[Method], *, keep: bool) -> None:
    """Compute the features that images lack; windows of equal size go through the trunk together, whosever they are.

    Args:
        backbone: The model.
        images: Of `cut_images`; they are filled.
        methods: Rows.
        keep: Whether the trunk's streams are kept, so that another method runs its rewritten blocks alone.

    Raises:
        UsageError: A method is deeper than the model.
    """
    by_grid: dict[tuple[int, ...], list[Encoded]] = {}
    for image in images:
        by_grid.setdefault(tuple(image.windows.shape[2:]), []).append(image)
    for row in methods:
        check_depth(backbone, row)
    for group in by_grid.values():
        grid_size = group[0].plan.grid_size
        lacking = [row for row in methods if any(row.spelling not in image._features for image in group)]
        for how, rows in group_by_table(backbone, lacking, grid_size).items():
            _add_group(backbone, group, how, rows, keep=keep)


def _add_group(backbone: Backbone, group: Sequence[Encoded], how: str, rows: Sequence[Method], *, keep: bool) -> None:
    depth = max(row.depth for row in rows)
    grid_size = group[0].plan.grid_size
    fresh = [image for image in group if len(image._streams.get(how, ())) < depth]
    known = [image for image in group if len(image._streams.get(how, ())) >= depth]
    for image in known:
        _store(image, rewrite(backbone, image._streams[how], rows, grid_size=grid_size))
    if not fresh:
        return
    windows = torch.cat([image.windows for image in fresh])
    streams: list[list[Tensor]] = []
    features: dict[str, list[Tensor]] = {row.spelling: [] for row in rows}
    for chunk in windows.split(WINDOWS_AT_ONCE):
        stream = trunk(backbone, chunk.to(backbone.device, backbone.dtype), positions=how, depth=depth)
        for spelling, parts in rewrite(backbone, stream, rows, grid_size=grid_size).items():
            features[spelling].append(F.normalize(parts.features.float(), dim=-1))
        if keep:
            streams.append(stream)
    counts = [image.plan.count for image in fresh]
    for spelling, chunks in features.items():
        for image, part in zip(fresh, torch.cat(chunks).split(counts), strict=True):
            image._features[spelling] = part
    if keep:
        levels = [torch.cat(level).split(counts) for level in zip(*streams, strict=True)]
        for index, image in enumerate(fresh):
            image._streams[how] = [level[index] for level in levels]


def _store(image: Encoded, results: Mapping[str, Any]) -> None:
    for spelling, parts in results.items():
        image._features[spelling] = F.normalize(parts.features.float(), dim=-1)
