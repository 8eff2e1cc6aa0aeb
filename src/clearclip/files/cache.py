"""What the cache folder holds: embeddings of words and hashes of files, both made again where they are missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from clearclip.files.hashes import default_cache_dir

KINDS = {
    "text embeddings": ("text", re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}\.safetensors")),
    "hashes of files": ("hashes", re.compile(r"[0-9a-f]{64}\.json")),
}
"""The folder of each kind, and the paths in it that are ours."""


class Kept(NamedTuple):
    """How much there is of one kind."""

    kind: str
    folder: Path
    files: int
    size: int
    """In bytes."""


def kept_in_cache() -> list[Kept]:
    """How much the cache holds of each kind."""
    found = []
    for kind, (name, _) in KINDS.items():
        sizes = [file.lstat().st_size for file in _files(kind)]
        found.append(Kept(kind, default_cache_dir() / name, len(sizes), sum(sizes)))
    return found


def clear_cache() -> None:
    """Remove the cache's files, and the folders that are empty then; files of other names stay."""
    for kind, (name, _) in KINDS.items():
        for file in list(_files(kind)):
            file.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                file.parent.rmdir()
        with suppress(OSError):
            (default_cache_dir() / name).rmdir()


def _files(kind: str) -> Iterator[Path]:
    name, ours = KINDS[kind]
    top = default_cache_dir() / name
    if top.is_symlink():
        return
    for file in top.rglob("*"):
        if ours.fullmatch(file.relative_to(top).as_posix()) and file.is_file() and not file.is_symlink():
            yield file
