"""Folders for files that are offered for download, removed again after a while.

Belongs here: where results are written. Does not: what is in them.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

KEPT_SECONDS = 600.0


@dataclass
class Files:
    """Makes a folder for each request and removes those that are old; Gradio has copied what it serves by then.

    Attributes:
        root: The server's working folder.
        kept_seconds: How long a folder stays.
    """

    root: Path
    kept_seconds: float = KEPT_SECONDS
    _made: list[tuple[float, Path]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def folder(self) -> Path:
        """A new empty folder.

        Returns:
            Its path.

        Raises:
            OSError: The disk is full.
        """
        now = time.monotonic()
        with self._lock:
            old = [path for made, path in self._made if now - made > self.kept_seconds]
            self._made = [(made, path) for made, path in self._made if now - made <= self.kept_seconds]
            path = Path(tempfile.mkdtemp(prefix="result-", dir=self.root))
            self._made.append((now, path))
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
        return path
