"""Images → features of every patch, or their cosines with queries, window by window in bounded memory.

Belongs here: how an image is prepared, what of it is kept where more will be asked of it, and how windows go through
the trunk. Does not: words and label maps (`segmenter.py`), and what a method computes (`decompose.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip.backbones import Backbone
from clearclip.backbones.devices import inference
from clearclip.classify.grid import LogitGrid
from clearclip.decompose import check_depth, group_by_table, read, rewrite, trunk, wanted_blocks
from clearclip.encode.images import normalize, resize, resized_size
from clearclip.encode.windows import Plan, plan_windows
from clearclip.errors import CheckpointError
from clearclip.methods import Method
from clearclip.protocol import CLIP_MEAN, CLIP_STD, Protocol

WINDOWS_AT_ONCE = 16
WINDOWS_AT_ONCE_ON_A_CPU = 2
"""What lies between two layers then fits its cache: 16 at once take 10 % longer in float32, 20 % in bfloat16."""


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
    _inputs: dict[str, dict[int, Tensor]] = field(default_factory=dict, repr=False)
    _features: dict[Method, Tensor] = field(default_factory=dict, repr=False)

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
        return self._features[method]


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
        fit="resize" if backbone.square_windows else protocol.remainder,
    )


@inference
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


@inference
def add_features(backbone: Backbone, image: Encoded, methods: Sequence[Method]) -> None:
    """Give an image the features it lacks; the trunk's outputs stay with it, so that other methods need no trunk.

    Args:
        backbone: The model.
        image: It is written to.
        methods: Rows.

    Raises:
        UsageError: A method is deeper than the model.
    """
    for row in methods:
        check_depth(backbone, row)
    grid_size = image.plan.grid_size
    lacking = [row for row in methods if row not in image._features]
    for how, rows in group_by_table(backbone, lacking, grid_size).items():
        wanted = wanted_blocks(backbone, rows)
        if not image._inputs.get(how, {}).keys() >= set(wanted):
            parts = [
                trunk(backbone, windows.to(backbone.device, backbone.dtype), positions=how, wanted=wanted)
                for windows in _batches(backbone, [image])
            ]
            image._inputs[how] = {index: torch.cat([part[index] for part in parts]) for index in wanted}
        kept = image._inputs[how]
        found: dict[Method, list[Tensor]] = {row: [] for row in rows}
        at_once = windows_at_once(backbone)
        for tokens in zip(*(stream.split(at_once) for stream in kept.values()), strict=True):
            parts_of = rewrite(backbone, dict(zip(kept, tokens, strict=True)), rows, grid_size=grid_size)
            for row in rows:
                found[row].append(unit_features(backbone, parts_of[row].features))
        image._features |= {row: torch.cat(features) for row, features in found.items()}


@inference
def logit_grids(backbone: Backbone, images: Sequence[Encoded], method: Method, text: Tensor) -> list[LogitGrid]:
    """Cosines of images with queries; nothing else of them is kept, so that memory hardly grows with the windows.

    Windows of equal size go through the trunk together, whosever they are.

    Args:
        backbone: The model.
        images: Prepared; they are not written to.
        method: How features are made.
        text: `(Q, E)`, unit length.

    Returns:
        One grid an image.

    Raises:
        UsageError: The method is deeper than the model.
    """
    check_depth(backbone, method)
    grids = [LogitGrid.empty(text, plan=image.plan, size=image.image.shape[:2]) for image in images]
    by_grid: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(images):
        by_grid.setdefault((image.plan.y.encoded, image.plan.x.encoded), []).append(index)
    for group in by_grid.values():
        grid_size = images[group[0]].plan.grid_size
        places = chain.from_iterable(grids[index].windows() for index in group)
        for windows in _batches(backbone, [images[index] for index in group]):
            encoded = windows.to(backbone.device, backbone.dtype)
            found = unit_features(backbone, read(backbone, encoded, [method], grid_size=grid_size)[method].features)
            for features, place in zip(found, places, strict=False):  # `found` first: it ends before a place is taken
                place.copy_(features @ text.T)
    return grids


def unit_features(backbone: Backbone, features: Tensor) -> Tensor:
    """Features of length 1 in float32; `CheckpointError` where the model's numbers grew beyond all limits."""
    unit = F.normalize(features.float(), dim=-1)
    if not unit.isfinite().all():
        raise CheckpointError(
            f"{backbone.name}: an image's features are NaN in {backbone.dtype}: the weights are damaged, or need "
            "--dtype float32"
        )
    return unit


def windows_at_once(backbone: Backbone) -> int:
    """How many windows go through a model together.

    Args:
        backbone: The model; its device decides.

    Returns:
        A number.
    """
    return WINDOWS_AT_ONCE_ON_A_CPU if backbone.device.type == "cpu" else WINDOWS_AT_ONCE


def _batches(backbone: Backbone, images: Sequence[Encoded]) -> Iterator[Tensor]:
    """The images' windows in order, cut as they go through the model."""
    waiting: list[Tensor] = []
    at_once = free = windows_at_once(backbone)
    for image in images:
        start = 0
        while start < image.plan.count:
            stop = min(start + free, image.plan.count)
            waiting.append(image.plan.cut(image.prepared, start=start, stop=stop))
            free -= stop - start
            start = stop
            if not free:
                yield torch.cat(waiting)
                waiting, free = [], at_once
    if waiting:
        yield torch.cat(waiting)
