"""Captions: sentences that name some or all of what a picture shows, in random order and varying form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FRAMES: tuple[str, ...] = (
    "{}",
    "{}.",
    "a photo of {}.",
    "a picture of {}.",
    "a cartoon of {}.",
    "a drawing of {}.",
    "a painting of {}.",
    "an image of {}",
    "art of {}.",
    "a scene with {}.",
    "there is {}.",
    "here is {}.",
    "i see {}.",
    "we can see {}.",
    "look at {}!",
    "{} in a picture.",
    "{} in the scene.",
    "a good photo of {}.",
    "a bad photo of {}.",
    "a photo of the {}.",
    "a small picture of {}.",
    "a large photo of {}.",
    "a close-up photo of {}.",
    "a cropped photo of {}.",
    "a bright photo of {}.",
    "a blurry photo of {}.",
    "a low resolution photo of {}.",
    "a rendition of {}.",
    "a sketch of {}.",
    "a doodle of {}.",
    "a toy {}.",
    "{} in a video game.",
    "itap of {}.",
)
_TIMES: dict[str, tuple[str, ...]] = {
    "day": ("by day", "during the day", "on a bright day"),
    "dusk": ("at dusk", "at sunset", "in the evening"),
    "night": ("at night", "in the dark", "on a dark night"),
}
_UNCOUNTED = frozenset(
    {"sky", "grass", "sand", "water", "snow", "dirt", "soil", "earth", "mud", "ground", "leaves", "petals", "trousers"}
)
_VOWELS = "aeiou"


def noun_phrase(phrase: str, rng: np.random.Generator) -> str:
    """Put an article, or none, before "red car" or "grass"."""
    draw = rng.random()
    if draw < 0.25:
        return phrase
    if draw < 0.4:
        return f"the {phrase}"
    if phrase in _UNCOUNTED:
        return f"some {phrase}" if draw < 0.55 else phrase
    return f"an {phrase}" if phrase[0] in _VOWELS else f"a {phrase}"


def caption(phrases: Sequence[str], rng: np.random.Generator, *, time: str | None = None) -> str:
    """Write one caption of at least one of the phrases; the time of day is now and then mentioned."""
    if not phrases:
        raise ValueError("a caption needs at least one thing to name; got none")
    everything = rng.random() < 0.5
    count = len(phrases) if everything else int(rng.integers(1, len(phrases) + 1))
    order = rng.permutation(len(phrases))[:count]
    words = [noun_phrase(phrases[position], rng) for position in order]
    if len(words) == 1:
        listed = words[0]
    elif rng.random() < 0.3:
        listed = " and ".join(words) if len(words) < 4 else ", ".join(words)
    else:
        listed = f"{', '.join(words[:-1])} and {words[-1]}"
    text = _FRAMES[rng.integers(len(_FRAMES))].format(listed)
    if time is not None and rng.random() < 0.15:
        ending = _TIMES[time][rng.integers(3)]
        text = f"{text.rstrip('.!')} {ending}" + ("." if text.endswith((".", "!")) else "")
    return text


def vocabulary_text() -> list[str]:
    """Every form of words that captions use, for making a tokenizer."""
    return [frame.format("") for frame in _FRAMES] + [ending for endings in _TIMES.values() for ending in endings]
