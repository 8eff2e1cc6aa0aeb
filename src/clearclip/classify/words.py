"""Words with their embeddings and threshold: grids of cosines → labels, scores, rankings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clearclip.backbones.devices import inference
from clearclip.classify import freecp
from clearclip.classify.grid import LogitGrid
from clearclip.classify.presence import Verdict, best_in_cells, by_label, by_windows, small, weak
from clearclip.protocol import Presence
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
        presence: Which labels compete.
        area: As `Protocol.area`.
        crop_text: `(Q, E)`, other embeddings for FreeCP's look at crops; `None`: `text`.
        verdicts: Of each label, once an image has settled which compete; empty before, or where all do.
    """

    vocabulary: Vocabulary
    text: Tensor
    threshold: float | None
    logit_scale: float
    templates: tuple[str, ...]
    model: str
    presence: Presence = field(default_factory=Presence)
    area: float = 0.0
    crop_text: Tensor | None = None
    verdicts: tuple[Verdict, ...] = ()

    @inference
    def settle(self, grid: LogitGrid) -> Words:
        """The words for one image: with a verdict for each label, if a rule says which of them compete."""
        if self.verdicts or not self.has_rules:
            return self
        cells = grid.cosines.permute(1, 2, 0)
        if self.presence.makes_maps:
            best = cells.amax(dim=(0, 1)).tolist()
        else:
            best = by_label(best_in_cells(cells, logit_scale=self.logit_scale), self.vocabulary)
        if self.presence.looks_at_windows:
            settled = replace(self, verdicts=by_windows(grid.filtered, best, self.vocabulary))
        else:
            settled = self.settled(best)
        if not self.area:
            return settled
        label_map, _ = replace(settled, threshold=None).label(grid)
        return settled.without_small(np.bincount(label_map.ravel(), minlength=len(self.vocabulary.labels)))

    @property
    def has_rules(self) -> bool:
        """Whether labels may be left out."""
        return self.presence.rule != "none" or self.area > 0

    def settled(self, best: Sequence[float]) -> Words:
        """With the presence rule's verdicts, by each label's best probability in a cell."""
        if self.presence.rule == "weak":
            return replace(self, verdicts=weak(best, self.vocabulary, self.presence))
        return replace(self, verdicts=tuple(Verdict(1.0, value) for value in best))

    def without_small(self, counts: npt.NDArray[np.int64]) -> Words:
        """With the area rule's verdicts, by how many pixels each label wins."""
        verdicts = list(self.verdicts)
        for label in small(counts, self.vocabulary, self.area):
            if verdicts[label].competed:
                share = counts[label] / max(counts.sum(), 1)
                reason = f"it wins {share:.2%} of the image, too little for area={self.area:g}"
                verdicts[label] = replace(verdicts[label], competed=0.0, reason=reason)
        return replace(self, verdicts=tuple(verdicts))

    @property
    def values(self) -> int:
        """How many maps a grid holds: one for each query, or for each label where a rule makes these."""
        return len(self.vocabulary.labels) if self.presence.makes_maps else len(self.text)

    @property
    def competing(self) -> list[int] | None:
        """The queries of the labels that compete; `None`: all."""
        if all(verdict.competed for verdict in self.verdicts):
            return None
        owners = enumerate(self.vocabulary.query_to_class)
        return [query for query, owner in owners if self.verdicts[owner].competed]

    @inference
    def label(self, grid: LogitGrid, *, scores: bool = False) -> tuple[npt.NDArray[np.int32], Tensor | None]:
        """Each pixel's label, or the background below the threshold (protocol, steps 7 and 8).

        Returns `(H, W)` int32 indices into the labels, and `(H, W)` float32 best probabilities if they are asked for or
        were needed.
        """
        background, among = self.vocabulary.background_index, self.competing
        if self.presence.makes_maps:
            labels, values = freecp.label(grid, background=background)
            return np.asarray(labels.int().cpu().numpy(), dtype=np.int32), values
        if among is not None and not among:  # a background without words is all that is left
            empty = np.full(grid.size, background, dtype=np.int32)
            return empty, torch.zeros(grid.size) if scores else None
        limited = self.threshold is not None and background is not None
        winners, best = grid.best(logit_scale=self.logit_scale, scores=scores or limited, among=among)
        owners = torch.tensor(self.vocabulary.query_to_class, device=winners.device, dtype=torch.int32)
        label_map = owners[winners]
        if limited and best is not None:
            label_map = label_map.masked_fill_(best < self.threshold, background)  # type: ignore[arg-type, operator]
        return np.asarray(label_map.cpu().numpy(), dtype=np.int32), best

    def scores(self, grid: LogitGrid) -> Tensor:
        """`(H, W)` float32, each pixel's best probability among all queries, of those that compete."""
        _, best = self.label(grid, scores=True)
        assert best is not None  # it was asked for
        return best

    def probabilities(self, grid: LogitGrid, labels: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """For each label in turn `(H, W)` float32, the best probability of its queries among all, 0–1.

        0 where a label did not compete. Of FreeCP it is the label's map, of the background what the others leave.
        """
        if self.presence.makes_maps:
            _, values = freecp.label(grid, background=None)
            for label in labels:
                claimed = 1 - values if label == self.vocabulary.background_index else grid.only([label]).logits()[0]
                yield np.asarray(claimed.cpu().numpy(), dtype=np.float32)
            return
        normalizer, among = grid.normalizer(logit_scale=self.logit_scale), self.competing
        owners = self.vocabulary.query_to_class
        for label in labels:
            own = [query for query, owner in enumerate(owners) if owner == label and (among is None or query in among)]
            probability = grid.probability(own, logit_scale=self.logit_scale, normalizer=normalizer)
            yield np.asarray(probability.cpu().numpy(), dtype=np.float32)

    def ranking(self, grid: LogitGrid, y: int, x: int) -> list[tuple[str, float]]:
        """All labels at a pixel with the best probability of their queries, the likeliest first."""
        best = dict.fromkeys(self.vocabulary.names, 0.0)
        if self.presence.makes_maps:
            found = grid.values_at(y, x).tolist()
            if (background := self.vocabulary.background_index) is not None:
                found[background] = 1 - max(found)
            return sorted(zip(self.vocabulary.names, found, strict=True), key=lambda item: -item[1])
        probabilities, among = grid.ranking(y, x, logit_scale=self.logit_scale).tolist(), self.competing
        owners = self.vocabulary.query_to_class
        for query in range(len(owners)) if among is None else among:
            name = self.vocabulary.names[owners[query]]
            best[name] = max(best[name], probabilities[query])
        return sorted(best.items(), key=lambda item: -item[1])
