"""What a visitor asks for, checked: labels, method, threshold, prompts, and their limits. No torch, no Gradio."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clearclip.errors import ImageError, UsageError
from clearclip.files.commas import split_items, unquoted
from clearclip.files.label_files import parse_label_file
from clearclip.files.reading import read_bytes, read_text
from clearclip.methods import Method, parse_method, parse_methods
from clearclip.protocol import Presence
from clearclip.vocabulary import Label, Vocabulary, labels_of

BACKGROUND = "background"
RESIDUALS = ("as the method", "keep", "drop", "beta")
TEMPLATES = 100
TEMPLATE_LETTERS = 300
METHOD_LETTERS = 300
JSON_PARTS = 20_000
JSON_DEPTH = 20


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask of the machine.

    At most 254 labels, so that a label map with its background fits 8 bits; `letters` of one word, `text` of all words
    of a request; `seconds` for reading its words; stored_bytes and cache_bytes are of all visitors together.
    """

    upload_bytes: int = 20_000_000
    stored_bytes: int = 2_000_000_000
    pixels: int = 25_000_000
    labels: int = 100
    synonyms: int = 30
    letters: int = 200
    words: int = 2000
    text: int = 100_000
    seconds: int = 300
    request_bytes: int = 500_000
    methods: int = 12
    cache_bytes: int = 1_000_000_000
    models: int = 2
    queue: int = 64
    concurrency: int = 2

    @property
    def example_bytes(self) -> int:
        """Size of an uploaded example: it holds an image in base64, a third larger, and its settings."""
        return 2 * self.upload_bytes

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UsageError(f"{name}={value}: at least 1 is needed")
        if self.labels > 254:
            raise UsageError(f"labels={self.labels}: at most 254, so that a label map fits 8 bits")
        if self.stored_bytes < 2 * self.example_bytes:
            raise UsageError(
                f"stored_bytes={self.stored_bytes:,} has no room for two uploads of {self.example_bytes:,}: raise "
                "--max-stored, or lower --max-upload"
            )


@dataclass(frozen=True)
class Request:
    """How an image is to be segmented; no `threshold` means no background, no `templates` the paper's 80."""

    labels: tuple[Label, ...]
    model: str
    method: Method
    threshold: float | None = None
    background: str = BACKGROUND
    templates: tuple[str, ...] | None = None
    device: str = "auto"
    presence: str = "none"

    @property
    def vocabulary(self) -> Vocabulary:
        """The labels, with a background where there is a threshold, and with words beside a label that stands alone."""
        alone = "auto" if len(self.labels) == 1 else None
        return Vocabulary(self.labels).with_background(self.background if self.threshold is not None else alone)


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
    presence: str = "none",
) -> Request:
    """Check what came from a browser or a client of the API; `UsageError` if something is unknown or over a limit.

    Labels are texts as on the command line (`"person=man|woman"`, `"sky @#87ceeb"`) or `{"name", "synonyms", "color"}`;
    those without a name are left out, and commas separate several, outside brackets and double quotes.
    """
    parsed = read_labels(labels, limits=limits)
    if threshold is not None and not (_is_number(threshold) and 0 <= threshold <= 1):
        raise UsageError(f"threshold={threshold!r:.100}: a probability from 0 to 1 is needed")
    listed = [templates] if isinstance(templates, str) else _list(templates or (), "prompts")
    if len(listed) > TEMPLATES:
        raise UsageError(f"{len(listed)} prompts: at most {TEMPLATES} are allowed")
    prompts = tuple(text for text in (_text(part, "a prompt", TEMPLATE_LETTERS) for part in listed) if text)
    request = Request(
        parsed,
        model=_text(model, "a model's name", METHOD_LETTERS),
        method=read_method(method),
        threshold=None if threshold is None else float(threshold),
        background=_text(background or BACKGROUND, "the background's name", limits.letters) or BACKGROUND,
        templates=prompts or None,
        device=_text(device, "a device", 40),
        presence=str(Presence.parse(_text(presence, "a rule of presence", 40))),
    )
    _ = request.vocabulary
    return request


def read_labels(labels: Any, *, limits: Limits) -> tuple[Label, ...]:
    """At least one label, as `read_request` takes them; `UsageError` otherwise."""
    listed = _list(labels, "labels")
    if len(listed) > 10 * limits.labels:  # of which most may be empty
        raise UsageError(f"{len(listed)} labels: at most {limits.labels} are allowed here")
    parsed = [label for entry in listed for label in _labels(entry, limits)]
    if not parsed:
        raise UsageError("there is no label yet: write at least one thing to look for")
    if len(parsed) > limits.labels:
        raise UsageError(f"{len(parsed)} labels: at most {limits.labels} are allowed here")
    _check_total(parsed, limits)
    return Vocabulary(tuple(parsed)).labels


def _labels(entry: Any, limits: Limits) -> list[Label]:
    if isinstance(entry, str):
        return [_label(text, limits) for text in split_items(_text(entry, "a label", limits.text))]
    if isinstance(entry, Mapping):
        name, *others = split_items(_text(entry.get("name") or "", "a label", limits.letters)) or [""]
        if not name:
            return []
        synonyms = entry.get("synonyms") or ()
        words = re.split(r"[,|]", synonyms) if isinstance(synonyms, str) else _list(synonyms, f"synonyms of {name!r}")
        _check_synonyms(len(words), name, limits)
        kept = tuple(word for word in (_text(word, "a synonym", limits.letters) for word in words) if word)
        color = entry.get("color")
        if others and kept:
            raise UsageError(
                f"{1 + len(others)} labels before the words of one, {kept[0]!r}: give each a line of its own"
            )
        first = Label(unquoted(name), kept, _color(color) if color else None)
        return [first, *(Label(unquoted(other)) for other in others)]
    raise UsageError(f"label {entry!r:.100} is a {type(entry).__name__}: a text is needed")


def _label(text: str, limits: Limits) -> Label:
    _check_synonyms(text.count("|") + 1, text, limits)
    label = Label.parse(text)
    for word in (label.name, *label.synonyms):
        _text(word, "a word", limits.letters)
    return label


def _check_synonyms(count: int, name: str, limits: Limits) -> None:
    if count > limits.synonyms:
        raise UsageError(f"label {name[:60]!r} has {count:,} synonyms: at most {limits.synonyms}")


def _check_total(labels: Iterable[Label], limits: Limits) -> None:
    queries = [query for label in labels for query in label.queries]
    if len(queries) > limits.words:
        raise UsageError(f"{len(queries):,} words, synonyms included: at most {limits.words:,} are allowed here")
    if (letters := sum(map(len, queries))) > limits.text:
        raise UsageError(f"the words have {letters:,} characters: at most {limits.text:,} are allowed here")


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"{what} are a {type(value).__name__}: give a list, as in ['sky', 'person=man|woman']")
    return list(value)


def _color(value: Any) -> tuple[int, int, int]:
    if not isinstance(value, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        raise UsageError(f"colour {value!r:.100}: a # and six hexadecimal digits are needed, as in #87ceeb")
    return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)


def _text(value: Any, what: str, longest: int) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what} is a {type(value).__name__}: a text is needed")
    plain = " ".join(value.split())
    if len(plain) > longest:
        raise UsageError(f"{what} has {len(plain):,} characters: at most {longest:,} are allowed")
    if any(0xD800 <= ord(letter) < 0xE000 for letter in plain):  # JSON can carry them, UTF-8 cannot
        raise UsageError(f"{what} holds half a character: write it as UTF-8")
    return plain


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def within(value: Any, low: float, high: float) -> float | None:
    """A number from a client, moved into `low` to `high`; `None` for anything that is no finite number."""
    if not _is_number(value):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return min(max(number, low), high) if math.isfinite(number) else None


def read_method(value: Any) -> Method:
    """One method's spelling from a client; `UsageError` for anything else."""
    return parse_method(_text(value, "a method", METHOD_LETTERS))


def read_methods(value: Any, *, limits: Limits) -> tuple[Method, ...]:
    """A list of spellings, or a comma list of them, each once and at most `limits.methods`."""
    if isinstance(value, str):
        return parse_methods(_text(value, "the methods", limits.methods * METHOD_LETTERS))
    listed = _list(value, "methods")
    if len(listed) > limits.methods:
        raise UsageError(f"{len(listed)} methods: at most {limits.methods} side by side are allowed here")
    return parse_methods([_text(part, "a method", METHOD_LETTERS) for part in listed])


def read_json(data: bytes) -> Any:
    """JSON from a client; `UsageError` if it is damaged, or has over `JSON_PARTS` parts or `JSON_DEPTH` levels.

    The parts are counted before anything is parsed: a list of empty lists takes twenty times its bytes in memory.
    """
    if sum(data.count(mark) for mark in (b"[", b"{", b",")) > JSON_PARTS:
        raise UsageError(f"the JSON has more than {JSON_PARTS:,} parts: ask for less at once")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"this is no JSON that can be read ({error})") from error
    level = [value]
    for _ in range(JSON_DEPTH):
        level = [part for item in level for part in children(item)]
        if not level:
            return value
    raise UsageError(f"the JSON is nested deeper than {JSON_DEPTH} levels")


def children(value: Any) -> Iterable[Any]:
    """The parts of a JSON value that is a list or an object."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def too_large(name: str, *, size: int, limit: int) -> str:
    """What is said of a file over its limit, in bytes."""
    return f"{name} has {size:,} bytes, more than the limit of {limit:,}: make it smaller"


def with_residual(method: str, residual: str, beta: float) -> str:
    """A method with another residual, one of `RESIDUALS`; `beta` is the percentage of channels to drop."""
    row = read_method(method)
    if residual == RESIDUALS[0]:
        return row.spelling
    if residual not in RESIDUALS:
        raise UsageError(f"residual {residual!r:.100} is not known: one of {', '.join(RESIDUALS)}")
    percent = within(beta, 0, 1000)
    if percent is None:
        raise UsageError(f"β={beta!r:.100}: a percentage from 0 to 100 is needed")
    return replace(row, residual=f"beta:{percent:g}" if residual == "beta" else residual).spelling


def read_words(words: Any, *, limits: Limits) -> tuple[str, ...]:
    """A vocabulary from a client, each name once: a list of labels as texts, or one text of such lines.

    Commas separate labels as in `read_request`; `#` starts a comment. `UsageError` if there is none, or too much.
    """
    listed = [words] if isinstance(words, str) else _list(words, "words")
    _check_count(len(listed), limits)
    for text in listed:
        if not isinstance(text, str):
            raise UsageError(f"a word is a {type(text).__name__}: a text is needed")
        if len(text) > limits.text:
            raise UsageError(f"the vocabulary has {len(text):,} characters: at most {limits.text:,} are allowed here")
    lines = (re.sub(r"(^|\s)#.*$", "", line) for text in listed for line in text.splitlines())
    labels = [label for line in lines for label in _labels(line, limits)]
    _check_count(len(labels), limits)
    by_name = {label.name: label for label in labels}
    if not by_name:
        raise UsageError("the vocabulary is empty: write one word a line")
    _check_total(by_name.values(), limits)
    return tuple(label.text for label in by_name.values())


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.words:
        raise UsageError(f"the vocabulary has {count} words: at most {limits.words} are allowed here")


def read_word_file(path: Path, *, limits: Limits) -> tuple[tuple[str, ...], str]:
    """A vocabulary from an uploaded label file, as `read_words` gives it, and the file's form; else `UsageError`."""
    try:
        file = parse_label_file(read_text(path, limit=4 * limits.text), path.name)
    except OSError as error:
        raise UsageError(f"{path.name} is no UTF-8 text with one label a line ({error})") from error
    _check_count(len(file.labels), limits)
    return read_words([label.text for label in labels_of(file)], limits=limits), file.form


def read_image(path: Path, *, limits: Limits) -> bytes:
    """The bytes of an uploaded image's file; `ImageError` if it is gone or too large."""
    try:
        if (size := path.stat().st_size) > limits.upload_bytes:
            raise ImageError(too_large(path.name, size=size, limit=limits.upload_bytes))
        return read_bytes(path, limit=limits.upload_bytes)
    except OSError as error:
        raise ImageError("the image is not on this server any more: upload it again") from error
