"""Can a model tell these labels apart? Their words compared with one another, before any image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clearclip.backbones.devices import inference
from clearclip.scenes import CLASSES
from clearclip.segmenter import Segmenter
from clearclip.vocabulary import Vocabulary

SAME, CLOSE = 0.25, 0.7
"""Below these parts of the usual distance two labels are the same to a model, or close.

Measured on `tiny` (`tests/test_labels.py`): synonyms lie at 0.01–0.07, its thirty classes at 0.55–1.30. Of the pixels
of two classes 20 % look more like the other one where the pair lies below 0.7 (car and bus), 3 % elsewhere.
"""


@dataclass(frozen=True)
class Pair:
    """Two labels, and the two of their words that are nearest to one another.

    Attributes:
        apart: Distance of these words' embeddings, as part of the usual one between two everyday words.
    """

    first: str
    second: str
    first_word: str
    second_word: str
    cosine: float
    apart: float

    @property
    def verdict(self) -> str:
        """`same`, `close` or `apart`."""
        return "same" if self.apart < SAME else "close" if self.apart < CLOSE else "apart"


@dataclass(frozen=True)
class Stray:
    """A word that is nearer to another label's word than to any other of its own label."""

    label: str
    word: str
    other: str
    other_word: str


@dataclass(frozen=True)
class Comparison:
    """What a model makes of a vocabulary's words.

    Attributes:
        pairs: The nearest pairs of labels, nearest first.
        counts: How many of all pairs are `same` or `close`.
        strays: Words that seem to stand with the wrong label.
    """

    pairs: list[Pair]
    counts: dict[str, int]
    strays: list[Stray]


@inference
def compare_labels(segmenter: Segmenter, labels: Any, *, top: int = 10) -> Comparison:
    """Compare all labels with one another by their text embeddings, and keep the nearest pairs.

    >>> compare_labels(segmenter, ["boat", "ship=sailboat", "sky"]).pairs[0].verdict
    'same'

    Cosines differ in level from model to model, so the distance of two embeddings is told as a part of the median one
    between thirty everyday words (`scenes.CLASSES`) under the same prompts. Differences of logits are proportional to
    it.
    """
    vocabulary = Vocabulary.parse(labels)
    names, queries = vocabulary.names, vocabulary.queries
    text = segmenter.embed(vocabulary).cpu().double()
    usual = float(torch.pdist(segmenter.embed(list(CLASSES)).cpu().double()).median())
    owners = torch.tensor(vocabulary.query_to_class)
    counts, pairs, strays = dict.fromkeys(("same", "close"), 0), list[Pair](), list[Stray]()
    for label in owners.unique().tolist():
        own = (owners == label).nonzero()[:, 0]
        cosines = (text[own] @ text.T).clamp_(max=1)
        if len(own) > 1:
            strays += _strays(cosines, own, label, vocabulary, owners)
        by_word, mine = cosines.max(dim=0)  # of each query, and which of the label's words is nearest to it
        later = (owners > label).nonzero()[:, 0]
        if not len(later):
            continue
        best = torch.full((len(names),), -1.0, dtype=text.dtype).scatter_reduce(
            0, owners[later], by_word[later], "amax"
        )
        apart = (2 - 2 * best).sqrt() / usual
        asked = owners[later].unique()
        counts["same"] += int((apart[asked] < SAME).sum())
        counts["close"] += int(((apart[asked] >= SAME) & (apart[asked] < CLOSE)).sum())
        for other in asked[apart[asked].argsort()[:top]].tolist():
            word = later[owners[later] == other]
            word = word[by_word[word].argmax()]
            first, second = queries[int(own[mine[word]])], queries[int(word)]
            pairs.append(Pair(names[label], names[other], first, second, float(best[other]), float(apart[other])))
        pairs = sorted(pairs, key=lambda pair: pair.apart)[:top]
    return Comparison(pairs, counts, strays)


def _strays(cosines: Tensor, own: Tensor, label: int, vocabulary: Vocabulary, owners: Tensor) -> Iterator[Stray]:
    """Of one label's words, from their cosines `(words, Q)` with all queries."""
    among = cosines[:, own].fill_diagonal_(-1).amax(dim=1)
    nearest, which = cosines.masked_fill(owners == label, -1).max(dim=1)
    for word in (nearest > among).nonzero()[:, 0].tolist():
        other = int(which[word])
        names, queries = vocabulary.names, vocabulary.queries
        yield Stray(names[label], queries[int(own[word])], names[int(owners[other])], queries[other])
