"""Images → features of every patch, window by window in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip.attention import Feedback
from clearclip.backbones import Backbone
from clearclip.backbones.devices import inference
from clearclip.decompose import Parts, Trunk, early_heads, read, rewrite
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
    """An image with its windows, and what the model made of them: what `Segmenter.classify` starts from.

    Attributes:
        size: `(height, width)` of the label maps.
        plan: The windows.
        prepared: The resized and normalised image that they are cut from, `(3, h, w)` float32.
        image: `(H, W, 3)` uint8; `None` for prepared tensors.
    """

    size: tuple[int, int]
    plan: Plan
    prepared: Tensor = field(repr=False)
    image: npt.NDArray[np.uint8] | None = None
    _trunks: list[Trunk] = field(default_factory=list, repr=False)
    _features: dict[Method, Tensor] = field(default_factory=dict, repr=False)
    _attention: dict[Method, Tensor] = field(default_factory=dict, repr=False)
    _early: dict[tuple[str, int], Tensor] = field(default_factory=dict, repr=False)

    @property
    def windows(self) -> Tensor:
        """The windows as the encoder sees them, `(count, 3, h, w)`; cut anew each time."""
        return self.plan.cut(self.prepared)

    @property
    def encoder_passes(self) -> int:
        """How often the trunk has run over the image."""
        return max((trunk.passes for trunk in self._trunks), default=0)

    def features(self, method: Method) -> Tensor:
        """`(count, gh, gw, E)` float32, unit length, of a row that `encode` or `classify` was asked for."""
        return self._features[method]

    def attention(self, method: Method) -> Tensor | None:
        """`(count, N, N)` float32, `Parts.attention` of such a row; `None` where it has none."""
        return self._attention.get(method)


@dataclass(frozen=True, eq=False)
class Encoder:
    """A backbone with a protocol in pixels: image → windows → features."""

    backbone: Backbone
    protocol: Protocol

    @property
    def mean_and_deviation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Of the pixels, as the protocol's normalisation says, in units of 0–1."""
        own = self.protocol.normalization == "model"
        return (self.backbone.mean, self.backbone.std) if own else (CLIP_MEAN, CLIP_STD)

    @property
    def at_once(self) -> int:
        """How many windows go through the model together."""
        return WINDOWS_AT_ONCE_ON_A_CPU if self.backbone.device.type == "cpu" else WINDOWS_AT_ONCE

    def resize(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """An image `(H, W, 3)` at the protocol's size."""
        return resize(image, resized_size(image.shape[0], image.shape[1], self.protocol))

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Pixels `(H, W, 3)` as the model wants them, `(3, H, W)` float32."""
        mean, std = self.mean_and_deviation
        return normalize(pixels, mean=mean, std=std)

    def plan(self, size: tuple[int, int]) -> Plan:
        """The windows over a resized image of `(height, width)`."""
        return plan_windows(
            size,
            crop_size=int(self.protocol.crop_size),
            stride=int(self.protocol.stride),
            patch_size=self.backbone.patch_size,
            fit="resize" if self.backbone.square_windows else self.protocol.remainder,
        )

    @inference
    def prepare(self, image: npt.NDArray[np.uint8]) -> Encoded:
        """Resize and normalise an image `(H, W, 3)` and lay windows over it; nothing of the model is run."""
        prepared = self.normalize(self.resize(image))
        size = (image.shape[0], image.shape[1])
        return Encoded(size, self.plan((prepared.shape[1], prepared.shape[2])), prepared, image)

    @inference
    def add_features(self, image: Encoded, rows: Sequence[Method], *, early: bool = False) -> None:
        """Give an image the features it lacks; what the trunk made stays with it, so that other rows need no trunk.

        With `early` also the trunk's mean attention, which takes `N²` floats a window.
        """
        lacking = [row for row in rows if not self._has(image, row, early=early)]
        if not lacking:
            return
        found: dict[Method, list[Tensor]] = {row: [] for row in lacking}
        means: dict[Method, list[Tensor]] = {row: [] for row in lacking}
        attention: dict[Method, list[Tensor]] = {}
        for index, windows in enumerate(self._batches([image])):
            if index == len(image._trunks):
                image._trunks.append(Trunk())
            for row, parts in self._run(windows, lacking, image.plan, image._trunks[index], early=early).items():
                found[row].append(parts.features)
                means[row] += [] if parts.early is None else [parts.early]
                if parts.attention is not None:
                    attention.setdefault(row, []).append(parts.attention)
        image._attention |= {row: torch.cat(maps) for row, maps in attention.items()}
        for row in lacking:
            image._features[row] = torch.cat(found[row])
            if early:
                image._early[self._early_key(image, row)] = torch.cat(means[row])

    @inference
    def again(self, image: Encoded, window: int, row: Method, feedback: Feedback) -> Tensor:
        """Unit features `(gh, gw, E)` of a window's second pass, from what the trunk made of it in `add_features`."""
        batch, place = divmod(window, self.at_once)
        grid_size = image.plan.grid_size
        kept = image._trunks[batch].inputs[self.backbone.table_kind(grid_size, row.positions)]
        own = {block: tokens[place : place + 1] for block, tokens in kept.items()}
        found = rewrite(self.backbone, own, [row], grid_size=grid_size, feedback=feedback)[row]
        return self.checked(row, found.features)[0]

    def look(self, pixels: Tensor, row: Method) -> Parts:
        """What a row makes of pixels `(3, h, w)` of whole patches, normalised; its features have unit length."""
        size = (pixels.shape[1] // self.backbone.patch_size, pixels.shape[2] // self.backbone.patch_size)
        images = pixels[None].to(self.backbone.device, self.backbone.dtype)
        parts = read(self.backbone, images, [row], grid_size=size)[row]
        return replace(parts, features=self.checked(row, parts.features))

    def _early_key(self, image: Encoded, row: Method) -> tuple[str, int]:
        return self.backbone.table_kind(image.plan.grid_size, row.positions), early_heads(self.backbone, row)

    def _has(self, image: Encoded, row: Method, *, early: bool) -> bool:
        return row in image._features and (not early or self._early_key(image, row) in image._early)

    def features(
        self, images: Sequence[Encoded], row: Method, *, early: bool = False
    ) -> Iterator[tuple[int, int, Tensor, Tensor | None]]:
        """Index of the image, index of the window, its features `(gh, gw, E)` and, if wanted, its early attention.

        Nothing new of them is kept. Windows of equal size go through the trunk together, from whichever image they are.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            if self._has(image, row, early=early):
                attention = image._early[self._early_key(image, row)] if early else [None] * image.plan.count
                yield from zip([index] * image.plan.count, count(), image._features[row], attention, strict=False)
            else:
                groups.setdefault((image.plan.y.encoded, image.plan.x.encoded), []).append(index)
        for group in groups.values():
            places = [(index, window) for index in group for window in range(images[index].plan.count)]
            start = 0
            for windows in self._batches([images[index] for index in group]):
                found = self._run(windows, [row], images[group[0]].plan, early=early)[row]
                attention = [None] * len(windows) if found.early is None else found.early
                for place, features, own in zip(places[start:], found.features, attention, strict=False):
                    yield *place, features, own
                start += len(windows)

    def _run(
        self,
        windows: Tensor,
        rows: Sequence[Method],
        plan: Plan,
        trunk: Trunk | None = None,
        *,
        early: bool = False,
    ) -> dict[Method, Parts]:
        windows = windows.to(self.backbone.device, self.backbone.dtype)
        found = read(self.backbone, windows, rows, grid_size=plan.grid_size, trunk=trunk, early=early)
        return {row: replace(parts, features=self.checked(row, parts.features)) for row, parts in found.items()}

    def checked(self, row: Method, features: Tensor) -> Tensor:
        """Features in float32, of length 1 if the row compares them as they are.

        `CheckpointError` where the model's numbers grew beyond all limits.
        """
        unit = features.float() if row.stitched != "none" else F.normalize(features.float(), dim=-1)
        if not unit.isfinite().all():
            raise CheckpointError(
                f"{self.backbone.name}: an image's features are NaN in {self.backbone.dtype}: the weights are damaged, "
                "or need --dtype float32"
            )
        return unit

    def _batches(self, images: Sequence[Encoded]) -> Iterator[Tensor]:
        """The images' windows in order, cut as they go through the model."""
        waiting: list[Tensor] = []
        free = self.at_once
        for image in images:
            start = 0
            while start < image.plan.count:
                stop = min(start + free, image.plan.count)
                waiting.append(image.plan.cut(image.prepared, start=start, stop=stop))
                free -= stop - start
                start = stop
                if not free:
                    yield torch.cat(waiting)
                    waiting, free = [], self.at_once
        if waiting:
            yield torch.cat(waiting)
