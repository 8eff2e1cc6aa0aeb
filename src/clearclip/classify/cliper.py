"""CLIPer's scores: the features of every block against the words, spread by the attention, and its rule for labels.

From the mathematics of CLIPer's CLIP half (Sun et al., 2025), without its Stable Diffusion step: the whole image is
one window, beside which it may score smaller ones. Rescaling, stretching and background are affine for each word, and
upsampling leaves constants alone, so all of it is done on the grid and the best map wins as everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip.encode.windows import window_starts
from clearclip.errors import UsageError

if TYPE_CHECKING:
    from clearclip.classify.maps import Window

STRIDE = 112
"""Pixels between the authors' windows; smaller ones lie side by side."""
SQUARED = (3 - 5**0.5) / 2
"""With bkg=0 the authors' background is (1 − best)²: as much as the best up to here (and again from 2.6 on)."""


def word_scores(features: Tensor, words: Tensor, *, foreground: int, logit_scale: float) -> Tensor:
    """Probabilities of the first words in each stream (2.4): `(S, foreground, gh, gw)`.

    Features are `(S, gh, gw, E)`, words `(Q, E)`, both of unit length. One more word competes, the foreground's mean.
    """
    cosines = features @ with_mean(words, foreground).T
    return (logit_scale * cosines).softmax(dim=-1)[..., :foreground].permute(0, 3, 1, 2)


def with_mean(words: Tensor, foreground: int) -> Tensor:
    """The words `(Q, E)` and the mean of the first of them, unit length."""
    return torch.cat([words, F.normalize(words[:foreground].mean(dim=0, keepdim=True), dim=-1)])


def windowed_logits(window: Window, words: Tensor, *, side: int) -> Tensor:
    """Cosines with words `(Q, E)` in windows of so many cells, spread by these windows' attention (2.5).

    Both are averaged over the windows of the picture that hold a patch, or a pair of patches. `(S, gh, gw, Q)`.
    """
    (gh, gw), patch = window.features.shape[1:3], window.backbone.patch_size
    cells, step = torch.arange(gh * gw, device=words.device).view(gh, gw), max(1, min(STRIDE // patch, side))
    total = torch.zeros(len(window.features), gh * gw, len(words), device=words.device)
    count = torch.zeros(gh * gw, 1, device=words.device)
    attention, pairs = (torch.zeros(gh * gw, gh * gw, device=words.device) for _ in range(2))
    for top in window_starts(gh, side, step):
        for left in window_starts(gw, side, step):
            own = cells[top : top + side, left : left + side]
            height, width = own.shape
            part = window.look(*(slice(a * patch, (a + n) * patch) for a, n in ((top, height), (left, width))))
            assert part.attention is not None  # `streams=each` gives it
            place = own.flatten()
            total[:, place] += (part.features[0] @ words.T).flatten(1, 2)
            count[place] += 1
            attention[place[:, None], place] += part.attention[0]
            pairs[place[:, None], place] += 1
    attention = attention / (pairs + 1e-5)
    attention = attention / attention.sum(dim=1, keepdim=True)
    spread: Tensor = (attention.T @ (total / count)).unflatten(1, (gh, gw))
    return spread


def fused_maps(scores: Tensor, attention: Tensor, *, threshold: float, stream: int, fuse: bool) -> Tensor:
    """One stream's scores spread by the attention, plus the mean of all (2.6): `(F, gh, gw)` from `(S, F, gh, gw)`.

    Scores below the threshold's share of a word's largest do not spread, and are left out of the mean too. Attention
    is `(N, N)`.
    """
    chosen = scores[stream]
    chosen = chosen.masked_fill(chosen < threshold * chosen.amax(dim=(1, 2), keepdim=True), 0)
    spread = (chosen.flatten(1) @ attention).view_as(chosen)
    if not fuse:
        return spread
    others = scores.sum(dim=0) - scores[stream] + chosen
    return spread + others / len(scores)


def final_maps(maps: Tensor, to_y: Tensor, to_x: Tensor, *, stretch: bool) -> tuple[Tensor, Tensor]:
    """Maps `(F, gh, gw)` whose upsampled ones are CLIPer's (2.7), and each word's largest score, `(F,)`.

    `to_y` `(H, gh)` and `to_x` `(W, gw)` upsample; a word at a time, in bounded memory.
    """
    scores = maps.amax(dim=(1, 2))
    limits = torch.stack([torch.stack((to_y @ one @ to_x.T).aminmax()) for one in maps])
    low, high = limits.T
    factor = scores / (high + 1e-5)
    offset = torch.zeros_like(low)
    if stretch:
        span = (high - low) * factor + 1e-6
        offset, factor = low * factor / span, factor / span
    return maps * factor[:, None, None] - offset[:, None, None], scores


def cliper(window: Window) -> Tensor:
    """The stage `window=cliper`: maps of the words; background is a constant that they must reach (2.4, 2.6, 2.7)."""
    row, vocabulary = window.row, window.words.vocabulary
    number, background = row.number, vocabulary.background_index
    if window.words.threshold is not None or window.words.has_rules:
        raise UsageError(
            f"{row.spelling} has a rule of its own for the background and for what competes: list the background's "
            "words among the labels, give no threshold, presence or area, and change bkg and score in the brackets"
        )
    own = [owner != background for owner in vocabulary.query_to_class]
    order = sorted(range(len(own)), key=lambda query: not own[query])  # foreground first, else as given
    foreground = sum(own)
    if not foreground:
        raise UsageError(f"{row.spelling} needs a label beside the background")
    assert window.attention is not None  # `streams=each` gives it
    scores = word_scores(
        window.features, window.words.text[order], foreground=foreground, logit_scale=window.words.logit_scale
    )
    if number("crop"):
        words = with_mean(window.words.text[order], foreground)
        logits = windowed_logits(window, words, side=_cells(number("crop"), window)) * window.words.logit_scale
        scores = (scores + logits.softmax(dim=-1)[..., :foreground].permute(0, 3, 1, 2)) / 2
    seg = fused_maps(
        scores,
        window.attention,
        threshold=number("attention_thr"),
        stream=int(number("select_layer")),
        fuse=number("fuse") == 1,
    )
    maps, largest = final_maps(seg, *window.upsampling, stretch=number("stretch") == 1)
    if foreground < len(own):
        maps = maps * (largest > number("score"))[:, None, None]
    found = maps.new_full((len(own), *maps.shape[1:]), number("bkg") or SQUARED)
    found[order[:foreground]] = maps
    return found.permute(1, 2, 0)


def _cells(crop: float, window: Window) -> int:
    patch = window.backbone.patch_size
    if crop % patch:
        raise UsageError(f"crop={crop:g} of {window.row.spelling} is no multiple of {patch}, the model's patch size")
    return int(crop) // patch
