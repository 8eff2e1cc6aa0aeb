"""Texts in pictures: in Pillow's own letters where they do, else in the shipped DejaVu Sans or the machine's fonts."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

SHIPPED = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"
FOLDERS = (
    "~/.local/share/fonts", "~/.fonts", "/usr/local/share/fonts", "/usr/share/fonts", "~/Library/Fonts",
    "/Library/Fonts", "/System/Library/Fonts", "${WINDIR}/Fonts", "${LOCALAPPDATA}/Microsoft/Windows/Fonts",
)  # fmt: skip
SUFFIXES = (".ttf", ".ttc", ".otf")
VARIANTS = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "condensed", "lastresort", "emoji")
MOST_FONTS = 200
NO_LETTER = "\uffff"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Runs = list[tuple[str, Font]]


def runs(text: str, size: int) -> Runs:
    """A text cut into parts of one font each, `size` pixels high; a letter that no font has is its code, as U+5929."""
    if text.isascii() and text.isprintable():
        return [(text, ImageFont.load_default(size))]
    parts: list[str] = []
    paths: list[Path] = []
    for letter in drawn(text):
        path = paths[-1] if paths and _has(paths[-1], letter) else font_of(letter) or SHIPPED
        if paths[-1:] == [path]:
            parts[-1] += letter
        else:
            parts.append(letter)
            paths.append(path)
    return [(part, _face(path, size)) for part, path in zip(parts, paths, strict=True)]


def drawn(text: str) -> str:
    """A text as it is drawn: composed, without what has no width, and with the code of a letter that no font has."""
    return "".join(_written(unicodedata.normalize("NFC", text)))


def _written(text: str) -> Iterator[str]:
    for letter in text:
        kind = unicodedata.category(letter)
        if kind in ("Cc", "Zl", "Zp"):
            yield " "
        elif kind[0] == "M" or letter in "\u200c\u200d" or (kind != "Cf" and font_of(letter)):
            yield letter
        elif kind != "Cf":
            yield f"[U+{ord(letter):04X}]"


def width_of(text: str, size: int) -> float:
    """How wide a text is, in pixels."""
    return sum(font.getlength(part) for part, font in runs(text, size))


def write(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, *, size: int, fill: tuple[int, ...]) -> None:
    """Draw a text with its top left corner at a place `(x, y)`."""
    (x, y), parts = place, runs(text, size)
    if len(parts) == 1:
        pen.text(place, parts[0][0], fill=fill, font=parts[0][1])
        return
    for part, font in parts:
        pen.text((x, y + size), part, fill=fill, font=font, anchor="ls")
        x += font.getlength(part)


@cache
def font_of(letter: str) -> Path | None:
    """The file of the first font that has a letter: the shipped one, or one of this machine."""
    return next((path for path in (SHIPPED, *_installed()) if _has(path, letter)), None)


@cache
def _has(path: Path, letter: str) -> bool:
    if letter.isspace():
        return True
    return _shape(path, letter) != _shape(path, NO_LETTER)


@cache
def _shape(path: Path, letter: str) -> tuple[tuple[int, int], bytes] | None:
    try:
        mask = _face(path, 16).getmask(letter)
        return mask.size, bytes(mask)
    except (OSError, ValueError):  # no font, or one of pictures of other sizes
        return None


@cache
def _face(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


@cache
def _installed() -> tuple[Path, ...]:
    """Regular fonts of this machine, those for many scripts first."""
    found = []
    for folder in FOLDERS:
        with suppress(RuntimeError):  # a user without a home
            for root, _, names in os.walk(Path(os.path.expandvars(folder)).expanduser()):
                found += [Path(root, name) for name in names if name.lower().endswith(SUFFIXES)]
    regular = [path for path in found if not any(variant in path.stem.lower() for variant in VARIANTS)]
    wide = ("cjk", "fallback", "unicode", "hansans", "wqy", "gothic", "yahei", "msyh", "pingfang", "sans")
    rank = {path: next((place for place, part in enumerate(wide) if part in path.stem.lower()), 99) for path in regular}
    return tuple(sorted(regular, key=lambda path: (rank[path], path.name)))[:MOST_FONTS]
