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
from clearclip.attention import Feedback
from clearclip.backbones import Backbone
from clearclip.backbones.devices import inference
from clearclip.classify import cliper, feedback
from clearclip.classify.freecp import Filtered, FreeCP, crop_features, filter_window
from clearclip.classify.grid import LogitGrid
from clearclip.classify.refine import PamrGrid, refine
from clearclip.classify.words import Words
from clearclip.decompose import Parts, fitted
from clearclip.encode.encoding import Encoded, Encoder
from clearclip.encode.stitch import STAGES as STITCHED
from clearclip.encode.stitch import places, stitch, stitched_plan
from clearclip.encode.windows import Axis, Plan
from clearclip.errors import UsageError
from clearclip.methods import Method


@dataclass(frozen=True, eq=False)
class Window:
    """What a stage of a window may read.

    Attributes:
        features: `(gh, gw, E)`, unit length; `(S, gh, gw, E)` of a row that sends each block through the last.
        cosines: `(gh, gw, Q)` with the queries; `(S, gh, gw, Q)` of such a row.
        words: The words.
        backbone: The model.
        row: The method, with all its numbers.
        attention: `Parts.attention`, `(N, N)`; `None` for rows without.
    """

    features: Tensor
    cosines: Tensor
    words: Words
    backbone: Backbone
    row: Method
    attention: Tensor | None
    _encoder: Encoder
    _image: Encoded
    _index: int

    @cached_property
    def pixels(self) -> Tensor:
        """The window as the encoder sees it, `(3, h, w)`, normalised."""
        return self._image.plan.cut(self._image.prepared, start=self._index, stop=self._index + 1)[0]

    @property
    def plan(self) -> Plan:
        """How the window lies on its patches, as if it were alone."""
        return feedback.one_window(self._image.plan)

    @property
    def first_look(self) -> PamrGrid:
        """The cosines over the window's own pixels, refined by these."""
        y, x = self._image.plan.y, self._image.plan.x
        top, left = y.starts[self._index // len(x.starts)], x.starts[self._index % len(x.starts)]
        pixels = self._image.prepared[:, top : top + y.window, left : left + x.window].to(self.cosines.device)
        maps = self.cosines.permute(2, 0, 1)
        return PamrGrid(
            maps,
            self.plan,
            (y.window, x.window),
            guide=pixels,
            steps=feedback.STEPS,
            dilations=feedback.DILATIONS,
        )

    def look(self, y: slice, x: slice) -> Parts:
        """What the row makes of some of the window's pixels alone, whole patches; features have unit length."""
        return self._encoder.look(self.pixels[:, y, x], self.row)

    def again(self, bias: Tensor, scale: float) -> Tensor:
        """Features `(gh, gw, E)` of a second pass, with a bias `(N, N)` between patches and a factor on the logits."""
        return self._encoder.again(self._image, self._index, self.row, Feedback(bias, scale))

    @property
    def upsampling(self) -> tuple[Tensor, Tensor]:
        """How cells become pixels of the label map where the window is the whole image, `(H, gh)` and `(W, gw)`."""
        plan, (height, width) = straight(self._image), self._image.size
        return plan.y.matrix(height).to(self.features), plan.x.matrix(width).to(self.features)


Stage = Callable[[Window], Tensor]
"""Answers `(gh, gw, Q)`: what takes the cosines' place."""
STAGES: dict[str, Stage] = {"cliper": cliper.cliper, "sfr": feedback.sfr}
KEPT = {"cliper", "sfr"}
"""Stages that read what the trunk made of a window."""
WHOLE_IMAGE = {"cliper"}
"""Stages whose one window is the image, and whose maps go straight to its size, past the resized image's."""


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
    if row.refine != "none" and words.presence.makes_maps:
        raise UsageError(f"refine={row.refine} is for logits, and presence={words.presence} makes maps: leave one out")
    found = _unrefined(encoder, images, row, words)
    pairs = zip(found, images, strict=True)
    return [refine(grid, row, guide=image.prepared, text=words.text) for grid, image in pairs]


def _unrefined(encoder: Encoder, images: Sequence[Encoded], row: Method, words: Words) -> list[LogitGrid]:
    if row.stitched != "none":
        check_window_rules(row, words)
        return [_from_stitched(encoder, image, row, words) for image in images]
    plans = [straight(image) if row.window in WHOLE_IMAGE else image.plan for image in images]
    found = [
        LogitGrid.empty(words.values, plan=plan, size=image.size, device=words.text.device)
        for plan, image in zip(plans, images, strict=True)
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
    is_filtered, settled = words.presence.looks_at_windows, fitted(encoder.backbone, row)
    for image in images if row.window in KEPT else ():
        if image.plan.count > 1 and row.window in WHOLE_IMAGE:
            raise UsageError(
                f"{row.spelling} sees the whole image at once, not {image.plan.count} windows: use crop_size=0 "
                "(--crop-size 0)"
            )
        encoder.add_features(image, [row], early=is_filtered)
    for index, number, features, early in encoder.features(images, row, early=is_filtered):
        maps, made = features @ words.text.T, None
        attention = images[index].attention(row)
        own = None if attention is None else attention[number]
        seen = Window(features, maps, words, encoder.backbone, settled, own, encoder, images[index], number)
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


def straight(image: Encoded) -> Plan:
    """One window whose cells are stretched over the label map at once, instead of over the resized image first."""
    sides = zip((image.plan.y, image.plan.x), image.size, strict=True)
    y, x = (Axis(length, length, (0,), axis.encoded, "drop", 0, axis.cells) for axis, length in sides)
    return Plan(y, x)


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
