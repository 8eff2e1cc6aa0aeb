"""Who may write what: one lock for a folder or a file, files that appear complete, and nothing foreign replaced.

The order is always: `claim` the target, check what is there, write. What a killed run left is removed by the next that
claims the target; what another process is at work on is never touched, as it holds a lock on it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from clearclip.errors import UsageError
from clearclip.files.reading import open_regular, sha256_of

PREFIX = ".clearclip-"
ATTEMPTS = 1000  # others may remove the lock or its folder; but in /proc no file can ever be made
OURS = re.compile(re.escape(PREFIX) + r"(lock(-[0-9a-f]{16})?|[0-9a-f]{16}-[a-z0-9_]{8}(\..*)?)", re.DOTALL)
"""Names of our locks and unfinished files: long and random, so that no file of a user's has one by chance."""

try:
    import fcntl
except ImportError:  # Windows: an open file cannot be removed there, which protects it as well
    fcntl = None  # type: ignore[assignment]


@contextmanager
def claim(target: Path, *, is_file: bool = False) -> Iterator[None]:
    """Hold an output folder, or one output file, for this process alone until the block ends.

    The folder, or the file's folder, is made where it is missing. `UsageError` if another run is at work there, or it
    cannot be written.
    """
    target = Path(os.path.realpath(target))
    folder = target.parent if is_file else target
    name = hashlib.sha256(unicodedata.normalize("NFC", target.name).casefold().encode("utf-8", "surrogateescape"))
    lock = folder / (f"{PREFIX}lock-{name.hexdigest()[:16]}" if is_file else f"{PREFIX}lock")
    try:
        handle = _take(lock)
    except BlockingIOError as error:
        raise UsageError(f"{target}: another run is at work there: wait for it, or choose another output") from error
    except OSError as error:
        raise UsageError(f"output {target} cannot be used ({error.strerror or error}): choose another") from error
    try:
        sweep(folder)
        yield
    finally:
        _remove(lock, handle)


def sweep(folder: Path) -> None:
    """Remove the unfinished files that killed processes left in a folder, not below it; those of live ones are held."""
    for file in folder.glob(f"{PREFIX}*"):
        if OURS.fullmatch(file.name) and file.is_file() and not file.is_symlink():
            with suppress(OSError):
                _remove(file, _hold(file, os.O_RDONLY))


def _take(lock: Path) -> int:
    for _ in range(ATTEMPTS):
        lock.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return _hold(lock, os.O_RDWR | os.O_CREAT)
    raise OSError(errno.ENOENT, "no file can be made there")


def _hold(file: Path, flags: int) -> int:
    """Open and lock a file: `BlockingIOError` if somebody has it, `FileNotFoundError` if it was removed meanwhile."""
    handle = os.open(file, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        _lock(handle)
        if not os.path.samestat(os.fstat(handle), file.stat()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    except BaseException:
        os.close(handle)
        raise
    return handle


def _lock(handle: int) -> None:
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt

    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        raise BlockingIOError(*error.args) from error


def _remove(file: Path, handle: int) -> None:
    """Remove a file that this process holds: before it lets go where the system can do that, so that none is lost."""
    if fcntl is not None:
        file.unlink(missing_ok=True)
    os.close(handle)
    if fcntl is None:
        with suppress(OSError):
            file.unlink()


@contextmanager
def atomic_write(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """A temporary path beside the wanted one, with its suffix, renamed to it when the block ends without an error.

    With `replace=False` a file that stands there by then stays, and `FileExistsError` is raised.
    """
    prefix = f"{PREFIX}{secrets.token_hex(8)}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
    partial = Path(name)
    try:
        if fcntl is not None:
            _lock(handle)  # until it is renamed: for `sweep`
        else:
            os.close(handle)
        partial.chmod(0o666 & ~_UMASK)
        yield partial
        move(partial, path, replace=replace)
    finally:
        if fcntl is not None:
            os.close(handle)
        partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)  # it can only be read by setting it, for all threads at once: so once, on import
    os.umask(mask)
    return mask


_UMASK = _umask()


def move(file: Path, target: Path, *, replace: bool) -> None:
    """Rename a finished file; with `replace=False`, `FileExistsError` if anything has the target's name."""
    if replace:
        file.replace(target)
        return
    try:
        os.link(file, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        file.rename(target)
    else:
        file.unlink()


class Written(NamedTuple):
    """A file as a run left it: what tells whether it still is that file."""

    size: int
    time: int
    digest: str

    @classmethod
    def of(cls, file: Path) -> Written:
        """Size in bytes, time of the last change in ns, and SHA-256 of a file; it reads all of it."""
        with open_regular(file) as opened:
            status = os.fstat(opened.fileno())
            return cls(status.st_size, status.st_mtime_ns, sha256_of(opened))

    def stands(self, file: Path) -> bool:
        """Whether a file still has these bytes; it is read only where its time differs."""
        try:
            status = file.lstat()
            if status.st_size != self.size:
                return False
            return status.st_mtime_ns == self.time or Written.of(file).digest == self.digest
        except OSError:
            return False
