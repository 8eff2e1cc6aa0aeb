"""The studio's own folder: which of its files a request may name, and how much may lie in it."""

from __future__ import annotations

import stat
import tempfile
import threading
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from clearclip.errors import UsageError
from clearclip.files.reading import RefusedError, regular_inside
from clearclip.files.temporary import temporary_folder

FOLDER_PREFIX = "clearclip-studio-"
STORED_FILES = 20_000
MEASURED_SECONDS = 1.0
IDLE_SECONDS = 60.0
"""An upload that was not written to for this long has been given up."""
RESULT_SECONDS = 600.0
"""Gradio has copied what it serves by then."""


def work_folder() -> AbstractContextManager[Path]:
    """A temporary folder of this process, removed when the block ends; those that killed servers left go first."""
    return temporary_folder(FOLDER_PREFIX)


class Files:
    """Folders of the gallery, of uploads (Gradio's) and of results; the latter two share at most `limit` bytes."""

    def __init__(self, root: Path, *, limit: int) -> None:
        self.scenes, self.uploads, self.results = (root / name for name in ("scenes", "uploads", "results"))
        for folder in (self.scenes, self.uploads, self.results):
            folder.mkdir(exist_ok=True)
        self.limit = limit
        self._kept: frozenset[Path] = frozenset()
        self._used = 0
        self._measured = 0.0
        self._lock = threading.Lock()

    def received(self, value: Any) -> Path | None:
        """The file that a request names as `{"path": …}`, links resolved; `None` where it names none.

        `UsageError` for anything outside the gallery and the uploads, in any form: Gradio lets some through.
        """
        if value is None:
            return None
        path = value.get("path") if isinstance(value, dict) else None
        if not isinstance(path, str):
            raise UsageError('a file is named by its upload, as {"path": …}: upload it first')
        try:
            return regular_inside(path, (self.uploads, self.scenes))
        except RefusedError as error:
            raise UsageError("the file is not on this server any more: upload it again") from error

    def folder(self) -> Path:
        """A new empty folder for results."""
        self.take(0)
        return Path(tempfile.mkdtemp(prefix="result-", dir=self.results))

    def keep(self) -> None:
        """Never remove what there is now: Gradio's copies of the gallery."""
        self._kept = frozenset(self.uploads.rglob("*"))

    def take(self, count: int) -> None:
        """Count bytes that are about to be written, and make room for them; `UsageError` where there is none."""
        with self._lock:
            if self._used + count > self.limit or time.monotonic() - self._measured > MEASURED_SECONDS:
                self._used = self._tidy(self.limit - count)
                self._measured = time.monotonic()
            if self._used + count > self.limit:
                raise UsageError(
                    f"the {self.limit:,} bytes that this server keeps for uploads and results are full: try again in "
                    "a minute"
                )
            self._used += count

    def _tidy(self, room: int) -> int:
        """Remove abandoned uploads, then the oldest files until the others fit, with a tenth to spare; their bytes."""
        now, total = time.time(), 0
        found: list[tuple[float, int, Path]] = []
        for path in (*self.uploads.rglob("*"), *self.results.rglob("*")):
            with suppress(OSError):
                status = path.lstat()
                age = now - status.st_mtime
                if path in self._kept:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    if age > IDLE_SECONDS:
                        path.rmdir()  # if it is empty
                elif age > (IDLE_SECONDS if path.parent == self.uploads else RESULT_SECONDS) and (
                    path.parent == self.uploads or self.results in path.parents
                ):
                    path.unlink()
                else:
                    total += status.st_size
                    if path.parent != self.uploads:  # those are being written
                        found.append((status.st_mtime, status.st_size, path))
        count = len(found)
        if total <= room and count <= STORED_FILES:
            return total
        for _, size, path in sorted(found):
            if total <= 0.9 * room and count <= 0.9 * STORED_FILES:
                break
            with suppress(OSError):
                path.unlink()
                total, count = total - size, count - 1
        return total
