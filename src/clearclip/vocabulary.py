"""Words: labels with synonyms and colours, from lists, dicts and files, and the queries they become. No torch."""

from __future__ import annotations

import colorsys
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clearclip.errors import UsageError, nearest
from clearclip.files.commas import quoted, unquoted
from clearclip.files.label_files import LabelFile, parse_label_file, read_label_file

WORD_BYTES = 2_000
"""Of a name or a synonym in UTF-8. Text towers read 77 tokens or a few hundred; nobody waits for more to be counted."""
SYNONYMS = 1_000
"""Of one label."""
LABELS = 50_000
"""ImageNet-21k has 21,843."""
QUERIES = 200_000
"""Names and synonyms of all labels."""
BACKGROUND = "background"
SHOWN = 8
"""Labels in the sentence that says how they were read."""
PALETTE = (
    (86, 180, 233), (230, 159, 0), (0, 158, 115), (213, 94, 0), (51, 0, 255), (221, 238, 221), (119, 119, 136),
    (34, 85, 85), (85, 34, 0), (204, 170, 170), (255, 238, 17), (102, 85, 0), (204, 51, 68), (255, 102, 187),
    (102, 17, 51), (136, 119, 255), (34, 238, 136), (0, 255, 255), (0, 51, 102), (187, 17, 170),
    (17, 102, 204), (153, 187, 136), (170, 153, 85), (34, 0, 51), (0, 34, 17), (0, 0, 136), (255, 221, 187),
    (119, 85, 119), (102, 119, 85), (102, 153, 153),
)  # fmt: skip
"""Colours of labels without one of their own, far from each other and from a background's black; `scenes` has the same.

Okabe and Ito's first four (https://jfly.uni-koeln.de/color/), and others found by exchanging the nearest pair of all
colours in steps of 17. Among the first 20 the least CIEDE2000 of two is 21.6, of protanopes 10.9, of deuteranopes 11.3
(Machado et al., 2009); among all 30 it is 15.7, 7.8 and 7.7.
"""


def spoken(word: str) -> str:
    r"""A word as the model is asked for it: `_` and control characters are spaces, what has no width is left out.

    >>> spoken("traffic_light\u200b")
    'traffic light'
    """
    if word.isascii() and word.isprintable() and "_" not in word:
        return " ".join(word.split())
    joined = re.sub("(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])", "", word)
    kinds = ((letter, unicodedata.category(letter)) for letter in unicodedata.normalize("NFC", joined))
    shown = (
        " " if kind == "Cc" or letter == "_" else "" if kind == "Cf" and letter not in "\u200c\u200d" else letter
        for letter, kind in kinds
    )
    return " ".join("".join(shown).split())


@dataclass(frozen=True)
class Label:
    """One class: its name, further words for the same thing, and optionally its colour.

    Attributes:
        name: Shown in legends and files, and the first word asked for.
        synonyms: Further queries; the label's score is the best of them.
        color: `(r, g, b)`, 0–255 each, or `None` for one from the palette.
    """

    name: str
    synonyms: tuple[str, ...] = ()
    color: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise UsageError(f"label {_short(self.name)} is a {type(self.name).__name__}: a text is needed")
        if not spoken(self.name):
            raise UsageError("a label is empty: give every label a name")
        name = _short(self.name)
        if isinstance(self.synonyms, (str, Set)):
            raise UsageError(f"label {name} has {_short(self.synonyms)} as synonyms: give a list of texts")
        if len(self.synonyms) > SYNONYMS:
            raise UsageError(f"label {name} has {len(self.synonyms):,} synonyms: at most {SYNONYMS:,} are allowed")
        for word in (self.name, *self.synonyms):
            if not isinstance(word, str) or not spoken(word):
                raise UsageError(f"label {name} has an empty synonym: write it as in 'person=man|woman'")
            if len(word) > WORD_BYTES or len(word.encode("utf-8", "surrogatepass")) > WORD_BYTES:
                raise UsageError(f"label {name}: a name or synonym may have {WORD_BYTES:,} bytes at most: shorten it")
            if any("\ud800" <= letter <= "\udfff" for letter in word):
                raise UsageError(f"label {name} is no Unicode text: give it in UTF-8")
        if self.color is not None and not (
            len(self.color) == 3 and all(isinstance(part, Integral) and 0 <= part <= 255 for part in self.color)
        ):
            raise UsageError(
                f"label {name} has the colour {_short(self.color)}: three numbers from 0 to 255 are needed"
            )

    @property
    def queries(self) -> tuple[str, ...]:
        """What the text encoder is asked for: the name and its synonyms as `spoken`, each once."""
        return tuple(dict.fromkeys(map(spoken, (self.name, *self.synonyms))))

    @property
    def text(self) -> str:
        """The label as `parse` reads it; `UsageError` if a word of it holds `=`, `|`, `@#` or a quote at its end."""
        text = quoted(self.name) + (f"={'|'.join(map(quoted, self.synonyms))}" if self.synonyms else "")
        text += f" @{_hex(self.color)}" if self.color else ""
        if Label.parse(text) != self:
            raise UsageError(
                f"label {self.name!r}: '=', '|' and '@#' have a meaning of their own in labels, leave them out"
            )
        return text

    @classmethod
    def parse(cls, text: str) -> Label:
        """Read `name`, `name=synonym|synonym` or either followed by `@#rrggbb`, as in `"person=man|woman @#87ceeb"`.

        `name|synonym` is the same, and double quotes around a word keep its commas where commas separate labels.
        """
        body, marked, color = text.partition("@#")
        rgb = None
        if marked:
            if not re.fullmatch(r"[0-9a-fA-F]{6}\s*", color):
                raise UsageError(f"label {_short(text)}: the colour is six hexadecimal digits, as in 'sky @#87ceeb'")
            rgb = (int(color[0:2], 16), int(color[2:4], 16), int(color[4:6], 16))
        name, equals, synonyms = body.partition("=")
        first, *words = name.split("|")
        words += synonyms.split("|") if equals else []
        return cls(unquoted(first), tuple(map(unquoted, words)), rgb)


@dataclass(frozen=True)
class Vocabulary:
    """The labels of one run, in order; a pixel's value in a label map is an index into them.

    Attributes:
        labels: At least one; names differ.
        background: Name of the label that pixels below the threshold fall to; one of `labels`.
        asks_background: Whether the background's name is a query too. `False` for a background that was only named: it
            gets what its synonyms win and the threshold rejects.
        beside: Words beside the labels whose pixels become background, for `Segmenter` to add: `"auto"` are those of
            `clearclip.negatives`, `"alone"` these where one label stands alone, without background and threshold.
        pinned: Labels that always compete, whatever a presence rule says.
        repeats: Whether a word may stand for several labels, as in published protocols; the first of them then wins.
    """

    labels: tuple[Label, ...]
    background: str | None = None
    asks_background: bool = True
    beside: tuple[str, ...] | Literal["auto", "alone", "none"] = "alone"
    pinned: tuple[str, ...] = ()
    repeats: bool = False

    def __post_init__(self) -> None:
        if not self.labels:
            raise UsageError("no labels were given: name at least one thing to look for")
        _check_count(len(self.labels))
        names = [label.name for label in self.labels]
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise UsageError(f"label {name!r} was given twice: give each label once, further words as synonyms")
            seen.add(name)
        words = sum(1 + len(label.synonyms) for label in self.labels)
        if words > QUERIES:
            raise UsageError(f"the labels have {words:,} names and synonyms: at most {QUERIES:,} are allowed")
        if self.background is not None and self.background not in names:
            raise UsageError(f"background {self.background!r} is none of the labels: {nearest(self.background, names)}")
        for name in self.pinned:
            if name not in names:
                raise UsageError(f"{name!r} is pinned but none of the labels: {nearest(name, names)}")
        if all(label.name == self.background and not self.asks_background for label in self.labels):
            raise UsageError("there is no label beside the background: name at least one thing to look for")

    @property
    def names(self) -> tuple[str, ...]:
        """The labels' names, in order."""
        return tuple(label.name for label in self.labels)

    @property
    def _asked(self) -> tuple[tuple[int, str], ...]:
        return tuple((index, query) for index, label in enumerate(self.labels) for query in self.queries_of(label))

    def queries_of(self, label: Label) -> tuple[str, ...]:
        """What the text encoder is asked for one of the labels."""
        is_asked = self.asks_background or label.name != self.background
        return label.queries if is_asked else tuple(dict.fromkeys(map(spoken, label.synonyms)))

    @property
    def queries(self) -> tuple[str, ...]:
        """What the text encoder is asked for, label by label."""
        return tuple(query for _, query in self._asked)

    @property
    def query_to_class(self) -> tuple[int, ...]:
        """For each query the index of its label."""
        return tuple(index for index, _ in self._asked)

    @property
    def background_index(self) -> int | None:
        """Index of the background label, or `None`."""
        return None if self.background is None else self.names.index(self.background)

    @property
    def palette(self) -> npt.NDArray[np.uint8]:
        """Colours `(n, 3)`, uint8: each label's own, else one that follows from its index alone."""
        drawn = distinct_colors(len(self.labels))
        if self.background is not None:
            drawn = np.insert(drawn[:-1], self.names.index(self.background), 0, axis=0)
        for index, label in enumerate(self.labels):
            if label.color is not None:
                drawn[index] = label.color
        return drawn

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The labels as JSON-able data: index, name, queries and colour, and whether it is pinned."""
        palette = self.palette.tolist()
        return [
            {"index": index, "name": label.name, "queries": list(self.queries_of(label)), "color": palette[index]}
            | ({"pinned": True} if label.name in self.pinned else {})
            for index, label in enumerate(self.labels)
        ]

    @classmethod
    def from_entries(cls, entries: Sequence[Mapping[str, Any]], *, background: str | None) -> Vocabulary:
        """The vocabulary that has these `entries`."""
        labels, asks = [], True
        for entry in entries:
            first, words = spoken(entry["name"]), list(entry["queries"])
            if words[:1] == [first]:
                words = words[1:]
            else:
                asks = False
            labels.append(Label(entry["name"], tuple(words), tuple(entry["color"])))
        pinned = tuple(entry["name"] for entry in entries if entry.get("pinned"))
        return cls(tuple(labels), background=background, asks_background=asks, beside="none", pinned=pinned)

    def index(self, name: str) -> int:
        """Index of a label by its name."""
        if name not in self.names:
            raise UsageError(f"label {name!r} is none of this vocabulary: {nearest(name, self.names)}")
        return self.names.index(name)

    def with_background(self, name: str | None) -> Vocabulary:
        """The same labels with a background: one of them, or a new first one without words of its own.

        `auto` asks for visible words beside the labels, `none` for no such words even beside a single label; a label
        that is really called so stands in double quotes.
        """
        if name is None or name == self.background:
            return self
        if name in ("auto", "none"):
            return replace(self, beside=name)  # type: ignore[arg-type]
        name = unquoted(name)
        if name in self.names:
            return replace(self, background=name)
        return replace(self, labels=(Label(name), *self.labels), background=name, asks_background=False)

    def with_words_beside(self, words: Sequence[str]) -> Vocabulary:
        """The same labels with a background that has these words and not its own name.

        >>> Vocabulary.parse(["person"]).with_words_beside(["sky", "wall"]).queries
        ('sky', 'wall', 'person')
        """
        named = replace(self.with_background(self.background or BACKGROUND), asks_background=False, beside="none")
        labels = (
            replace(label, synonyms=tuple(words)) if label.name == named.background else label for label in named.labels
        )
        return replace(named, labels=tuple(labels))

    @classmethod
    def parse(cls, labels: Any, *, background: str | None = None) -> Vocabulary:
        """Read labels in any of the forms that users write.

        A list of `Label` or of texts as `Label.parse` reads them; a dict from name to synonyms (`None`, a text or a
        list) or to `{"synonyms": …, "color": "#rrggbb" or (r, g, b)}`; the path of a label file, for `read_labels`; a
        `Vocabulary`. A set is refused: its order, and so what an index in a label map means, differs from process to
        process.
        """
        if isinstance(labels, cls):
            return labels.with_background(background)
        if isinstance(labels, Path):
            parsed: Iterable[Label] = read_labels(labels)[0]
        elif isinstance(labels, str):
            raise UsageError(
                f"labels={labels!r} is one text: give a list, as in [{labels!r}], or a Path of a label file"
            )
        elif isinstance(labels, Set) and not isinstance(labels, (KeysView, Sequence)):
            raise UsageError(
                f"labels are a {type(labels).__name__}, which has no order, so that an index in a label map would mean "
                "another label in every run: give a list, as in sorted(labels)"
            )
        elif isinstance(labels, Mapping):
            _check_count(len(labels))
            parsed = [_from_entry(name, entry) for name, entry in labels.items()]
        elif isinstance(labels, Iterable):
            listed = list(islice(labels, LABELS + 1))
            _check_count(len(listed), more=True)
            parsed = [Label.parse(label) if isinstance(label, str) else _checked(label) for label in listed]
        else:
            raise UsageError(f"labels are a {type(labels).__name__}: give a list, a dict or a Path of a label file")
        return cls(tuple(parsed)).with_background(background)


def _checked(label: Any) -> Label:
    return label if isinstance(label, Label) else Label(label)


def _check_count(count: int, *, more: bool = False) -> None:
    if count > LABELS:
        raise UsageError(f"{'more than ' if more else ''}{LABELS if more else count:,} labels: {LABELS:,} are allowed")


def _short(value: object) -> str:
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def read_labels(path: Path) -> tuple[tuple[Label, ...], str]:
    """The labels of a file in any form of `clearclip.files.label_files`, and a sentence that says how it was read.

    `UsageError` where the form cannot be told for sure, or the labels not be used.
    """
    file = read_label_file(path)
    labels = labels_of(file)
    return labels, f"{path}, read as {file.form}: {listed(labels)}"


def labels_of(file: LabelFile) -> tuple[Label, ...]:
    """The labels that a file's entries describe."""
    _check_count(len(file.labels))
    return tuple(Label.parse(entry) if isinstance(entry, str) else _from_entry(*entry) for entry in file.labels)


def label_file(labels: Sequence[Label], suffix: str) -> str:
    """The text of a label file that reads back as these labels: `.txt` with one a line, `.yaml` or `.yml` with `names`.

    >>> print(label_file([Label("sky"), Label("person", ("man", "woman"))], ".txt"), end="")
    sky
    person=man|woman

    A YAML's names are texts by number with synonyms after commas, or objects where labels have colours or other marks.
    """
    if suffix == ".txt":
        written: Iterable[str] = (_lines(labels, quoted), _lines(labels, lambda word: f'"{word}"'))
    elif suffix in (".yaml", ".yml"):
        written = _yamls(labels)
    else:
        raise UsageError(f"a label file is written as .txt, .yaml or .yml, not as {suffix or 'one without a suffix'}")
    for text in written:
        with suppress(UsageError):
            if list(map(_meaning, labels_of(parse_label_file(text, f"labels{suffix}")))) == list(map(_meaning, labels)):
                return text
    raise UsageError(
        f"these labels have letters or numbers that would be read otherwise in a {suffix} file: "
        f"{'write a .yaml' if suffix == '.txt' else 'give them other names'}"
    )


def _meaning(label: Label) -> tuple[object, ...]:
    return label.name, label.queries, label.color


def _lines(labels: Sequence[Label], mark: Callable[[str], str]) -> str:
    return "".join(
        "=".join((mark(label.name), *(["|".join(map(mark, label.synonyms))] if label.synonyms else [])))
        + (f" @{_hex(label.color)}\n" if label.color else "\n")
        for label in labels
    )


def _yamls(labels: Sequence[Label]) -> Iterator[str]:
    import yaml

    texts = {index: ", ".join(map(quoted, (label.name, *label.synonyms))) for index, label in enumerate(labels)}
    objects = [
        {"name": label.name}
        | ({"synonyms": list(label.synonyms)} if label.synonyms else {})
        | ({"color": _hex(label.color)} if label.color else {})
        for label in labels
    ]
    for names in (texts, objects):
        yield yaml.safe_dump({"nc": len(labels), "names": names}, allow_unicode=True, sort_keys=False, width=1 << 20)


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def listed(labels: Sequence[Label]) -> str:
    """The number of labels and the first of them with their synonyms, for people."""
    shown = [f"{label.name}={'|'.join(label.synonyms)}" if label.synonyms else label.name for label in labels[:SHOWN]]
    count = f"{len(labels):,} label{'s' if labels[1:] else ''}"
    return f"{count}: {'; '.join(map(_cut, shown))}{' …' if labels[SHOWN:] else ''}"


def _cut(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text[:61])  # a terminal obeys the others
    return shown if len(text) <= 60 else f"{shown[:60]}…"


def _from_entry(name: str, entry: Any) -> Label:
    color = None
    if isinstance(entry, Mapping):
        unknown = set(entry) - {"synonyms", "color"}
        if unknown:
            raise UsageError(
                f"label {_short(name)} has {_short(sorted(map(str, unknown)))}: only 'synonyms' and 'color' are known"
            )
        color = entry.get("color")
        entry = entry.get("synonyms")
    if isinstance(color, str):
        color = Label.parse(f"{name}@{color if color.startswith('#') else '#' + color}").color
    if not (color is None or isinstance(color, (list, tuple))):
        raise UsageError(f"label {_short(name)} has the colour {_short(color)}: three numbers from 0 to 255 are needed")
    if isinstance(entry, str):
        entry = [entry]
    if not isinstance(entry, Sequence) and entry is not None:
        raise UsageError(f"label {_short(name)} has {_short(entry)} as synonyms: give a list of texts")
    return Label(
        name.strip() if isinstance(name, str) else name,
        tuple(synonym.strip() if isinstance(synonym, str) else synonym for synonym in entry or ()),
        tuple(color) if color else None,
    )


def distinct_colors(count: int) -> npt.NDArray[np.uint8]:
    """Colours `(count, 3)`, uint8, that can be told apart; colour i does not depend on how many there are.

    The first ones are `PALETTE`, the others walk the hue circle by the golden angle at alternating brightness.
    """
    colors = list(PALETTE[:count])
    for index in range(len(colors), count):
        hue = (index * 0.618033988749895) % 1.0
        lightness, saturation = ((0.45, 0.75), (0.65, 0.6), (0.3, 0.7), (0.78, 0.5))[index % 4]
        rgb = colorsys.hls_to_rgb(hue, lightness, saturation)
        colors.append((round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)))
    return np.array(colors, dtype=np.uint8).reshape(count, 3)
