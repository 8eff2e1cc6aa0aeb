"""Names of files, safe on every system."""

from __future__ import annotations

import re

from clearclip.errors import printable


def safe_stem(name: str) -> str:
    """A file's stem out of any name: no folder, no `.` or `..`, nothing a file system refuses.

    What is not safe becomes `_`, so that different names may become one.

    >>> safe_stem("a/b:c")
    'a_b_c'
    """
    plain = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", printable(name))
    if not plain.strip(". "):
        plain = "_" + plain.replace(".", "_").replace(" ", "_")
    return plain
