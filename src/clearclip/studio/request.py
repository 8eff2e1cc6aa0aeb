"""What a visitor asks for, checked: labels, method, threshold, prompts, and the limits they must keep.

Belongs here: reading requests and saved states, their limits. Does not: models, pictures, Gradio, torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clearclip.errors import UsageError
from clearclip.methods import Method, parse_method
from clearclip.vocabulary import Label, Vocabulary

BACKGROUND = "background"
RESIDUALS = ("as the method", "keep", "drop", "beta")


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask of the machine.

    Attributes:
        upload_bytes: Size of an image's file.
        pixels: Of an image, before it is decoded.
        labels: In one request; at most 254, so that a label map with its background fits 8 bits.
        synonyms: Of one label.
        words: Of a vocabulary file.
        methods: Side by side.
        cache_bytes: Memory for images, features and results, of all visitors together.
        models: Models in memory at once.
        queue: Requests that wait; more are refused.
        concurrency: Requests that are worked on at once.
    """

    upload_bytes: int = 20_000_000
    pixels: int = 25_000_000
    labels: int = 100
    synonyms: int = 30
    words: int = 2000
    methods: int = 12
    cache_bytes: int = 1_000_000_000
    models: int = 2
    queue: int = 64
    concurrency: int = 2

    @property
    def example_bytes(self) -> int:
        """Size of any other uploaded file: an example holds an image in base64, a third larger, and its settings."""
        return 2 * self.upload_bytes

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UsageError(f"{name}={value}: at least 1 is needed")
        if self.labels > 254:
            raise UsageError(f"labels={self.labels}: at most 254, so that a label map fits 8 bits")


@dataclass(frozen=True)
class Request:
    """How an image is to be segmented.

    Attributes:
        labels: At least one.
        model: One of the allowed models' names.
        method: A row, as the visitor wrote it.
        threshold: Pixels whose best probability is below become background; `None` for no background.
        background: The background's name, where there is a threshold.
        templates: Prompts with `{}`; `None` for the paper's 80.
        device: One of the allowed devices.
    """

    labels: tuple[Label, ...]
    model: str
    method: Method
    threshold: float | None = None
    background: str = BACKGROUND
    templates: tuple[str, ...] | None = None
    device: str = "auto"

    @property
    def vocabulary(self) -> Vocabulary:
        """The labels, with a background where there is a threshold."""
        return Vocabulary(self.labels).with_background(self.background if self.threshold is not None else None)


def read_request(
    labels: Any,
    *,
    limits: Limits,
    model: str,
    method: str = "clearclip",
    threshold: float | None = None,
    background: str | None = None,
    templates: Iterable[str] | str | None = None,
    device: str = "auto",
) -> Request:
    """Check what came from a browser or a client of the API.

    Args:
        labels: A list of texts as on the command line (`"person=man|woman"`, `"sky @#87ceeb"`) or of
            `{"name", "synonyms", "color"}`; entries without a name are left out.
        limits: What is allowed.
        model: Its name.
        method: Its spelling.
        threshold: 0–1, or `None`.
        background: The background's name; default `"background"`.
        templates: Prompts with `{}`; nothing for the paper's 80.
        device: Its name.

    Returns:
        The request.

    Raises:
        UsageError: Something is unknown, missing or over a limit.
    """
    parsed = read_labels(labels, limits=limits)
    if threshold is not None and not (_is_number(threshold) and 0 <= threshold <= 1):
        raise UsageError(f"threshold={threshold!r}: a probability from 0 to 1 is needed")
    listed = [templates] if isinstance(templates, str) else list(templates or ())
    prompts = tuple(text for text in (_text(part, "a prompt", 300) for part in listed) if text)
    if len(prompts) > 100:
        raise UsageError(f"{len(prompts)} prompts: at most 100 are allowed")
    request = Request(
        parsed,
        model=_text(model, "a model's name", 300),
        method=parse_method(_text(method, "a method", 300)),
        threshold=None if threshold is None else float(threshold),
        background=_text(background or BACKGROUND, "the background's name", 200) or BACKGROUND,
        templates=prompts or None,
        device=_text(device, "a device", 40),
    )
    _ = request.vocabulary
    return request


def read_labels(labels: Any, *, limits: Limits) -> tuple[Label, ...]:
    """Check a list of labels.

    Args:
        labels: As `read_request`.
        limits: What is allowed.

    Returns:
        At least one label.

    Raises:
        UsageError: There is none, there are too many, or one cannot be used.
    """
    if not isinstance(labels, (list, tuple)):
        raise UsageError(f"labels are a {type(labels).__name__}: give a list, as in ['sky', 'person=man|woman']")
    if len(labels) > 10 * limits.labels:
        raise UsageError(f"{len(labels)} labels: at most {limits.labels} are allowed here")
    parsed = [label for label in map(_label, labels) if label is not None]
    if not parsed:
        raise UsageError("there is no label yet: write at least one thing to look for")
    if len(parsed) > limits.labels:
        raise UsageError(f"{len(parsed)} labels: at most {limits.labels} are allowed here")
    for label in parsed:
        if len(label.synonyms) > limits.synonyms:
            raise UsageError(f"label {label.name!r} has {len(label.synonyms)} synonyms: at most {limits.synonyms}")
    return Vocabulary(tuple(parsed)).labels


def _label(entry: Any) -> Label | None:
    if isinstance(entry, str):
        text = _text(entry, "a label", 2000)
        return Label.parse(text) if text else None
    if isinstance(entry, Mapping):
        name = _text(entry.get("name") or "", "a label", 200)
        if not name:
            return None
        synonyms = entry.get("synonyms") or ()
        words = re.split(r"[,|]", synonyms) if isinstance(synonyms, str) else list(synonyms)
        kept = tuple(word for word in (_text(word, "a synonym", 200) for word in words) if word)
        color = entry.get("color")
        return Label(name, kept, _color(color) if color else None)
    raise UsageError(f"label {entry!r} is a {type(entry).__name__}: a text is needed")


def _color(value: Any) -> tuple[int, int, int]:
    if not isinstance(value, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        raise UsageError(f"colour {value!r}: a # and six hexadecimal digits are needed, as in #87ceeb")
    return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)


def _text(value: Any, what: str, longest: int) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what} is a {type(value).__name__}: a text is needed")
    plain = " ".join(value.split())
    if len(plain) > longest:
        raise UsageError(f"{what} has {len(plain)} characters: at most {longest} are allowed")
    return plain


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def too_large(name: str, *, size: int, limit: int) -> str:
    """What is said of a file over its limit.

    Args:
        name: Of the file.
        size: Its bytes.
        limit: The bytes that it may have.

    Returns:
        A sentence.
    """
    return f"{name} has {size:,} bytes, more than the limit of {limit:,}: make it smaller"


def with_residual(method: str, residual: str, beta: float) -> str:
    """A method with another residual, as the page's two controls have it.

    Args:
        method: A spelling.
        residual: One of `RESIDUALS`.
        beta: Percent of the strongest channels to drop, for `"beta"`.

    Returns:
        The spelling.

    Raises:
        UsageError: The combination makes no sense.
    """
    row = parse_method(_text(method, "a method", 300))
    if residual == RESIDUALS[0]:
        return row.spelling
    if residual not in RESIDUALS:
        raise UsageError(f"residual {residual!r} is not known: one of {', '.join(RESIDUALS)}")
    if not _is_number(beta):
        raise UsageError(f"β={beta!r}: a percentage from 0 to 100 is needed")
    return replace(row, residual=f"beta:{beta:g}" if residual == "beta" else residual).spelling


def read_words(text: str, *, limits: Limits) -> tuple[str, ...]:
    """A vocabulary as a text: one label a line, or separated by commas where it is one line.

    Args:
        text: As a label file; `#` starts a comment.
        limits: What is allowed.

    Returns:
        Labels' texts, each once.

    Raises:
        UsageError: There is none, or there are too many.
    """
    lines = [re.sub(r"(^|\s)#.*$", "", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if len(lines) == 1:
        lines = [part.strip() for part in lines[0].split(",") if part.strip()]
    words = tuple({Label.parse(line).name: line for line in lines}.values())
    if not words:
        raise UsageError("the vocabulary is empty: write one word a line")
    if len(words) > limits.words:
        raise UsageError(f"the vocabulary has {len(words)} words: at most {limits.words} are allowed here")
    return words


def read_word_file(path: Path, *, limits: Limits) -> tuple[str, ...]:
    """A vocabulary from an uploaded file.

    Args:
        path: A UTF-8 text.
        limits: What is allowed.

    Returns:
        As `read_words`.

    Raises:
        UsageError: As `read_words`; also a file that is no text.
    """
    try:
        return read_words(path.read_text(encoding="utf-8-sig"), limits=limits)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name} is no UTF-8 text with one label a line ({error})") from error
