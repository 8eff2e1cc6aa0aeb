"""What the speed cases run on: a ViT-B/16 of random weights, photographs, and queries that share out an image fairly.

Belongs here: the model, its inputs and what a run keeps of them. Does not: the cases (`speed_cases.py`), memory,
profile and floor (`speed_parts.py`).

Random weights make one label win everywhere, which would make pruning and equality look free. So the queries are patch
features of other pictures, each picture's mean removed, and the model's head centres every window's features the same
way; of several thousand such features those are taken that win most pixels. A query is an index: the "text tower" of
this model reads it and looks the feature up.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clearclip
from clearclip import Segmenter
from clearclip.backbones.base import TextEncoder
from clearclip.encode.images import normalize, resize
from clearclip.files.kinds import IMAGE_SUFFIXES
from clearclip.protocol import CLIP_MEAN, CLIP_STD, Protocol
from clearclip.scenes import make_scene
from clearclip.segmenter import BACKGROUND

Run = Callable[[], object]
Pixels = npt.NDArray[np.uint8]
SIZE = (480, 640)
WINDOW = 448
OTHERS = 16
POOL = 1_000


def photographs(
    count: int, *, folder: Path | None = None, size: tuple[int, int] = SIZE, first: int = 0
) -> list[Pixels]:
    """Pictures of one size: made scenes, or the files of a folder, cropped to the ratio and resized.

    Args:
        count: How many.
        folder: Where photographs are; `None` for made scenes.
        size: `(height, width)`.
        first: How many of the sequence to leave out.

    Returns:
        `(H, W, 3)` uint8 each.
    """
    if folder is None:
        return [make_scene(index, size=size).image for index in range(first, first + count)]
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in IMAGE_SUFFIXES]
    pictures = []
    for index in range(first, first + count):
        image = clearclip.load_image(files[index % len(files)])
        height = min(image.shape[0], image.shape[1] * size[0] // size[1])
        width = min(image.shape[1], height * size[1] // size[0])
        pictures.append(resize(image[:height, :width], size))
    return pictures


def make_model(*, layers: int = 12, seed: int = 0) -> nn.Module:
    """open_clip's CLIP in the shape of ViT-B/16 with random weights.

    Args:
        layers: Blocks of each tower.
        seed: Of the weights.

    Returns:
        The model, in float32.
    """
    torch.manual_seed(seed)
    model = open_clip.CLIP(
        512,
        {"image_size": 224, "layers": layers, "width": 768, "patch_size": 16},
        {"layers": layers, "width": 512, "heads": 8},
        quick_gelu=False,
    )
    return model.eval()


def bare(model: nn.Module, *, layers: int) -> nn.Module:
    """The library's own vision tower for 448×448 windows, on the same weights: the yardstick.

    Args:
        model: What `make_model` returned.
        layers: As there.

    Returns:
        open_clip's `visual`; all tensors but the position table are the model's own.
    """
    with torch.device("meta"):
        tower = open_clip.CLIP(
            512, {"image_size": WINDOW, "layers": layers, "width": 768, "patch_size": 16}, {"layers": 1}
        ).visual
    state = dict(model.visual.state_dict())
    backbone = clearclip.view(model)
    state["positional_embedding"] = backbone.positions((WINDOW // 16, WINDOW // 16), "offset").detach()
    tower.load_state_dict(state, assign=True)
    return tower.eval().requires_grad_(False)


def windows_of(segmenter: Segmenter, image: Pixels) -> Tensor:
    """The windows of an image as the encoder sees them, `(count, 3, h, w)`."""
    return segmenter.encoder.prepare(image).windows


def labels(count: int, *, first: int = 0) -> list[str]:
    """Words that `segmenter_of` reads: indices into its table."""
    return [str(index) for index in range(first, first + count)]


def segmenter_of(
    model: nn.Module,
    table: Tensor,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    protocol: str | Protocol = "native",
) -> Segmenter:
    """A segmenter with centred features whose words are rows of a table.

    Args:
        model: What `make_model` returned; it is moved in place.
        table: `(Q, E)`, unit length.
        device: As `clearclip.Segmenter`.
        dtype: As there.
        protocol: As there.

    Returns:
        The segmenter.
    """
    backbone = clearclip.view(model)
    head = backbone.head
    backbone.head = lambda tokens: _centred(head(tokens))
    backbone.text = TextEncoder(
        tokenize=lambda texts: [[0 if text == BACKGROUND else int(text)] for text in texts],
        encode=lambda ids, mask: table.to(ids.device)[ids[:, 0]],
        context_length=1,
        pad_id=0,
        modules=(),
    )
    return Segmenter(
        backbone, device=device, dtype=dtype, protocol=protocol, templates="{}", cache=False, show_progress=False
    )


@torch.no_grad()
def find_queries(model: nn.Module, image: Pixels, *, others: Sequence[Pixels]) -> Tensor:
    """Queries that share an image out: centred patch features of other pictures, those first that win most pixels.

    Args:
        model: What `make_model` returned.
        image: The picture to share out.
        others: The pictures to take features from.

    Returns:
        `(POOL, E)`, unit length.
    """
    cut = [resize(picture[:, : picture.shape[0]], (WINDOW, WINDOW)) for picture in others]
    batch = torch.stack([normalize(picture, mean=CLIP_MEAN, std=CLIP_STD) for picture in cut])
    backbone = clearclip.view(model)
    features = torch.cat([_centred(clearclip.dense_features(backbone, part).flatten(1, 2)) for part in batch.split(2)])
    candidates = F.normalize(features.flatten(0, 1), dim=-1)
    label_map = segmenter_of(model, candidates)(image, labels(len(candidates))).label_map
    wins = torch.bincount(torch.from_numpy(label_map).flatten(), minlength=len(candidates))
    return candidates[wins.argsort(descending=True, stable=True)[:POOL]].contiguous()


def _centred(features: Tensor) -> Tensor:
    return features - features.mean(dim=-2, keepdim=True)


def share_that_wins(label_map: npt.NDArray[np.int32], queries: int) -> float:
    """Which part of the queries wins at least one pixel, 0–1."""
    return len(np.unique(label_map)) / queries


@dataclass(frozen=True)
class Row:
    """One line of the table; `winning` is the share of the queries that win a pixel."""

    case: str
    goal: str
    measured: str
    spread: str = ""
    remark: str = ""
    winning: float | None = None


@dataclass
class Setting:
    """What a run was asked for, and what its cases share: made when the first of them needs it."""

    layers: int
    repeats: int
    quick: bool
    folder: Path | None
    clock: Callable[[], float]

    @cached_property
    def model(self) -> nn.Module:
        return make_model(layers=self.layers)

    @cached_property
    def image(self) -> Pixels:
        return photographs(1, folder=self.folder)[0]

    @cached_property
    def table(self) -> Tensor:
        others = photographs(OTHERS, folder=self.folder, first=100)
        return find_queries(self.model, self.image, others=others)

    @cached_property
    def segmenter(self) -> Segmenter:
        return segmenter_of(self.model, self.table)

    @cached_property
    def bare(self) -> Run:
        tower = bare(self.model, layers=self.layers)
        windows = windows_of(self.segmenter, self.image)
        return lambda: tower(windows)

    def alternate(self, yardstick: Run, *ours: Run) -> list[list[float]]:
        """Ratios of each of `ours` to the yardstick, one a round, after a first round that does not count."""
        ratios: list[list[float]] = [[] for _ in ours]
        for turn in range(self.repeats + 1):
            base, *others = (seconds(run, self.clock) for run in (yardstick, *ours))
            for kept, value in zip(ratios, others, strict=True):
                kept += [value / base] if turn else []
        return ratios


def seconds(run: Run, clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def times(ratios: Sequence[float]) -> tuple[str, str]:
    """Median and spread."""
    return f"{statistics.median(ratios):.2f} ×", f"{min(ratios):.2f}–{max(ratios):.2f}"
