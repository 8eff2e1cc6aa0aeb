"""The result of segmenting one image: one value that every drawer and writer accepts."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from clearclip.classify.grid import LogitGrid
from clearclip.classify.presence import Verdict
from clearclip.classify.rivals import Rival, by_a_hair, rivals
from clearclip.classify.words import Words
from clearclip.files.drawing import draw_overlay
from clearclip.files.label_maps import save_label_map
from clearclip.vocabulary import Vocabulary

SHOWN = 5
"""Labels in a result's short form."""
NOTEBOOK_PIXELS = 1000


@dataclass(frozen=True, repr=False)
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
    _words: Words | None = field(default=None, repr=False)
    _scores: Tensor | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        counts = np.bincount(self.label_map.ravel(), minlength=len(self.labels))
        largest = [index for index in np.argsort(-counts, kind="stable")[:SHOWN].tolist() if counts[index]]
        shown = [f"{self.labels[index]} {counts[index] / counts.sum():.0%}" for index in largest]
        more = ", …" if np.count_nonzero(counts) > len(shown) else ""
        return f"Segmentation({width} × {height} pixels, {len(self.labels)} labels: {', '.join(shown)}{more})"

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the overlay of every n-th pixel, at most `NOTEBOOK_PIXELS` a side, and its legend."""
        step, file = -(-max(self.label_map.shape) // NOTEBOOK_PIXELS), io.BytesIO()
        replace(self, image=self.image[::step, ::step], label_map=self.label_map[::step, ::step]).overlay().save(
            file, "PNG"
        )
        return file.getvalue()

    @cached_property
    def scores(self) -> npt.NDArray[np.float32]:
        """`(H, W)` float32, the best probability of each pixel among all queries, 0–1; computed when asked for.

        Where a threshold turned a pixel into background it is still the best query's.
        """
        if (scores := self._scores) is None:
            grid, words = self._kept()
            scores = words.scores(grid)
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
    def verdicts(self) -> dict[str, Verdict]:
        """Of each label whether it competed, and why not; empty where no rule left any out."""
        verdicts = self._words.verdicts if self._words is not None else ()
        return dict(zip(self.labels, verdicts, strict=False))

    @property
    def absent(self) -> dict[str, str]:
        """The labels that did not compete, each with the reason."""
        return {name: verdict.reason for name, verdict in self.verdicts.items() if not verdict.competed}

    def rivals(self) -> list[Rival]:
        """Labels that won most of their cells by a hair, each with the label that came second; see `labels check`."""
        if self._grid is None or self._words is None or self._words.presence.makes_maps:
            return []
        return by_a_hair(rivals(self._grid, self._words))

    @property
    def palette(self) -> npt.NDArray[np.uint8]:
        """Colours of the labels, `(n, 3)` uint8."""
        return self.vocabulary.palette

    def mask(self, label: str) -> npt.NDArray[np.bool_]:
        """Boolean mask `(H, W)` of the pixels labelled `label`; `UsageError` if there is no such label."""
        return np.equal(self.label_map, self.vocabulary.index(label))

    def probabilities(self, label: str) -> npt.NDArray[np.float32]:
        """Probability of a label at every pixel, `(H, W)` float32 from 0 to 1: the best of its words among all.

        Zeros for a background without words of its own; `UsageError` if there is no such label.
        """
        grid, words = self._kept()
        return next(words.probabilities(grid, [self.vocabulary.index(label)]))

    def probability_maps(self) -> Iterator[npt.NDArray[np.float32]]:
        """As `probabilities`, of every label in turn; one is in memory at a time, what they share is computed once."""
        grid, words = self._kept()
        return words.probabilities(grid, range(len(self.labels)))

    def ranking(self, y: int, x: int) -> list[tuple[str, float]]:
        """All labels at one pixel with the best probability of their words, the likeliest first.

        `IndexError` if the pixel is outside the image.
        """
        if not (0 <= y < self.label_map.shape[0] and 0 <= x < self.label_map.shape[1]):
            raise IndexError(f"pixel ({y}, {x}) is outside the image of {self.label_map.shape}")
        grid, words = self._kept()
        return words.ranking(grid, y, x)

    def _kept(self) -> tuple[LogitGrid, Words]:
        if self._grid is None or self._words is None:
            raise AttributeError("this segmentation was made without its logits: segment the image again")
        return self._grid, self._words

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """The image as an RGB picture with the labels' colours laid over it, 0 ≤ `opacity` ≤ 1.

        The legend is a strip below that names the labels that occur, largest first, with their share of the area.
        """
        return draw_overlay(
            self.image, self.label_map, self.palette, names=self.labels if legend else None, opacity=opacity
        )

    def to_detections(self, *, things: Sequence[str] = (), min_area: int = 1) -> Any:
        """The result as `supervision.Detections`, for its annotators, trackers and metrics.

        Each connected region of a label among `things` of at least `min_area` pixels is an object of its own; every
        other label is one detection. Masks are full-size, `class_id` is the label's index, `data["class_name"]` its
        name, `confidence` the mean score. `UsageError` if a thing is none of the labels, or a library is not installed.
        """
        from clearclip.formats.objects import to_detections

        return to_detections(self, things=things, min_area=min_area)

    def to_fiftyone(self, *, things: Sequence[str] | None = None, min_area: int = 1) -> Any:
        """The result as `fiftyone.Segmentation`, or with `things`, even none, as `fiftyone.Detections` of such objects.

        FiftyOne hides pixels of 0, so they are labels' indices plus 1: its `mask_targets` are
        `{index + 1: name for index, name in enumerate(result.labels)}`. Errors as in `to_detections`.
        """
        from clearclip.formats.objects import to_fiftyone

        return to_fiftyone(self, things=things, min_area=min_area)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the label map as a PNG of label indices; the file appears only when it is complete."""
        target = Path(path)
        if target.suffix.lower() != ".png":
            raise ValueError(
                f"{target}: a label map is saved as .png, which loses nothing; use overlay().save for a picture"
            )
        save_label_map(self.label_map, target, palette=self.palette, info=self.info)
