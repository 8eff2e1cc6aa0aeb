"""Names of files, safe on every system."""

from __future__ import annotations

import re

from clearclip.errors import printable

DEVICES = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)))
)
"""What Windows takes for a device, whatever the suffix."""


def safe_stem(name: str) -> str:
    """A file's stem out of any name: no folder, no `.` or `..`, nothing a file system refuses.

    What is not safe becomes `_`, so that different names may become one.

    >>> safe_stem("a/b:c")
    'a_b_c'
    >>> safe_stem("aux")
    '_aux'
    """
    plain = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", printable(name))
    if not plain.strip(". "):
        plain = "_" + plain.replace(".", "_").replace(" ", "_")
    return f"_{plain}" if plain.partition(".")[0].rstrip(" ").lower() in DEVICES else plain


def safe_path(*parts: str) -> str:
    """Names of folders and a stem as one relative path, each a `safe_stem`.

    >>> safe_path("a", "b:c")
    'a/b_c'
    """
    return "/".join(map(safe_stem, parts))
