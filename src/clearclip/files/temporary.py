"""What a process has for a time: folders, removed by the next process where it was killed, and variables."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from clearclip.errors import UsageError
from clearclip.files.writing import PREFIX, claim

TRIES = 20


@contextmanager
def temporary_folder(prefix: str, *, parent: Path | None = None) -> Iterator[Path]:
    """A new folder that only this user may enter, removed when the block ends; those of killed processes go first.

    Such a folder is ours if its name has the prefix, it belongs to this user, and it holds a lock file that nobody has
    locked. `UsageError` if none can be made.
    """
    parent = parent or Path(tempfile.gettempdir())
    for left in parent.glob(f"{prefix}*"):
        _remove_abandoned(left)
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as error:
        raise UsageError(f"no temporary folder can be made in {parent} ({error.strerror}): set TMPDIR") from error
    try:
        with claim(folder):
            yield folder
    finally:
        _remove(folder)


def _remove_abandoned(folder: Path) -> None:
    with suppress(OSError, UsageError):  # somebody is at work there
        status = folder.lstat()
        ours = sys.platform == "win32" or status.st_uid == os.getuid()
        if ours and stat.S_ISDIR(status.st_mode) and (folder / f"{PREFIX}lock").is_file():
            with claim(folder):
                _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(TRIES):  # a child process that is ending may write a last file
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


@contextmanager
def environment(changes: Mapping[str, str], *, kept: Iterable[str] = ()) -> Iterator[None]:
    """Environment variables for libraries and child processes; these and the `kept` ones are as before afterwards."""
    before = {name: os.environ.get(name) for name in (*changes, *kept)}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
