"""Score a model on a split of the scenes. `python -m tools.tiny.score --help`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clearclip.benchmarks.metrics import confusion, scores
from clearclip.decompose import fit_depth
from clearclip.encode.images import normalize
from clearclip.errors import ClearclipError
from clearclip.files.progress import track
from clearclip.methods import ablation_grid
from clearclip.scenes.classes import CLASSES, COLOURED, HELD_OUT
from clearclip.scenes.generate import Scene, Split, make_scene
from clearclip.segmenter import Segmenter, load

NAMED_METHODS = (
    "vanilla",
    "maskclip",
    "sclip",
    "gem",
    "clearclip",
    "maskclip+clearclip",
    "sclip+clearclip",
    "gem+clearclip",
)


def score_methods(
    segmenter: Segmenter, scenes: Iterable[Scene], methods: Sequence[str]
) -> dict[str, NDArray[np.int64]]:
    """Confusion matrices (30, 30) of all scenes by method, row = truth; the trunk runs once a picture."""
    totals = {method: np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64) for method in methods}
    for scene in scenes:
        encoded = segmenter.encode(scene.image, method=list(methods))
        results = segmenter.classify(encoded, list(CLASSES), method=list(methods))
        for method, result in zip(methods, results.values(), strict=True):
            totals[method] += confusion(scene.label_map, result.label_map, classes=len(CLASSES))
    return totals


@dataclass
class Composition:
    """How often a thing's own colour ranked first; `chance` is the mean of 1 / number of colours asked for."""

    right: int = 0
    asked: int = 0
    chance: float = 0.0

    def add(self, right: bool, choices: int) -> None:
        """Count one crop."""
        self.chance = (self.chance * self.asked + 1 / choices) / (self.asked + 1)
        self.right += right
        self.asked += 1

    @property
    def accuracy(self) -> float:
        """Share of right answers; `nan` where nothing was asked."""
        return self.right / self.asked if self.asked else float("nan")


@torch.no_grad()
def score_composition(segmenter: Segmenter, scenes: Iterable[Scene], *, least: int = 150) -> dict[str, Composition]:
    """Tell the colour of things by the image embedding of a crop around each.

    For every coloured thing of at least `least` pixels a square crop is compared with "a COLOUR THING" for all colours
    of that thing. Counts for "held out" pairs, which training never showed, and for "trained" ones.
    """
    names = {name: [f"{colour} {name}" for colour in colours] for name, colours in COLOURED.items()}
    texts = {name: segmenter.embed(phrases) for name, phrases in names.items()}
    counts = {"held out": Composition(), "trained": Composition()}
    backbone = segmenter.backbone
    model: Any = backbone.model
    for scene in scenes:
        sizes = np.bincount(scene.instance_map.ravel(), minlength=len(scene.objects))
        for thing in scene.objects:
            if thing.colour is None or sizes[thing.number] < least:
                continue
            crop = crop_around(scene, thing.number, side=backbone.native_size)
            image = normalize(crop, mean=backbone.mean, std=backbone.std).to(backbone.device, backbone.dtype)
            feature = model.encode_image(image[None])[0].float()
            best = int((texts[thing.name] @ feature).argmax())
            kind = "held out" if (thing.colour, thing.name) in HELD_OUT else "trained"
            colours = COLOURED[thing.name]
            counts[kind].add(colours[best] == thing.colour, len(colours))
    return counts


def crop_around(scene: Scene, number: int, *, side: int) -> NDArray[np.uint8]:
    """A square crop (side, side, 3) around one thing with a little of what is beside it."""
    rows, columns = np.nonzero(scene.instance_map == number)
    half = max(np.ptp(rows), np.ptp(columns)) * 0.55 + 4
    middle = (rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2
    height, width = scene.label_map.shape
    box = (
        max(middle[1] - half, 0),
        max(middle[0] - half, 0),
        min(middle[1] + half, width),
        min(middle[0] + half, height),
    )
    return np.asarray(Image.fromarray(scene.image).resize((side, side), Image.Resampling.BILINEAR, box=box))


def _percent(matrix: NDArray[np.int64]) -> float:
    return round(100 * scores(matrix).miou, 2)


def _tables(report: dict[str, Any]) -> list[Table]:
    named = Table("method", "mIoU", title=f"scenes, {report['split']}, {report['pictures']} pictures")
    for method, value in report["methods"].items():
        named.add_row(escape(method), f"{value:.1f}")
    tables = [named]
    if report["ablation"]:
        columns = [f"residual {row.residual}, FFN {'keep' if row.ffn else 'drop'}" for row in ablation_grid()[:4]]
        grid = Table("attention", *columns, title="ablation")
        values = list(report["ablation"].values())
        for start in range(0, len(values), 4):
            kind = "+".join(ablation_grid()[start].attention)
            grid.add_row(kind, *(f"{value:.1f}" for value in values[start : start + 4]))
        tables.append(grid)
    words = Table("pairs", "accuracy", "chance", "crops", title="colour of a thing, zero-shot")
    for kind, row in report["composition"].items():
        words.add_row(kind, f"{row['accuracy']:.1f}", f"{row['chance']:.1f}", str(row["crops"]))
    return [*tables, words]


def score(
    model: Annotated[str, typer.Option(help="As `clearclip segment --model`.")] = "tiny",
    split: Annotated[Split, typer.Option(help="train, val or test.")] = "test",
    pictures: Annotated[int, typer.Option(min=1, help="How many, from the split's first.")] = 500,
    ablation: Annotated[bool, typer.Option(help="Also the 24 cells attention × residual × FFN.")] = True,
    method: Annotated[list[str] | None, typer.Option(help="Instead of the paper's eight; repeat it.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default torch's own choice.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of the tables.")] = False,
) -> None:
    """Print mIoU by method, the ablation and the composition accuracy of a model on a split of the scenes."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        segmenter = load(model)
        blocks = len(segmenter.backbone.blocks)
        named = [row.spelling for row in [fit_depth(name, blocks=blocks) for name in method or NAMED_METHODS]]
    except ClearclipError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    cells = [row.spelling for row in ablation_grid()] if ablation else []
    scenes = [make_scene(index, split=split) for index in range(pictures)]
    totals = score_methods(segmenter, track(scenes, "Segmenting"), list(dict.fromkeys([*named, *cells])))
    composition = score_composition(segmenter, track(scenes, "Naming colours"))
    report = {
        "model": model,
        "split": split,
        "pictures": pictures,
        "settings": segmenter.describe(segmenter.method),
        "methods": {name: _percent(totals[name]) for name in named},
        "ablation": {name: _percent(totals[name]) for name in cells},
        "composition": {
            kind: {"accuracy": 100 * row.accuracy, "chance": 100 * row.chance, "crops": row.asked}
            for kind, row in composition.items()
        },
        "iou": {
            name: dict(zip(CLASSES, (100 * scores(totals[name]).iou).round(1).tolist(), strict=True)) for name in named
        },
    }
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    for table in _tables(report):
        Console().print(table)


if __name__ == "__main__":
    typer.run(score)
