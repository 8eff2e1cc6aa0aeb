"""What can go wrong: every error a user can cause, printed by the command line as one line instead of a traceback.

A message says what came, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

LISTED = 100
"""Most names that an error lists."""


class ClearclipError(Exception):
    """Something the user can mend; `exit_code` is what the command line returns for it."""

    exit_code = 1


class UsageError(ClearclipError, ValueError):
    """The request itself is wrong: an unknown name, a value out of range, words that cannot be used."""

    exit_code = 2


class ImageError(ClearclipError):
    """One image cannot be read or used; the other images of a run go on."""


class CheckpointError(ClearclipError):
    """A checkpoint is missing, is not what it claims to be, or is refused for safety."""


class UnsupportedModelError(CheckpointError):
    """A model that the decomposition does not fit, or that lacks the part that is asked for."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Say which option was probably meant, as in `"did you mean 'clearclip'?"`; all of them where none is close."""
    known = {str(option).lower(): str(option) for option in options}
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(known[option]) for option in close) + "?"
    rest = f", and {len(known) - LISTED:,} more" if len(known) > LISTED else ""
    return "allowed: " + ", ".join(islice(known.values(), LISTED)) + rest


def printable(text: str) -> str:
    """The text with its lone surrogates written out, so that UTF-8 can hold it: file names may have such bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
