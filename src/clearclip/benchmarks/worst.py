"""A sheet of a run's worst and best images: photograph, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from clearclip.benchmarks.evaluation import Evaluation, Run, predict
from clearclip.benchmarks.readers import Dataset, Sample
from clearclip.files.drawing import BACKGROUND, INK, draw_overlay, stack
from clearclip.files.lettering import write
from clearclip.vocabulary import Vocabulary

if TYPE_CHECKING:
    from clearclip.segmenter import Segmenter

TILE = 300
GAP = 12
TEXT = 14


def sheets(
    evaluation: Evaluation, segmenter: Segmenter, dataset: Dataset, *, run: Run, count: int
) -> dict[str, Image.Image]:
    """For each method its worst images on the left and its best on the right, by the image's own mIoU.

    count of each, or each image once where there are fewer. They go through the model once more, a small part of a run.
    """
    items = run.select(dataset.items)
    chosen = {method: _extremes(values, count) for method, values in evaluation.image_scores.items()}
    wanted = sorted({index for worst, best in chosen.values() for index in (*worst, *best)})
    thresholds = {method: config.threshold for method, config in evaluation.config.items()}
    rows: dict[str, dict[int, Image.Image]] = {method: {} for method in chosen}
    for index in wanted:
        sample = items[index].read(value_range=segmenter.value_range)
        label_maps = predict(sample.image, segmenter, dataset, thresholds=thresholds, truth=sample.truth)
        for method, (worst, best) in chosen.items():
            if index in worst or index in best:
                score = float(evaluation.image_scores[method][index])
                caption = f"{items[index].id}   mIoU {100 * score:.1f}"
                rows[method][index] = _row(sample, label_maps[method], dataset.vocabulary, caption=caption)
    return {method: _sheet(rows[method], *chosen[method], method=method) for method in chosen}


def _extremes(values: npt.NDArray[np.float32], count: int) -> tuple[list[int], list[int]]:
    order = [int(index) for index in np.argsort(values, kind="stable") if not np.isnan(values[index])]
    best = order[len(order) // 2 :][::-1]
    return order[: len(order) // 2][:count], best[:count]


def _row(sample: Sample, prediction: npt.NDArray[np.integer], vocabulary: Vocabulary, *, caption: str) -> Image.Image:
    height, width = sample.truth.shape
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = np.asarray(Image.fromarray(sample.image).resize(size))
    panels = [Image.fromarray(image)]
    for label_map in (sample.truth, prediction.astype(np.uint8)):
        small = np.asarray(Image.fromarray(label_map).resize(size, Image.Resampling.NEAREST))
        panels.append(draw_overlay(image, small, vocabulary.palette, names=vocabulary.names, opacity=0.75))
    row = Image.new("RGB", (3 * TILE + 4 * GAP, max(panel.height for panel in panels) + GAP), BACKGROUND)
    for place, panel in enumerate(panels):
        row.paste(panel, (GAP + place * (TILE + GAP), 0))
    return stack([_text(caption, row.width), row])


def _text(text: str, width: int, *, size: int = TEXT) -> Image.Image:
    strip = Image.new("RGB", (width, size + GAP), BACKGROUND)
    write(ImageDraw.Draw(strip), (GAP, GAP // 3), text, size=size, fill=INK)
    return strip


def _sheet(rows: Mapping[int, Image.Image], worst: Sequence[int], best: Sequence[int], *, method: str) -> Image.Image:
    blocks = []
    for title, chosen in (("worst", worst), ("best", best)):
        heading = _text(f"{method}: {title}   (image | truth | prediction)", 3 * TILE + 4 * GAP, size=TEXT + 4)
        blocks.append(stack([heading, *(rows[index] for index in chosen)]))
    sheet = Image.new("RGB", (sum(block.width for block in blocks), max(block.height for block in blocks)), BACKGROUND)
    sheet.paste(blocks[0], (0, 0))
    sheet.paste(blocks[1], (blocks[0].width, 0))
    return sheet
