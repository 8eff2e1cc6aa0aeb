"""Images → features of every patch, window by window in bounded memory, kept where more will be asked of them.

Belongs here: how an image is prepared, what of it is kept, and how windows go through the trunk. Does not: words and
label maps (`segmenter.py`), and what a method computes (`decompose.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip.backbones import Backbone
from clearclip.decompose import Parts, check_depth, group_by_table, rewrite, trunk
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
        prepared: The resized and normalised image that the windows are cut from, `(3, h, w)` float32.
    """

    image: npt.NDArray[np.uint8]
    plan: Plan
    prepared: Tensor = field(repr=False)
    _streams: dict[str, list[Tensor]] = field(default_factory=dict, repr=False)
    _features: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def windows(self) -> Tensor:
        """The windows as the encoder sees them, `(count, 3, h, w)`; cut anew each time."""
        return self.plan.cut(self.prepared)

    def features(self, method: Method) -> Tensor:
        """What `add_features` found.

        Args:
            method: A row that it was asked for.

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


def prepare_images(backbone: Backbone, images: Iterable[npt.NDArray[np.uint8]], protocol: Protocol) -> list[Encoded]:
    """Resize and normalise images and lay windows over them; nothing of the model is run.

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
        encoded.append(Encoded(image, plan, normalize(resize(image, size), mean=mean, std=std)))
    return encoded


@torch.no_grad()
def add_features(backbone: Backbone, images: Sequence[Encoded], methods: Sequence[Method], *, keep: bool) -> None:
    """Give images the features they lack; windows of equal size go through the trunk together, whosever they are.

    Args:
        backbone: The model.
        images: They are written to.
        methods: Rows.
        keep: Whether the trunk's outputs stay with the images, so that other methods need no trunk.

    Raises:
        UsageError: A method is deeper than the model.
    """
    by_grid: dict[tuple[int, ...], list[Encoded]] = {}
    for image in images:
        by_grid.setdefault((image.plan.y.encoded, image.plan.x.encoded), []).append(image)
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
    for image in group:
        if len(image._streams.get(how, ())) >= depth:
            image._features |= _normalized(rewrite(backbone, image._streams[how], rows, grid_size=grid_size))
    if not fresh:
        return
    streams: list[list[Tensor]] = []
    features: dict[str, list[Tensor]] = {row.spelling: [] for row in rows}
    for windows in _batches(fresh):
        stream = trunk(backbone, windows.to(backbone.device, backbone.dtype), positions=how, depth=depth)
        for spelling, part in _normalized(rewrite(backbone, stream, rows, grid_size=grid_size)).items():
            features[spelling].append(part)
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


def _batches(images: Sequence[Encoded]) -> Iterator[Tensor]:
    """The images' windows in order, at most `WINDOWS_AT_ONCE` cut at a time."""
    waiting: list[Tensor] = []
    free = WINDOWS_AT_ONCE
    for image in images:
        start = 0
        while start < image.plan.count:
            stop = min(start + free, image.plan.count)
            waiting.append(image.plan.cut(image.prepared, start=start, stop=stop))
            free -= stop - start
            start = stop
            if not free:
                yield torch.cat(waiting)
                waiting, free = [], WINDOWS_AT_ONCE
    if waiting:
        yield torch.cat(waiting)


def _normalized(results: dict[str, Parts]) -> dict[str, Tensor]:
    return {spelling: F.normalize(parts.features.float(), dim=-1) for spelling, parts in results.items()}
