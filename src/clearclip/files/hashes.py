"""The hash of a file, remembered in the user's cache folder, so that no start reads the same 600 MB again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from clearclip.errors import UsageError
from clearclip.files.reading import open_regular, read_bytes, sha256_of
from clearclip.files.writing import atomic_write

SETTLED_NS = 3_000_000_000
"""A file that changed later than this before it was read may change again without another time stamp."""


def default_cache_dir() -> Path:
    """`$CLEARCLIP_CACHE`, else a folder in the user's cache folder; it may not exist yet.

    `UsageError` for a user without a home, as the numeric ones of containers are.
    """
    if os.environ.get("CLEARCLIP_CACHE"):
        return Path(os.environ["CLEARCLIP_CACHE"])
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clearclip"
    except RuntimeError as error:
        raise UsageError("this user has no home folder to cache in: set CLEARCLIP_CACHE to a folder") from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits.

    It is read again only where its real path, size, times or inode are not those of the last time.
    """
    real = os.path.realpath(path)
    name = hashlib.sha256(os.fsencode(real)).hexdigest()
    entry = default_cache_dir() / "hashes" / f"{name}.json"
    with open_regular(real) as file:
        identity = _identity(file.fileno())
        known = _remembered(entry, identity)
        if known is not None:
            return known
        digest = sha256_of(file)
        settled = identity == _identity(file.fileno()) and time.time_ns() - max(identity[1:3]) > SETTLED_NS
    if settled:
        with suppress(OSError):  # it is read again next time
            entry.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(entry) as partial:
                partial.write_text(json.dumps([*identity, digest]), encoding="ascii")
    return digest


def _identity(handle: int) -> tuple[int, int, int, int, int]:
    status = os.fstat(handle)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def _remembered(entry: Path, identity: tuple[int, ...]) -> str | None:
    """The hash in an entry that is about this file as it is now; `None` for any other entry, and a damaged one."""
    try:
        found = json.loads(read_bytes(entry, limit=1000))
        if found[:-1] == list(identity) and len(bytes.fromhex(found[-1])) == hashlib.sha256().digest_size:
            return str(found[-1])
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        pass
    return None
