"""Features and words → one grid of cosines per image: the stages between the last block and the labels.

A stage of a window is a small function under `@window`: it sees the window's pixels and the words, and answers with the
maps that are stitched. Where a row names no stage, nothing is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip import methods
from clearclip.backbones import Backbone
from clearclip.backbones.devices import inference
from clearclip.classify.freecp import Filtered, FreeCP, crop_features, filter_window
from clearclip.classify.grid import LogitGrid
from clearclip.classify.words import Words
from clearclip.encode.encoding import Encoded, Encoder
from clearclip.encode.stitch import STAGES as STITCHED
from clearclip.encode.stitch import places, stitch, stitched_plan
from clearclip.errors import UsageError
from clearclip.methods import Method


@dataclass(frozen=True, eq=False)
class Window:
    """What a stage of a window may read.

    Attributes:
        features: `(gh, gw, E)`, unit length.
        cosines: `(gh, gw, Q)` with the queries.
        words: The words.
        backbone: The model.
    """

    features: Tensor
    cosines: Tensor
    words: Words
    backbone: Backbone
    _image: Encoded
    _index: int

    @cached_property
    def pixels(self) -> Tensor:
        """The window as the encoder sees it, `(3, h, w)`, normalised."""
        return self._image.plan.cut(self._image.prepared, start=self._index, stop=self._index + 1)[0]


Stage = Callable[[Window], Tensor]
"""Answers `(gh, gw, Q)`: what takes the cosines' place."""
STAGES: dict[str, Stage] = {}


def window(name: str) -> Callable[[Stage], Stage]:
    """Register a stage under a name, which the axis `window` then accepts."""

    def register(function: Stage) -> Stage:
        STAGES[name] = function
        methods.add_name("window", name)
        return function

    return register


@inference
def grids(encoder: Encoder, images: Sequence[Encoded], row: Method, words: Words) -> list[LogitGrid]:
    """Maps of images for every query, one grid each; memory hardly grows with the windows unless the row stitches."""
    if row.stitched != "none":
        check_window_rules(row, words)
        return [_from_stitched(encoder, image, row, words) for image in images]
    found = [
        LogitGrid.empty(words.values, plan=image.plan, size=image.size, device=words.text.device) for image in images
    ]
    targets = [list(grid.windows()) for grid in found]
    filtered: list[dict[int, Filtered]] = [{} for _ in images]
    for (index, number), maps, made in window_maps(encoder, images, row, words):
        targets[index][number].copy_(maps)
        if made is not None:
            filtered[index][number] = made
    return [replace(grid, filtered=tuple(made.values())) for grid, made in zip(found, filtered, strict=True)]


def window_maps(
    encoder: Encoder, images: Sequence[Encoded], row: Method, words: Words
) -> Iterator[tuple[tuple[int, int], Tensor, Filtered | None]]:
    """Index of image and window with its maps `(gh, gw, Q)`, and what a filter of windows made of it."""
    is_filtered = words.presence.looks_at_windows
    for index, number, features, early in encoder.features(images, row, early=is_filtered):
        maps, made = features @ words.text.T, None
        seen = Window(features, maps, words, encoder.backbone, images[index], number)
        if row.window != "none":
            maps = STAGES[row.window](seen)
        if early is not None:
            maps, made = filter_maps(seen, maps, early, row)
        yield (index, number), maps, made


def check_window_rules(row: Method, words: Words) -> None:
    """`UsageError` where windows would be filtered whose features meet the words only after they are stitched."""
    if words.presence.looks_at_windows:
        raise UsageError(f"presence={words.presence} looks at windows, and {row.spelling} stitches them first")


def filter_maps(window: Window, cosines: Tensor, early: Tensor, row: Method) -> tuple[Tensor, Filtered]:
    """FreeCP over one window: its maps of labels `(gh, gw, C)`, or cosines of which removed labels lost theirs."""
    words, backbone = window.words, window.backbone
    vocabulary = words.vocabulary
    made = filter_window(
        (cosines * words.logit_scale).softmax(dim=-1).movedim(-1, 0),
        early,
        owners=vocabulary.query_to_class,
        labels=len(vocabulary.labels),
        background=vocabulary.background_index,
        settings=FreeCP(*words.presence.numbers),
        look=lambda places: crop_features(backbone, window.pixels, places, positions=row.positions),
        text=words.text if words.crop_text is None else words.crop_text,
        pinned=[vocabulary.names.index(name) for name in vocabulary.pinned],
    )
    slim = replace(made, maps=made.maps[:0])
    if words.presence.makes_maps:
        return made.maps.movedim(0, -1), slim
    competes = made.kept.clone()
    if vocabulary.background_index is not None:
        competes[vocabulary.background_index] = True
    if not competes.any():  # nothing speaks for any label: the window's cosines alone decide
        return cosines, replace(slim, kept=~competes, redundant=competes)
    owners = torch.tensor(vocabulary.query_to_class, device=cosines.device)
    return cosines.masked_fill(~competes[owners], -1.0), slim


def _from_stitched(encoder: Encoder, image: Encoded, row: Method, words: Words) -> LogitGrid:
    plan, whole = image.plan, stitched_plan(image.plan)
    features = torch.stack([one for _, _, one, _ in encoder.features([image], row)])  # (ny · nx, gh, gw, C)
    laid = features.unflatten(0, (len(plan.y.starts), len(plan.x.starts))).transpose(1, 2)
    rows, columns = whole.grid_size
    grid = stitch(laid, y=places(plan.y), x=places(plan.x), rows=range(rows), columns=columns)
    return LogitGrid(stitched_cosines(encoder, grid, row, words).permute(2, 0, 1), whole, image.size)


def stitched_cosines(encoder: Encoder, features: Tensor, row: Method, words: Words) -> Tensor:
    """The row's stage on stitched features `(rows, columns, C)`, then the head and the cosines `(rows, columns, Q)`."""
    changed = STITCHED[row.stitched].function(features, encoder.backbone)
    projected = encoder.backbone.head(changed.flatten(0, 1)[None].to(encoder.backbone.dtype))[0]
    cosines: Tensor = F.normalize(projected.float(), dim=-1) @ words.text.T
    return cosines.view(*changed.shape[:2], -1)
