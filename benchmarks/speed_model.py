"""What the speed cases run on: a ViT-B/16 of random weights, photographs, and queries that share out an image fairly.

Belongs here: the model and its inputs. Does not: the cases and the table (`speed.py`).

Random weights make one label win everywhere, which would make pruning and equality look free. So the queries are patch
features of other pictures, each picture's mean removed, and the model's head centres every window's features the same
way. A query is an index: the "text tower" of this model reads it and looks the feature up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clearclip
from clearclip.backbones.base import Backbone, TextEncoder
from clearclip.images import IMAGE_SUFFIXES, normalize, resize
from clearclip.protocol import CLIP_MEAN, CLIP_STD
from clearclip.scenes import make_scene

Pixels = npt.NDArray[np.uint8]
SIZE = (480, 640)
WINDOW = 448
OTHERS = 6
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
        layers: Blocks of the vision tower.
        seed: Of the weights.

    Returns:
        The model, in float32.
    """
    torch.manual_seed(seed)
    model = open_clip.CLIP(
        512,
        {"image_size": 224, "layers": layers, "width": 768, "patch_size": 16},
        {"layers": 12, "width": 512, "heads": 8},
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


@dataclass
class Fair:
    """A backbone whose queries are known to share an image out.

    Attributes:
        backbone: The view, its head centred, its words indices into `table`.
        table: `(POOL, E)` the queries' features, centred and of unit length; the first ones win most.
    """

    backbone: Backbone
    table: Tensor

    def labels(self, count: int) -> list[str]:
        """The first `count` words."""
        return [str(index) for index in range(count)]


def fair(model: nn.Module, image: Pixels, *, folder: Path | None = None) -> Fair:
    """Centre a model's features and give it words.

    Args:
        model: What `make_model` returned.
        image: The picture that the queries must share out.
        folder: As `photographs`.

    Returns:
        The backbone with its queries.
    """
    backbone = clearclip.view(model)
    others = photographs(OTHERS, folder=folder, first=100)
    cut = [resize(picture[:, : picture.shape[0]], (WINDOW, WINDOW)) for picture in others]
    batch = torch.stack([normalize(picture, mean=CLIP_MEAN, std=CLIP_STD) for picture in cut])
    head = backbone.head
    backbone.head = lambda tokens: _centred(head(tokens))
    features = torch.cat(
        [clearclip.dense_features(backbone, part, method="clearclip").flatten(0, 2) for part in batch.split(2)]
    )
    table = F.normalize(features, dim=-1)
    own = normalize(resize(image[:, : image.shape[0]], (WINDOW, WINDOW)), mean=CLIP_MEAN, std=CLIP_STD)
    cells = F.normalize(clearclip.dense_features(backbone, own[None], method="clearclip").flatten(0, 2), dim=-1)
    shuffled = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]
    wins = torch.bincount((cells @ shuffled.T).argmax(dim=1), minlength=len(shuffled))
    chosen = shuffled[wins.argsort(descending=True, stable=True)[:POOL]]
    table = chosen.contiguous()
    backbone.text = TextEncoder(
        tokenize=lambda texts: [[int(text)] for text in texts],
        encode=lambda ids, mask: table[ids[:, 0]].to(ids.device),
        context_length=1,
        pad_id=0,
        modules=(),
    )
    return Fair(backbone, table)


def _centred(features: Tensor) -> Tensor:
    return features - features.mean(dim=-2, keepdim=True)


def share_that_wins(label_map: npt.NDArray[np.int32], queries: int) -> float:
    """Which part of the queries wins at least one pixel, 0–1."""
    return len(np.unique(label_map)) / queries
