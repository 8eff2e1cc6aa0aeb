"""The gallery: generated scenes as files, with the labels that are in them, and vocabularies to look through."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from clearclip.benchmarks.rows import vocabulary_of
from clearclip.files.label_maps import save_image
from clearclip.scenes import CLASSES, make_scene
from clearclip.vocabulary import Label

SCENES = (17, 7, 9, 3, 18, 26, 23, 29)  # of the first 40 test scenes: varied, and the embedded model reads them best
LEAST_SHARE = 0.01
VOCABULARIES = {
    "Generated scenes, 30 things": "scenes",
    "Pascal VOC, 20 objects": "voc20",
    "Cityscapes, 19 things of streets": "cityscapes",
    "COCO Objects, 80 things": "coco_object",
    "ADE20K, 150 things and materials": "ade20k",
    "COCO-Stuff, 171 things and materials": "coco_stuff",
}


@dataclass(frozen=True)
class SceneFile:
    """A generated scene as a PNG, and the labels of what is in it, largest first."""

    path: Path
    labels: tuple[Label, ...]


def write_scenes(folder: Path, *, size: tuple[int, int] = (384, 480)) -> list[SceneFile]:
    """Make the gallery in an existing folder; `size` is (height, width)."""
    made = []
    for index in SCENES:
        scene = make_scene(index, size=size)
        shares = np.bincount(scene.label_map.ravel(), minlength=len(CLASSES)) / scene.label_map.size
        present = [int(label) for label in np.argsort(-shares, kind="stable") if shares[label] >= LEAST_SHARE]
        path = folder / f"scene-{index}.png"
        save_image(Image.fromarray(scene.image), path)
        made.append(SceneFile(path, tuple(Label(CLASSES[label]) for label in present)))
    return made


@cache
def vocabulary_words(name: str) -> tuple[str, ...]:
    """The words of a ready-made vocabulary (a key of `VOCABULARIES`), without its background."""
    if VOCABULARIES[name] == "scenes":
        return tuple(CLASSES)
    vocabulary = vocabulary_of(VOCABULARIES[name])
    return tuple(label.text for label in vocabulary.labels if label.name != vocabulary.background)
