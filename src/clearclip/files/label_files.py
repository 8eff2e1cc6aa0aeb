"""Label files of many programs: which form a text has, told from what it holds, and its labels in their order.

What cannot be told for sure is refused with the reason. Nothing in a file is more than data: YAML is read by the safe
loader without aliases, and XML not at all.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearclip.errors import UsageError
from clearclip.files.commas import split_items, unquoted
from clearclip.files.reading import read_text

FILE_BYTES = 20_000_000
YAML_BYTES = 1_000_000
"""Of a YAML file, which takes seconds a megabyte; the names of ImageNet-21k take half of it."""
PARTS = 2_000_000
"""Values of a JSON file, which take up to twenty times their bytes in memory."""
DEPTH = 20

Entry = str | tuple[str, Mapping[str, Any]]
"""A label as `Label.parse` reads it, or its name with `{"synonyms", "color"}` as in a dict of `Vocabulary.parse`."""

NAMES = ("name", "names", "classname", "labelname", "categoryname", "class", "classes", "label", "labels", "category")
"""Headings without what is no letter, in small ones, as the following; the first of several that has words counts."""
NUMBERS = (
    "id", "idx", "index", "classid", "labelid", "categoryid", "trainid", "classindex", "value", "pixelvalue", "code",
    "number",
)  # fmt: skip
SYNONYMS = ("synonyms", "aliases")
COLOR = ("r", "g", "b"), ("red", "green", "blue")
OTHERS = frozenset((*NUMBERS, *SYNONYMS, *COLOR[0], *COLOR[1], "", "ratio", "train", "val", "stuff", "count", "color",
                    "colour", "hex"))  # fmt: skip
WORDNET = r"n\d{8}"
NUMBERED = r"(\d{1,9})(?:\s*(?:[-=]>|[:.),;=|])\s*|\s+)(\S.*)"
SETTINGS = frozenset(("classes", "train", "valid", "val", "test", "names", "backup", "nc", "eval"))
HELD = ("labels", "categories", "names", "classes", "id2label", "label2id")
"""Where a JSON object or YAML mapping holds labels: ours, COCO's, YOLO's, Hugging Face's."""


@dataclass(frozen=True)
class LabelFile:
    """The labels of a file, in order, and what was taken for its form."""

    form: str
    labels: list[Entry]


def read_label_file(path: Path) -> LabelFile:
    """Read the labels of a file in any known form; `UsageError` where it cannot be read, or its form not be told."""
    try:
        text = read_text(path, limit=FILE_BYTES)
    except FileNotFoundError as error:
        raise UsageError(f"label file {path}: there is no such file") from error
    except OSError as error:
        raise UsageError(f"label file {path}: {error} (a UTF-8 text with one label a line is needed)") from error
    return parse_label_file(text, str(path))


def parse_label_file(text: str, name: str) -> LabelFile:
    """As `read_label_file`, of a file's text and its name."""
    start = text.lstrip()[:1]
    lines = [
        line for line in (re.sub(r"(^|\s)#.*$", "", line).strip(" \r\n") for line in text.splitlines()) if line.strip()
    ]
    try:
        if start == "<":
            raise ValueError("it is XML or HTML, of which nothing is read: write one label a line")
        if start in ("{", "["):
            return _document(_json(text), "JSON")
        if name.lower().endswith((".yaml", ".yml")) or re.search(r"^names\s*:", text, re.MULTILINE):
            return _document(_yaml(text), "YAML")
        if not lines:
            raise ValueError("it holds no label: write one a line")
        return _table(lines) or _lines(lines)
    except (ValueError, RecursionError, csv.Error) as error:
        raise UsageError(f"label file {name}: {' '.join(str(error).split())[:400]}") from error


def _json(text: str) -> Any:
    if sum(map(text.count, "[{,")) > PARTS:
        raise ValueError(f"the JSON has more than {PARTS:,} parts: give the labels alone")
    try:
        return json.loads(text, object_pairs_hook=_without_twins)
    except json.JSONDecodeError as error:
        raise ValueError(f"it begins like JSON and is none that can be read ({error})") from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice[:60]!r} stands twice in one object of it: give it once")
    return found


def _yaml(text: str) -> Any:
    if len(text) > YAML_BYTES:
        raise ValueError(f"the YAML has more than {YAML_BYTES:,} letters: give the labels alone, one a line")
    import yaml

    loader, depth = getattr(yaml, "CSafeLoader", yaml.SafeLoader), 0
    try:
        for event in yaml.parse(text, Loader=loader):  # before anything is built: aliases multiply, depth overflows
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("the YAML has an alias (*): write out what it stands for")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise ValueError(f"the YAML is nested deeper than {DEPTH} levels")
        return yaml.load(text, Loader=loader)  # the safe loader: plain data alone
    except (yaml.YAMLError, TypeError) as error:  # TypeError: a list as a key
        raise ValueError(f"it is no YAML that can be read ({error})") from error


def _document(document: Any, kind: str) -> LabelFile:
    if isinstance(document, dict) and (key := next((key for key in HELD if key in document), None)):
        held, count, background = document[key], document.get("nc"), document.get("background")
        if key == "names" and isinstance(count, int) and isinstance(held, (list, dict)) and count != len(held):
            raise ValueError(f"its nc is {count}, but it has {len(held)} names")
        form = f"the {key} of {kind}"
        if isinstance(background, str) and background:
            form += f" (its background {background[:60]!r} is a label like the others here; --background names it)"
    else:
        held, form = document, kind
    if isinstance(held, list) and held and not any(isinstance(one, (dict, list)) for one in held):
        return LabelFile(f"a list in {form}" if held is document else form, [_class(one) for one in held])
    if isinstance(held, list) and held and all(isinstance(one, dict) and "name" in one for one in held):
        ordered, how = _by_number(held)
        return LabelFile(
            (f"a list in {form}" if held is document else form) + how, [_described(one) for one in ordered]
        )
    if isinstance(held, dict) and held:
        numbered = [(_number(key), name) for key, name in held.items()]
        if not any(number is not None for number, _ in numbered):
            numbered = [(_number(number), name) for name, number in held.items()]
        if all(number is not None for number, _ in numbered):
            return LabelFile(f"numbers and names in {form}", _in_order(numbered))
    raise ValueError(
        f'this {kind} is none that is known: a list of names, {{"0": name}}, or one of these under '
        f"{', '.join(HELD)} is read"
    )


def _number(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value) if re.fullmatch("[0-9]{1,9}", value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _by_number(objects: list[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], str]:
    """Objects in the order of their numbers, if all have one, and what is to be said of these."""
    for key in ("index", "id"):
        numbers = [_number(one.get(key)) for one in objects]
        if None not in numbers and len(set(numbers)) == len(numbers):
            found = [one for _, one in sorted(zip(numbers, objects, strict=True), key=lambda pair: pair[0] or 0)]
            known = sorted(number or 0 for number in numbers)
            gaps = f", whose {key}s are not 0, 1 … or 1, 2 …: a label's value in a label map is its place here"
            return found, "" if _is_counted(known) else gaps
    return objects, ""


def _described(one: Mapping[str, Any]) -> Entry:
    """A label of COCO's, CVAT's or our own lists of objects."""
    words = one.get("queries", one.get("synonyms", ()))
    if not isinstance(words, (list, tuple)):
        raise ValueError(f"the words of {str(one['name'])[:60]!r} are no list")
    return one["name"], {"synonyms": [word for word in words if word != one["name"]], "color": one.get("color") or None}


def _in_order(numbered: Sequence[tuple[int | None, Any]]) -> list[Entry]:
    """Labels by their numbers, which must leave none out: the number of a label is its value in a label map."""
    numbers = sorted(number for number, _ in numbered if number is not None)
    if not _is_counted(numbers):
        raise ValueError(
            f"its numbers are {', '.join(map(str, numbers[:8]))}{' …' if numbers[8:] else ''}, not 0, 1 … or 1, 2 …: "
            "a label's number would not be its value in a label map; write the labels alone, one a line, or in double "
            "quotes where a number belongs to a name"
        )
    return [_class(name) for _, name in sorted(numbered, key=lambda pair: pair[0] or 0)]


def _is_counted(numbers: list[int]) -> bool:
    return numbers[:1] in ([0], [1]) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _class(name: Any) -> str:
    """A class with the synonyms that this field's files separate by commas or semicolons, as `Label.parse` reads it."""
    if not isinstance(name, str):
        raise ValueError(f"its name {str(name)[:60]!r} is a {type(name).__name__}: put it in quotes")
    return "|".join(split_items(name, marks=",;"))


def _table(lines: list[str]) -> LabelFile | None:
    """A table with a header that names a column of names and at least one more that is known, as objectInfo150."""
    mark = next((mark for mark in "\t;" if mark in lines[0]), ",")
    titles = next(csv.reader(lines[:1], delimiter=mark))
    head = [re.sub(r"[\W_]", "", title).lower() for title in titles]
    named = [key for key in NAMES if head.count(key) == 1]
    if not named or len(head) < 2 or not OTHERS.union(NAMES).issuperset(head):
        return None
    rows = list(csv.reader(lines[1:], delimiter=mark, strict=True))
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"its header has {len(head)} columns, the row {mark.join(row)[:60]!r} {len(row)}")
    if not rows:
        raise ValueError("it is a table without a row")
    cells = [{key: cell.strip() for key, cell in zip(head, row, strict=True)} for row in rows]
    column = next((key for key in named if not all(one[key].isdecimal() for one in cells)), named[0])
    number = next((key for key in (*NUMBERS, *NAMES) if key in head and key != column), None)
    numbered: list[tuple[int | None, Any]] = []
    for place, one in enumerate(cells):
        color = next((_hex(*(one[part] for part in parts)) for parts in COLOR if one.keys() >= set(parts)), "")
        if (value := place if number is None else _number(one[number])) is None:
            raise ValueError(f"its row {mark.join(one.values())[:60]!r} has no whole number where the header has one")
        more = "".join(f",{one[key]}" for key in SYNONYMS if one.get(key))
        numbered.append((value, one[column] + more.replace("|", ",") + color))
    return LabelFile(f"a table, its column {titles[head.index(column)].strip()!r}", _in_order(numbered))


def _hex(*parts: str) -> str:
    if not all(part.isdecimal() and len(part) < 4 and int(part) < 256 for part in parts):
        raise ValueError(f"its colour {','.join(parts)[:60]} is not three numbers from 0 to 255")
    return " @#" + bytes(map(int, parts)).hex()


def _lines(lines: list[str]) -> LabelFile:
    """One label a line, in steps: colours, then numbers are taken off, what is left is a name with its synonyms."""
    _refuse_other_programs(lines)
    form, colors = [], [""] * len(lines)
    if (colored := [_colored(line) for line in lines]) and all(colored):
        lines, colors = [list(part) for part in zip(*filter(None, colored), strict=True)]
        form = ["names with colours"]
    lines = _without_wordnet(lines)
    if numbered := _numbered(lines):
        names = _without_wordnet([name for _, name in numbered])
        _refuse_without(r"[^\W\d_]", names)
        entries = [(number, name + color) for (number, _), name, color in zip(numbered, names, colors, strict=True)]
        return LabelFile(", ".join([*form, f"a numbered list from {min(numbered)[0]}"]), _in_order(entries))
    odd = [line for line in lines if not re.fullmatch(NUMBERED, line.strip())]
    if len(lines) > 1 and len(odd) <= len(lines) / 2:
        raise ValueError(
            f"most of its lines begin with a number, and {odd[0].strip()[:60]!r} does not: number all or none"
        )
    if found := _all(r"[-*•]\s+(\S.*)", lines):
        lines, form = [match[1] for match in found], [*form, "a list with marks"]
    _refuse_without(r"[^\W_]", lines)  # digits may be classes
    if any("\t" in line for line in lines):
        raise ValueError("it has columns, and no header that says which holds the names (name, class or label)")
    if len(lines) > 1 and _all(r"[\w.-]+:(\s.*)?", lines):
        raise ValueError("all its lines are settings (key: value), and none is names:")
    divided = [split_items(line, marks=",;") for line in lines]
    if any(unquoted(item).isdecimal() for items in divided if len(items) > 1 for item in items):
        raise ValueError("it has numbers between its commas, and no header that says what they are")
    if max(map(len, divided)) > 1:
        if len(lines) == 1:
            first, *others = divided[0]
            raise ValueError(
                f"its one line, {lines[0][:60]!r}, may be {len(divided[0])} labels or one with synonyms: write each "
                f"label on a line of its own, or '{first[:60]}={'|'.join(others)[:60]}'"
            )
        form.append("one class a line, synonyms after commas or semicolons")
    labels: list[Entry] = [_class(line) + color for line, color in zip(lines, colors, strict=True)]
    return LabelFile(", ".join(form) or "one label a line", labels)


def _refuse_other_programs(lines: list[str]) -> None:
    heading = re.sub(r"[\W_]", "", lines[0]).lower()
    if len(lines) > 1 and heading in NAMES and re.fullmatch(r"[\w ]+", lines[0].strip()):
        raise ValueError(
            f"its first line, {lines[0].strip()[:60]!r}, looks like a heading: remove it, or put it in quotes"
        )
    if "__ignore__" in (first := lines[0].strip()):
        raise ValueError(f"it begins with labelme's {first!r}, which is no label: remove the line")
    if code := next(
        (line for line in lines if re.match(r"\s*(\w+\s*=\s*[\[({\"']|[\])}],?\s*$|import |from )", line)), None
    ):
        raise ValueError(f"its line {code.strip()[:60]!r} is a program's: write the labels alone, one a line")
    settings = _all(r"(\w+)\s*=.*", lines)
    if settings and {match[1].lower() for match in settings} <= SETTINGS:
        raise ValueError("it holds darknet's settings: name the file of names that it names")


def _without_wordnet(lines: list[str]) -> list[str]:
    """Names without WordNet's number before them; `ValueError` where there is nothing else."""
    if _all(WORDNET, lines):
        raise ValueError("it holds WordNet's numbers, which are no words: use a file with their names")
    found = _all(rf"{WORDNET}[\s,]+(\S.*)", lines)
    return [match[1] for match in found] if found else lines


def _refuse_without(letter: str, lines: list[str]) -> None:
    if wrong := next((line for line in lines if not re.search(rf"{letter}|[^\x00-\x7f]", line)), None):
        raise ValueError(f"its line {wrong.strip()[:60]!r} has no letter, so that the file is no list of labels")


def _numbered(lines: list[str]) -> list[tuple[int, str]] | None:
    """Numbers and names where all lines begin with a number, or end with those from 0 or 1 on."""
    if len(lines) < 2 and not _all(r"[01]\s*:.*", lines):
        return None
    if before := _all(NUMBERED, lines):
        return [(int(match[1]), match[2]) for match in before]
    behind = [(int(match[2]), match[1]) for match in _all(r"(.*[^\d\s:,;=])[\s:,;=]+(\d{1,9})", lines) or ()]
    numbers = sorted(number for number, _ in behind)
    return behind if _is_counted(numbers) and len({name for _, name in behind}) == len(behind) else None


def _colored(line: str) -> tuple[str, str] | None:
    """A line's name and its colour, three numbers behind it, before it, or between colons as in CVAT's label maps."""
    start, _, digits = line.rpartition("#")
    if re.fullmatch("[0-9a-fA-F]{6}", digits) and start.rstrip().endswith((",", ";")):
        return start.rstrip()[:-1].rstrip(), f" @#{digits}"
    with_alpha = line.replace(",", " ").rsplit(maxsplit=4)
    if len(with_alpha) == 5 and all(part.isdecimal() for part in with_alpha[1:]):
        line = line[: line.rindex(with_alpha[-1])].rstrip(" \t,")
    cells, ways = line.split(":"), []
    if len(cells) == 4:
        ways.append((cells[0], cells[1].split(",")))
    for mark in (",", None):
        if len(behind := line.rsplit(mark, 3)) == 4:
            before = line.split(mark, 3)
            ways += [(behind[0], behind[1:]), (before[3], before[:3])]
    for name, parts in ways:
        if len(parts) == 3 and all(part.strip().isdecimal() for part in parts) and re.search(r"[^\W\d_]", name):
            return name.strip(), _hex(*(part.strip() for part in parts))
    return None


def _all(pattern: str, lines: Iterable[str]) -> list[re.Match[str]] | None:
    """The matches of all lines, or none."""
    found = []
    for line in lines:
        if (match := re.fullmatch(pattern, line.strip())) is None:
            return None
        found.append(match)
    return found
