"""Which labels compete in an image, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clearclip.classify.freecp import Filtered
from clearclip.protocol import Presence
from clearclip.vocabulary import Vocabulary


@dataclass(frozen=True)
class Verdict:
    """Whether a label competed, and why not.

    Attributes:
        competed: In which share of the windows; 0 or 1 where the rule is one for the whole image.
        best: Its best probability in a cell of the grid, among all queries.
        reason: Why it did not compete, or competed although the rule was against it; empty otherwise.
    """

    competed: float
    best: float
    reason: str = ""


def best_in_cells(cosines: Tensor, *, logit_scale: float) -> Tensor:
    """`(Q,)`: each query's best probability among all in a cell, from cosines `(…, Q)`."""
    return (cosines.flatten(0, -2) * logit_scale).softmax(dim=-1).amax(dim=0)


def weak(best: Sequence[float], vocabulary: Vocabulary, rule: Presence) -> tuple[Verdict, ...]:
    """Labels whose best probability reaches the rule's P compete (RADSeg's denoising of prompts, on the grid's cells).

    The background and pinned labels always do; without a background one label must, the likeliest.
    """
    (least,) = rule.numbers
    verdicts = []
    for name, value in zip(vocabulary.names, best, strict=True):
        if value >= least or name == vocabulary.background:
            verdicts.append(Verdict(1.0, value))
        elif name in vocabulary.pinned:
            verdicts.append(Verdict(1.0, value, f"pinned; its best probability {value:.2g} is below {least:g}"))
        else:
            verdicts.append(Verdict(0.0, value, f"its best probability {value:.2g} is below {least:g}"))
    if not any(verdict.competed for verdict in verdicts):
        likeliest = int(np.argmax(best))
        reason = f"the likeliest, although its best probability {best[likeliest]:.2g} is below {least:g}"
        verdicts[likeliest] = Verdict(1.0, best[likeliest], reason)
    return tuple(verdicts)


def small(counts: npt.NDArray[np.int64], vocabulary: Vocabulary, share: float) -> list[int]:
    """Labels that win at most a share of what all but the background win, by how many pixels each wins.

    SCLIP's and SC-CLIP's area rule; without a background all labels count. Pinned labels stay, and so does the largest.
    """
    foreground = np.arange(len(counts)) != (-1 if vocabulary.background_index is None else vocabulary.background_index)
    limit = share * counts[foreground].sum()
    kept = {vocabulary.names.index(name) for name in vocabulary.pinned}
    if vocabulary.background_index is None:
        kept.add(int(counts.argmax()))
    return [label for label in np.flatnonzero(foreground & (counts <= limit)).tolist() if label not in kept]


def by_label(values: Tensor, vocabulary: Vocabulary) -> list[float]:
    """The best of each label's queries; 0 for a label without queries."""
    owners = torch.tensor(vocabulary.query_to_class, device=values.device)
    best = torch.zeros(len(vocabulary.labels), device=values.device)
    return best.scatter_reduce_(0, owners, values.float(), "amax").tolist()


def by_windows(filtered: Sequence[Filtered], best: Sequence[float], vocabulary: Vocabulary) -> tuple[Verdict, ...]:
    """In which share of the windows each label was kept, and why not in the others."""
    count = max(len(filtered), 1)
    kept = torch.stack([one.kept for one in filtered]).sum(dim=0).tolist() if filtered else [0] * len(best)
    redundant = torch.stack([one.redundant & ~one.kept for one in filtered]).sum(dim=0).tolist() if filtered else kept
    verdicts = []
    for index, (name, value) in enumerate(zip(vocabulary.names, best, strict=True)):
        if name == vocabulary.background:
            verdicts.append(Verdict(1.0, value))
            continue
        lost = count - kept[index] - redundant[index]
        why = [f"redundant in {redundant[index]}"] if redundant[index] else []
        why += [f"another label instead of it in {lost}"] if lost > 0 else []
        reason = "pinned" if name in vocabulary.pinned else f"of {count} windows {', '.join(why)}" if why else ""
        verdicts.append(Verdict(kept[index] / count, value, reason))
    return tuple(verdicts)
