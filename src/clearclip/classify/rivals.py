"""Labels that win by a hair: for each the one that comes second, on the grid's cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clearclip.backbones.devices import inference
from clearclip.classify.grid import LogitGrid
from clearclip.classify.words import Words

MARGIN = 0.1
LEAST_SHARE = 0.01
MOSTLY = 0.5
ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Rival:
    """How surely one label won what it won.

    Attributes:
        share: Of all cells that the label won, 0–1.
        rival: The label that came second in most of these.
        close: In which part of these the lead was below the margin, whoever came second.
    """

    label: str
    share: float
    rival: str
    close: float


@inference
def rivals(grid: LogitGrid, words: Words, *, margin: float = MARGIN) -> list[Rival]:
    """For each label that won cells: its strongest rival, and how often it won by less than a margin in probability.

    A label's probability is the best of its words'. Cells that the threshold gives to the background are not won.
    """
    owners = torch.tensor(words.vocabulary.query_to_class, device=grid.cosines.device)
    count = len(words.vocabulary.labels)
    competing = range(len(owners)) if words.competing is None else words.competing
    owners = owners[list(competing)]
    if len(owners.unique()) < 2:
        return []
    limit = words.threshold if words.threshold is not None and words.vocabulary.background is not None else 0.0
    seen = []
    for rows in grid.cosines.permute(1, 2, 0).split(ROWS_AT_ONCE):
        probabilities = (rows.flatten(0, 1) * words.logit_scale).softmax(dim=-1)
        best = probabilities.new_zeros(len(probabilities), count)
        own = probabilities[:, list(competing)]
        best.scatter_reduce_(1, owners.expand_as(own), own, "amax")
        (first, second), (winner, rival) = (part.unbind(dim=1) for part in best.topk(2, dim=1))
        won = first >= limit
        seen.append(torch.stack([winner, rival, first - second < margin], dim=1)[won])
    cells, pixels = torch.cat(seen), grid.cosines[0].numel()
    found = []
    for index in cells[:, 0].unique().tolist():
        own = cells[cells[:, 0] == index]
        names = words.vocabulary.names
        second_best = names[int(own[:, 1].bincount().argmax())]
        found.append(Rival(names[index], len(own) / pixels, second_best, float(own[:, 2].float().mean())))
    return found


def by_a_hair(found: Sequence[Rival]) -> list[Rival]:
    """Those with at least `LEAST_SHARE` of the cells that won most of theirs by less than the margin.

    >>> [one.rival for one in by_a_hair([Rival("boat", 0.2, "ship", 0.9), Rival("sky", 0.5, "sea", 0.1)])]
    ['ship']
    """
    return [one for one in found if one.share >= LEAST_SHARE and one.close >= MOSTLY]
