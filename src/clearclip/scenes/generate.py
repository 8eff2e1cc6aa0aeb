"""From a split and an index to a picture with ground truth: seeds, the scene value, what of it is visible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .canvas import Object
from .captions import caption
from .compose import compose
from .layouts import LAYOUTS

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_WORLD = 20240807  # the day of the ClearCLIP camera-ready; changing it changes every picture

VISIBLE_SHARE = 0.006
"""The least part of a picture, or of a crop of one, that a thing must cover to be named in its caption."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A generated picture: image (H, W, 3) and maps (H, W), all uint8.

    The label map is of `CLASSES`, the instance map of `objects` and the part map of `PARTS`: there 0 is what has no
    part's name, i + 1 part i. Objects are listed back to front; `time` is "day", "dusk" or "night".
    """

    image: NDArray[np.uint8]
    label_map: NDArray[np.uint8]
    instance_map: NDArray[np.uint8]
    part_map: NDArray[np.uint8]
    objects: tuple[Object, ...]
    captions: tuple[str, ...]
    time: str
    layout: str
    split: Split
    index: int


def visible_phrases(
    instance_map: NDArray[np.uint8], phrases: tuple[str, ...], *, share: float = VISIBLE_SHARE
) -> list[str]:
    """Phrases of what covers at least `share` of a (crop of an) instance map, each once, largest first; "" is none."""
    counts = np.bincount(instance_map.ravel(), minlength=len(phrases))
    totals: dict[str, int] = {}
    for phrase, count in zip(phrases, counts.tolist(), strict=True):
        totals[phrase] = totals.get(phrase, 0) + count
    least = share * instance_map.size
    found = sorted((-total, phrase) for phrase, total in totals.items() if phrase and total >= max(least, 1))
    return [phrase for _, phrase in found]


def make_scene(
    index: int,
    *,
    split: Split = "test",
    size: tuple[int, int] = (256, 320),
    layout: str | None = None,
    captions: int = 3,
) -> Scene:
    """Generate one picture; the same arguments give the same pixels. `ValueError` if one is out of range.

    Each split has its own stream of seeds; `train` lacks `HELD_OUT`. `size` is (height, width), at least 8 each;
    `layout` a name of `LAYOUTS` or "portrait" (one large thing), by default drawn at random.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    if layout is not None and layout != "portrait" and layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; there are {', '.join([*LAYOUTS, 'portrait'])}")
    if index < 0 or min(size) < 8:
        raise ValueError(f"index must be 0 or more and both sides 8 pixels or more; got index {index}, size {size}")
    rng = np.random.default_rng(np.random.SeedSequence((_WORLD, SPLITS.index(split), index)))
    canvas, chosen, time = compose(size, rng, layout=layout, hold_out=split == "train")
    image, label_map, instance_map, part_map = canvas.finish(rng)
    objects = tuple(canvas.objects)
    phrases = visible_phrases(instance_map, tuple(thing.phrase for thing in objects))
    texts = tuple(caption(phrases, rng, time=time) for _ in range(captions))
    return Scene(image, label_map, instance_map, part_map, objects, texts, time, chosen, split, index)
