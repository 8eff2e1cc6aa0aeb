"""The main job on made scenes: segment them with the embedded model and show the methods side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from clearclip.benchmarks.metrics import confusion, scores
from clearclip.decompose import fit_depth
from clearclip.errors import UsageError
from clearclip.files.drawing import draw_legend, draw_overlay
from clearclip.files.label_maps import save_image
from clearclip.files.outputs import Outputs, hold
from clearclip.files.progress import track
from clearclip.methods import parse_methods
from clearclip.scenes.classes import CLASSES, PALETTE
from clearclip.scenes.generate import Scene, make_scene
from clearclip.segmenter import Segmenter, load

DEMO_METHODS = ("vanilla", "maskclip", "sclip", "gem", "clearclip")
COMPARISON_NAME = "comparison.png"
RECORD_NAME = "demo.json"
MOST_PICTURES = 500
_TITLES = {"vanilla": "CLIP", "maskclip": "MaskCLIP", "sclip": "SCLIP", "gem": "GEM", "clearclip": "ClearCLIP"}
_TILE = (256, 205)
_GAP = 8
_HEAD = 30
_OPACITY = 0.82


@dataclass(frozen=True)
class DemoReport:
    """mIoU in percent by method, and the files that were written, the side-by-side picture first."""

    miou: dict[str, float]
    files: tuple[Path, ...]


def run_demo(
    output: Path,
    *,
    model: str = "tiny",
    methods: Sequence[str] = DEMO_METHODS,
    pictures: int = 8,
    drawn: int = 4,
    device: str = "auto",
) -> DemoReport:
    """Make scenes, segment them by several methods, and write overlays and a side-by-side picture of the first `drawn`.

    Files of an earlier demo are replaced, others never. GEM runs over half of the blocks of a model with fewer than
    six. `UsageError` if a method is unknown, a number out of range, or the folder cannot be written.
    """
    if not 1 <= pictures <= MOST_PICTURES or drawn < 1:
        raise UsageError(
            f"pictures={pictures} and drawn={drawn}: both must be 1 or more, and at most {MOST_PICTURES} pictures"
        )
    parse_methods(methods)
    segmenter = load(model, device=device)
    spellings = [fit_depth(method, blocks=len(segmenter.backbone.blocks)).spelling for method in methods]
    stems = [f"scene-{index}" for index in range(pictures)]
    names = [COMPARISON_NAME, RECORD_NAME, *(f"{stem}.png" for stem in stems)]
    names += [_overlay_name(stem, kind) for stem in stems for kind in ("truth", *methods)]
    try:
        with hold(output) as outputs:
            outputs.check(names)
            scenes = [make_scene(index) for index in range(pictures)]
            label_maps = _segment(segmenter, scenes, spellings)
            miou = {name: _miou(scenes, [maps[place] for maps in label_maps]) for place, name in enumerate(spellings)}
            titles = [
                f"{_TITLES.get(method, name)}  {miou[name]:.1f}"
                for method, name in zip(methods, spellings, strict=True)
            ]
            sheet = draw_comparison(scenes[:drawn], label_maps[:drawn], titles=titles)
            files = [_write(sheet, outputs, COMPARISON_NAME)]
            for stem, scene, maps in zip(stems, scenes, label_maps, strict=True):
                files.append(_write(Image.fromarray(scene.image), outputs, f"{stem}.png"))
                named: dict[str, NDArray[Any]] = {"truth": scene.label_map, **dict(zip(methods, maps, strict=True))}
                for name, label_map in named.items():
                    overlay = draw_overlay(scene.image, label_map, PALETTE, names=CLASSES)
                    files.append(_write(overlay, outputs, _overlay_name(stem, name)))
            settings = segmenter.describe(segmenter.method)
            settings.pop("method")
            with outputs.write(RECORD_NAME) as partial:
                partial.write_text(json.dumps({"miou": miou, "settings": settings}, indent=2) + "\n", encoding="utf-8")
            files.append(output / RECORD_NAME)
            outputs.drop_rest("scene-")
    except OSError as error:
        raise UsageError(f"{output} cannot be written ({error.strerror or error}): choose another folder") from error
    return DemoReport(miou, tuple(files))


def _segment(segmenter: Segmenter, scenes: Sequence[Scene], methods: Sequence[str]) -> list[list[NDArray[np.int32]]]:
    """For each scene one label map a method; the trunk runs once a scene."""
    results = []
    for scene in track(scenes, "Segmenting scenes"):
        encoded = segmenter.encode(scene.image, method=list(methods))
        found = segmenter.classify(encoded, list(CLASSES), method=list(methods))
        results.append([result.label_map for result in found.values()])
    return results


def _miou(scenes: Sequence[Scene], label_maps: Sequence[NDArray[np.int32]]) -> float:
    matrices = [
        confusion(scene.label_map, label_map, classes=len(CLASSES))
        for scene, label_map in zip(scenes, label_maps, strict=True)
    ]
    return round(100 * scores(np.sum(matrices, axis=0)).miou, 1)


def draw_comparison(
    scenes: Sequence[Scene], label_maps: Sequence[Sequence[NDArray[np.int32]]], *, titles: Sequence[str]
) -> Image.Image:
    """One row a scene: image, truth, and every method under its title, with a legend below."""
    columns = ["image", "truth", *titles]
    width, height = _TILE
    sheet = Image.new("RGB", (len(columns) * (width + _GAP) + _GAP, _HEAD + len(scenes) * (height + _GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for column, title in enumerate(columns):
        middle = _GAP + column * (width + _GAP) + width // 2
        pen.text((middle, _HEAD // 2), title, fill=(20, 20, 20), font=font, anchor="mm")
    shown: set[int] = set()
    for row, (scene, maps) in enumerate(zip(scenes, label_maps, strict=True)):
        tiles = [Image.fromarray(scene.image)]
        labels: list[NDArray[Any]] = [scene.label_map, *maps]
        tiles += [draw_overlay(scene.image, label_map, PALETTE, opacity=_OPACITY) for label_map in labels]
        for column, tile in enumerate(tiles):
            place = (_GAP + column * (width + _GAP), _HEAD + row * (height + _GAP))
            sheet.paste(tile.resize(_TILE, Image.Resampling.LANCZOS), place)
        shown.update(*(np.flatnonzero(np.bincount(part.ravel())).tolist() for part in labels))
    entries = [
        (CLASSES[at], (red, green, blue)) for at, (red, green, blue) in enumerate(PALETTE.tolist()) if at in shown
    ]
    legend = draw_legend(entries, width=sheet.width, size=16)
    picture = Image.new("RGB", (sheet.width, sheet.height + legend.height), "white")
    picture.paste(sheet)
    picture.paste(legend, (0, sheet.height))
    return picture


def _write(picture: Image.Image, outputs: Outputs, name: str) -> Path:
    with outputs.write(name) as partial:
        save_image(picture, partial)
    return outputs.folder / name


def _overlay_name(stem: str, kind: str) -> str:
    """A method's spelling becomes a part of a file's name on every system."""
    plain = re.sub(r"[^\w+.=-]+", "-", kind).strip("-")
    return f"{stem}.{plain}.overlay.jpg"
