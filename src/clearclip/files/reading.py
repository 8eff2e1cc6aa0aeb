"""What may be opened: regular files alone, in stated folders, up to a stated size.

Everything that a user, a request or another file names goes through here. Whatever is refused is an `OSError`, as for a
file that is missing, so that callers name both in the same way.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class RefusedError(OSError):
    """A file that is there and may not be opened; its text is one clause that follows the file's name."""


def open_regular(path: str | os.PathLike[str], *, limit: int | None = None) -> BinaryIO:
    """Open a regular file for reading, never waiting for the other end of a pipe or a device.

    Links are followed. A file of more than `limit` bytes is `RefusedError`, as are folders, pipes, sockets and devices.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "words.txt").write_text("sky")
    ...     open_regular(pathlib.Path(folder, "words.txt"), limit=2)
    Traceback (most recent call last):
    clearclip.files.reading.RefusedError: it has 3 bytes, more than the limit of 2
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a name with a zero byte
        raise RefusedError(str(error)) from error
    try:
        check_regular(os.fstat(handle), limit=limit)
        return cast(BinaryIO, os.fdopen(handle, "rb"))
    except BaseException:
        os.close(handle)
        raise


def check_regular(status: os.stat_result, *, limit: int | None = None) -> None:
    """Refuse what is no regular file, or too large, by what `os.stat` says of it."""
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in KINDS if is_kind(status.st_mode)), "no regular file")
        raise RefusedError(f"it is {kind}: a regular file is needed")
    if limit is not None and status.st_size > limit:
        raise RefusedError(f"it has {status.st_size:,} bytes, more than the limit of {limit:,}")


def read_bytes(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """All bytes of a regular file, also of one that grows beyond `limit` while it is read: `RefusedError`."""
    with open_regular(path, limit=limit) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise RefusedError(f"it has more than the limit of {limit:,} bytes")
    return data


def read_text(path: str | os.PathLike[str], *, limit: int) -> str:
    """The text of a regular file in UTF-8, with or without a byte order mark; `RefusedError` in any other encoding."""
    try:
        return read_bytes(path, limit=limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefusedError(f"its byte {error.start:,} is not UTF-8: save it as UTF-8 text") from error


def sha256_of(file: BinaryIO) -> str:
    """SHA-256 of what is left of an open file, 64 hexadecimal digits; it is read in pieces."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


class ExhaustedError(Exception):
    """A damaged file leads its decoder in circles. No `OSError`: decoders take that for the file's end, and go on."""


class Metered(io.BufferedReader):
    """A file for a decoder that we do not trust: more bytes, or more calls, than it is allowed are `ExhaustedError`."""

    def __init__(self, raw: Any, *, max_bytes: int, max_reads: int | None = None) -> None:
        super().__init__(raw)
        self.allow(max_bytes, max_reads=max_reads)

    def allow(self, max_bytes: int, *, max_reads: int | None = None) -> None:
        """Allow so much from now on."""
        self._max_bytes, self._max_reads = max_bytes, max_reads
        self._bytes = self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        data = super().read(size)
        self._bytes += len(data)
        self._reads += 1
        if self._bytes > self._max_bytes:
            raise ExhaustedError(f"more than {self._max_bytes:,} bytes would be read, as its parts refer to each other")
        if self._max_reads is not None and self._reads > self._max_reads:
            raise ExhaustedError(f"it has more parts than {self._max_reads:,} reads reach")
        return data


def regular_inside(path: str | os.PathLike[str], folders: Iterable[Path]) -> Path:
    """The real path of a regular file, all links resolved, that lies in one of the folders; else `RefusedError`.

    The answer names no file that is elsewhere: whether one exists there is nobody's business.
    """
    try:
        real = Path(os.path.realpath(path, strict=True))
        if any(real.is_relative_to(os.path.realpath(folder)) for folder in folders):
            check_regular(real.stat())
            return real
    except RefusedError:
        raise
    except (OSError, ValueError):
        pass
    raise RefusedError("it is none of the files that may be read here")
