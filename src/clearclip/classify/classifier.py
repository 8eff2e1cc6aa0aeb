"""From a segmenter to grids of cosines and back to labels: what tiles of an image and frames of a video share.

Belongs here: the steps of `Segmenter` that stop before the label map, because someone else still stitches (`large`) or
smooths (`video`). Does not: reading or writing, loops over tiles or frames.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clearclip.backbones.devices import inference
from clearclip.classify.grid import LogitGrid
from clearclip.decompose import MethodLike, dense_features
from clearclip.encode.encoding import logit_grids, plan_of, prepare_images, unit_features
from clearclip.encode.images import normalize
from clearclip.encode.windows import Plan
from clearclip.methods import Method, parse_method
from clearclip.protocol import CLIP_MEAN, CLIP_STD, Protocol
from clearclip.segmenter import Segmenter
from clearclip.vocabulary import Vocabulary


@dataclass(frozen=True)
class Classifier:
    """A segmenter with the words, the method and the threshold of one run.

    Attributes:
        segmenter: What encodes.
        vocabulary: The labels, with the background that the threshold needs.
        method: How features are made.
        threshold: Pixels whose best probability is below become background; `None`: words alone decide.
        text: `(Q, E)` embeddings of the queries, unit length.
    """

    segmenter: Segmenter
    vocabulary: Vocabulary
    method: Method
    threshold: float | None
    text: Tensor

    @classmethod
    def prepare(
        cls, segmenter: Segmenter, labels: Any, *, method: MethodLike | None = None, threshold: float | None = None
    ) -> Classifier:
        """Embed the words and settle what is left open, as a call of the segmenter does.

        Args:
            segmenter: What encodes.
            labels: As `Vocabulary.parse`.
            method: Instead of the segmenter's own.
            threshold: As in a call of the segmenter.

        Returns:
            The classifier.

        Raises:
            UsageError: The labels or the method cannot be used.
        """
        row = segmenter.method if method is None else parse_method(method)
        vocabulary, limit = segmenter.vocabulary(labels, threshold)
        return cls(segmenter, vocabulary, row, limit, segmenter.embed(vocabulary))

    @property
    def protocol(self) -> Protocol:
        """The segmenter's, in pixels."""
        return self.segmenter.protocol.in_pixels(self.segmenter.backbone.native_size)

    @property
    def mean_and_deviation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Of the pixels, as the protocol's normalisation says, in units of 0–1."""
        backbone = self.segmenter.backbone
        own = self.protocol.normalization == "model"
        return (backbone.mean, backbone.std) if own else (CLIP_MEAN, CLIP_STD)

    @property
    def info(self) -> dict[str, str]:
        """How results are made, for files that hold texts: model, method, protocol, versions, labels."""
        palette = self.vocabulary.palette.tolist()
        labels = [
            {"index": index, "name": label.name, "queries": list(label.queries), "color": palette[index]}
            for index, label in enumerate(self.vocabulary.labels)
        ]
        described = self.segmenter.describe(self.method, self.threshold)
        return {**described, "labels": json.dumps(labels, ensure_ascii=False)}

    def plan(self, size: tuple[int, int]) -> Plan:
        """The protocol's windows over an image of a size.

        Args:
            size: `(height, width)` of the resized image.

        Returns:
            The plan.
        """
        return plan_of(self.segmenter.backbone, size, self.protocol)

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Pixels as the encoder wants them.

        Args:
            pixels: `(H, W, 3)` uint8.

        Returns:
            `(3, H, W)` float32.
        """
        mean, std = self.mean_and_deviation
        return normalize(pixels, mean=mean, std=std)

    def features(self, windows: Tensor) -> Tensor:
        """Unit features of windows, all at once.

        Args:
            windows: `(count, 3, h, w)`, as `Plan.cut` gives them.

        Returns:
            `(count, gh, gw, E)` float32.
        """
        found = dense_features(self.segmenter.backbone, windows, method=self.method)
        return unit_features(self.segmenter.backbone, found)

    def grids(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[LogitGrid]:
        """Cosines of whole images with the queries, by the segmenter's protocol; the images are encoded together.

        Args:
            images: `(H, W, 3)` uint8 each.

        Returns:
            One grid an image.
        """
        backbone = self.segmenter.backbone
        return logit_grids(backbone, prepare_images(backbone, images, self.protocol), self.method, self.text)

    @inference
    def label(self, grid: LogitGrid, *, scores: bool = False) -> tuple[npt.NDArray[np.int32], Tensor | None]:
        """Labels of a grid's pixels: the best query's, or the background below the threshold (protocol, 7 and 8).

        Args:
            grid: Cosines with the queries.
            scores: Whether the best probabilities are wanted too.

        Returns:
            `(H, W)` int32 indices into the labels, and `(H, W)` float32 probabilities or `None`.
        """
        background = self.vocabulary.background_index
        limited = self.threshold is not None and background is not None
        winners, best = grid.best(logit_scale=self.segmenter.protocol.logit_scale, scores=scores or limited)
        label_map = torch.tensor(self.vocabulary.query_to_class, device=winners.device, dtype=torch.int32)[winners]
        if limited and best is not None:
            label_map = label_map.masked_fill_(best < self.threshold, background)  # type: ignore[arg-type, operator]
        return np.asarray(label_map.cpu().numpy(), dtype=np.int32), best
