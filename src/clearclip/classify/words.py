"""Words with their embeddings and threshold: grids of cosines → labels, scores, rankings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clearclip.backbones.devices import inference
from clearclip.classify.grid import LogitGrid
from clearclip.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Words:
    """The labels of a run, embedded: what `Segmenter.prepare` returns, and a call takes instead of labels.

    Attributes:
        vocabulary: The labels, with the background that the threshold needs.
        text: `(Q, E)` embeddings of the queries, unit length.
        threshold: Pixels whose best probability is below become background; `None`: the words alone decide.
        logit_scale: Factor on the cosines before the softmax over queries.
        templates: The prompts that the queries were put into.
        model: Fingerprint of the model that embedded them.
    """

    vocabulary: Vocabulary
    text: Tensor
    threshold: float | None
    logit_scale: float
    templates: tuple[str, ...]
    model: str

    @inference
    def label(self, grid: LogitGrid, *, scores: bool = False) -> tuple[npt.NDArray[np.int32], Tensor | None]:
        """Each pixel's label, or the background below the threshold (protocol, steps 7 and 8).

        Returns `(H, W)` int32 indices into the labels, and `(H, W)` float32 best probabilities if they are asked for or
        were needed.
        """
        background = self.vocabulary.background_index
        limited = self.threshold is not None and background is not None
        winners, best = grid.best(logit_scale=self.logit_scale, scores=scores or limited)
        owners = torch.tensor(self.vocabulary.query_to_class, device=winners.device, dtype=torch.int32)
        label_map = owners[winners]
        if limited and best is not None:
            label_map = label_map.masked_fill_(best < self.threshold, background)  # type: ignore[arg-type, operator]
        return np.asarray(label_map.cpu().numpy(), dtype=np.int32), best

    def scores(self, grid: LogitGrid) -> Tensor:
        """`(H, W)` float32, each pixel's best probability among all queries."""
        _, best = grid.best(logit_scale=self.logit_scale)
        assert best is not None  # it was asked for
        return best

    def probabilities(self, grid: LogitGrid, labels: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """For each label in turn `(H, W)` float32, the best probability of its queries among all, 0–1."""
        normalizer = grid.normalizer(logit_scale=self.logit_scale)
        for label in labels:
            queries = [query for query, owner in enumerate(self.vocabulary.query_to_class) if owner == label]
            probability = grid.probability(queries, logit_scale=self.logit_scale, normalizer=normalizer)
            yield np.asarray(probability.cpu().numpy(), dtype=np.float32)

    def ranking(self, grid: LogitGrid, y: int, x: int) -> list[tuple[str, float]]:
        """All labels at a pixel with the best probability of their queries, the likeliest first."""
        best = dict.fromkeys(self.vocabulary.names, 0.0)
        probabilities = grid.ranking(y, x, logit_scale=self.logit_scale).tolist()
        for owner, probability in zip(self.vocabulary.query_to_class, probabilities, strict=True):
            name = self.vocabulary.names[owner]
            best[name] = max(best[name], probability)
        return sorted(best.items(), key=lambda item: -item[1])
