"""One rule for commas, wherever several items are written in one text."""

from __future__ import annotations

import re


def split_items(text: str, *, marks: str = ",") -> list[str]:
    """The items between commas (or any of `marks`) outside brackets and double quotes; empty ones are left out.

    >>> split_items('sky, clearclip[residual=keep,ffn=drop], "rock, paper"')
    ['sky', 'clearclip[residual=keep,ffn=drop]', '"rock, paper"']
    """
    found = re.findall(rf'(?:(?<![^\s=|,;])"[^"]*"|\([^()]*\)|\[[^\[\]]*\]|\{{[^{{}}]*\}}|[^{marks}])+', text)
    return [item.strip() for item in found if item.strip()]


def unquoted(word: str) -> str:
    """A word without the double quotes around all of it."""
    word = word.strip()
    return word[1:-1].strip() if re.fullmatch(r'"[^"]*[^"\s][^"]*"', word) else word


def quoted(word: str) -> str:
    """A word as `split_items` keeps it whole: in double quotes where it has a comma."""
    return f'"{word}"' if "," in word and '"' not in word else word
