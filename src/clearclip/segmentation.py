"""The result of segmenting one image: one value that every drawer and writer accepts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from clearclip.classify.grid import LogitGrid
from clearclip.files.drawing import draw_overlay
from clearclip.files.label_maps import save_label_map
from clearclip.vocabulary import Vocabulary


@dataclass(frozen=True)
class Segmentation:
    """A label for every pixel, with how sure it is.

    Attributes:
        label_map: `(H, W)` int32, indices into `labels`.
        vocabulary: The labels, their words and colours.
        image: The image, `(H, W, 3)` uint8.
        info: How it was made: model, method, protocol, versions.
    """

    label_map: npt.NDArray[np.int32]
    vocabulary: Vocabulary
    image: npt.NDArray[np.uint8]
    info: Mapping[str, str] = field(default_factory=dict)
    _grid: LogitGrid | None = field(default=None, repr=False)
    _logit_scale: float = field(default=50.0, repr=False)
    _scores: Tensor | None = field(default=None, repr=False)

    @cached_property
    def scores(self) -> npt.NDArray[np.float32]:
        """`(H, W)` float32, the best probability of each pixel among all queries, 0–1; computed when asked for.

        Where a threshold turned a pixel into background it is still the best query's.
        """
        scores = self._scores
        if scores is None:
            _, scores = self._require_grid().best(logit_scale=self._logit_scale)
        if scores is None:
            raise AssertionError("scores were asked for")
        return np.asarray(scores.cpu().numpy(), dtype=np.float32)

    @property
    def has_scores(self) -> bool:
        """Whether it knows how sure it is; a label map from elsewhere does not."""
        return self._scores is not None or self._grid is not None

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels' names; a pixel's value is an index into them."""
        return self.vocabulary.names

    @property
    def palette(self) -> npt.NDArray[np.uint8]:
        """Colours of the labels, `(n, 3)` uint8."""
        return self.vocabulary.palette

    def mask(self, label: str) -> npt.NDArray[np.bool_]:
        """Where a label won.

        Args:
            label: Its name.

        Returns:
            `(H, W)` bool.

        Raises:
            UsageError: No label has that name.
        """
        return np.equal(self.label_map, self.vocabulary.index(label))

    def probabilities(self, label: str) -> npt.NDArray[np.float32]:
        """Probability of a label at every pixel, the best of its words; computed when asked for.

        Args:
            label: Its name.

        Returns:
            `(H, W)` float32, 0–1; zeros for a background without words of its own.

        Raises:
            UsageError: No label has that name.
        """
        queries = self._queries(self.vocabulary.index(label))
        probability = self._require_grid().probability(queries, logit_scale=self._logit_scale)
        return np.asarray(probability.cpu().numpy(), dtype=np.float32)

    def probability_maps(self) -> Iterator[npt.NDArray[np.float32]]:
        """As `probabilities`, of every label in turn: one is in memory at a time, and what they share is computed once.

        Yields:
            `(H, W)` float32, 0–1, in the labels' order.
        """
        grid, scale = self._require_grid(), self._logit_scale
        normalizer = grid.normalizer(logit_scale=scale)
        for index in range(len(self.labels)):
            probability = grid.probability(self._queries(index), logit_scale=scale, normalizer=normalizer)
            yield np.asarray(probability.cpu().numpy(), dtype=np.float32)

    def _queries(self, index: int) -> list[int]:
        return [query for query, owner in enumerate(self.vocabulary.query_to_class) if owner == index]

    def ranking(self, y: int, x: int) -> list[tuple[str, float]]:
        """All labels at one pixel, the likeliest first.

        Args:
            y: Row.
            x: Column.

        Returns:
            Names and probabilities, the best of each label's words.

        Raises:
            IndexError: The pixel is outside the image.
        """
        if not (0 <= y < self.label_map.shape[0] and 0 <= x < self.label_map.shape[1]):
            raise IndexError(f"pixel ({y}, {x}) is outside the image of {self.label_map.shape}")
        best = dict.fromkeys(self.labels, 0.0)
        probabilities = self._require_grid().ranking(y, x, logit_scale=self._logit_scale).tolist()
        for owner, probability in zip(self.vocabulary.query_to_class, probabilities, strict=True):
            name = self.labels[owner]
            best[name] = max(best[name], probability)
        return sorted(best.items(), key=lambda item: -item[1])

    def _require_grid(self) -> LogitGrid:
        if self._grid is None:
            raise AttributeError("this segmentation was made without its logits: segment the image again")
        return self._grid

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """The image with every label's colour laid over it.

        Args:
            opacity: Of the colours, 0–1.
            legend: Whether a strip below names the labels that occur, largest first, with their share of the area.

        Returns:
            An RGB picture, higher than the image where there is a legend.
        """
        return draw_overlay(
            self.image, self.label_map, self.palette, names=self.labels if legend else None, opacity=opacity
        )

    def to_detections(self, *, things: Sequence[str] = (), min_area: int = 1) -> Any:
        """The result as roboflow's supervision has it, for its annotators, trackers and metrics.

        Args:
            things: Labels whose connected regions are objects of their own; every other label is one detection.
            min_area: Regions of fewer pixels are left out.

        Returns:
            `supervision.Detections` with masks, boxes, the labels' indices as `class_id`, their names as
            `data["class_name"]`, mean scores as `confidence`, how it was made as `metadata`. The masks are full-size,
            a byte for each region and pixel.

        Raises:
            UsageError: A thing is none of the labels, or supervision or OpenCV is not installed.
        """
        from clearclip.formats.objects import to_detections

        return to_detections(self, things=things, min_area=min_area)

    def to_fiftyone(self, *, things: Sequence[str] | None = None, min_area: int = 1) -> Any:
        """The result as a label of FiftyOne's samples.

        Args:
            things: `None` gives one label map; a list, also an empty one, gives objects as `to_detections` does.
            min_area: Objects of fewer pixels are left out.

        Returns:
            `fiftyone.Segmentation`, whose pixels are labels' indices plus 1, as FiftyOne hides 0: its `mask_targets`
            are `{index + 1: name for index, name in enumerate(result.labels)}`. With `things`: `fiftyone.Detections`.

        Raises:
            UsageError: A thing is none of the labels, or FiftyOne or OpenCV is not installed.
        """
        from clearclip.formats.objects import to_fiftyone

        return to_fiftyone(self, things=things, min_area=min_area)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the label map as a PNG whose pixel values are label indices; it appears only when complete.

        Args:
            path: Where to; the suffix is `.png`.

        Raises:
            ValueError: The suffix is another one.
            OSError: The file cannot be written.
        """
        target = Path(path)
        if target.suffix.lower() != ".png":
            raise ValueError(
                f"{target}: a label map is saved as .png, which loses nothing; use overlay().save for a picture"
            )
        save_label_map(self.label_map, target, palette=self.palette, info=self.info)
