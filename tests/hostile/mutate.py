"""Damage to files: of bytes, of text, of JSON. Everything follows from the random generator that is given."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any

NUMBERS = (0, -1, 1, 2**31 - 1, -(2**31), 2**31, 2**32 - 1, 2**63 - 1, -(2**63), 2**64, 10**30, 10**400)
FLOATS = (0.0, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"), -1.5)
TEXTS = (
    "", " ", "\0", "\n", "a\nb", "..", "../../x", "/", "/dev/zero", "~", "%s%n", "{}", "{0.__class__}", "'\"`$(id)",
    "*", "-x", "--", "<script>alert(1)</script>", "[bold]", "[/]", "é", "e\u0301", "\u202e", "\ud800", "\U0001f600",
    "天", "→", "CON", "a" * 300, "a" * 70_000, "=|@#", "@#ffffff", "#", "nan", "1e9", "None", "true", "NULL",
    "\x1b[2J", "\ufeff",
)  # fmt: skip


def damage(data: bytes, rng: random.Random, *, other: bytes = b"") -> bytes:
    """One to four edits: bits, bytes, cuts, repeats, splices with another file, extreme numbers."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not changed:
            return bytes(rng.randrange(256) for _ in range(rng.randrange(64)))
        at, length = rng.randrange(len(changed)), rng.choice((1, 2, 4, 16, 256, 4096))
        if rng.random() < 0.4:
            at = rng.randrange(min(len(changed), 256))  # headers decide most
        kind = rng.randrange(9)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            for place in range(at, min(at + length, len(changed))):
                changed[place] = rng.randrange(256)
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = changed[at : at + length] * rng.choice((1, 2, 50))
        elif kind == 5:
            changed[at : at + length] = bytes([rng.choice((0, 255, 0x20))]) * length
        elif kind == 6:
            code = rng.choice("<>") + rng.choice("HIQ")
            changed[at : at + struct.calcsize(code)] = struct.pack(code, _fitting(rng, struct.calcsize(code)))
        elif kind == 7:
            start = rng.randrange(len(other)) if other else 0
            changed[at : at + length] = other[start : start + length]
        else:
            digits = [place for place, byte in enumerate(changed[:65536]) if 48 <= byte <= 57]
            if digits:
                place = rng.choice(digits)
                changed[place : place + 1] = str(rng.choice(NUMBERS)).encode()[:40]
    return bytes(changed)


def _fitting(rng: random.Random, size: int) -> int:
    return rng.choice(NUMBERS[:-1]) % 256**size


def value(rng: random.Random) -> Any:
    """Any value that JSON has, likely one that nobody expects."""
    kind = rng.randrange(8)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind < 4:
        return rng.choice(TEXTS)
    if kind == 4:
        return rng.choice(FLOATS)
    return rng.choice((None, True, False, [], {}, [None], {"": None}, [[[[]]]], "0" * 5000, [0] * 5000))


def damage_json(document: Any, rng: random.Random) -> str:
    """A document of which some values are others, gone, repeated or of another kind; rarely no JSON at all."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 5))):
        places = list(_places(document))
        if not places:
            document = value(rng)
            break
        holder, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice((*TEXTS, *holder))] = holder.pop(key)
        elif kind == 2:
            other_holder, other_key = rng.choice(places)
            holder[key] = copy.deepcopy(other_holder[other_key])
        else:
            holder[key] = value(rng)
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1:
        text = damage(text.encode("utf-8", "surrogatepass"), rng).decode("latin-1")
    return "[" * 100_000 if rng.random() < 0.01 else text


def _places(document: Any) -> Any:
    """All `(container, key)` of a document."""
    if not isinstance(document, (dict, list)):
        return
    for key in list(document) if isinstance(document, dict) else range(len(document)):
        yield document, key
        yield from _places(document[key])
