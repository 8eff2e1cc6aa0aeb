"""Finished bands of a label map that is not yet complete, in a folder beside it: a run that was stopped goes on.

Belongs here: what of a large image is kept until all of it is done. Does not: how a band is made (`large`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clearclip.files.writing import PREFIX, atomic_write
from clearclip.outputs import read_settings, save_json

SETTINGS = "settings.json"
BAND_NAME = re.compile(r"\d{9}\.npz")


@dataclass(frozen=True, eq=False)
class Band:
    """Some rows of the output.

    Attributes:
        labels: `(rows, W)`, nodata among them.
        scores: `(rows, W)` float32, or `(rows, 0)` where none were asked for.
        encoded: `(n, 2)` int64: rows of windows that were encoded for it, and how many windows of each.
    """

    labels: npt.NDArray[Any]
    scores: npt.NDArray[np.float32]
    encoded: npt.NDArray[np.int64]


@dataclass(frozen=True)
class UnfinishedBands:
    """Finished bands of a label map that is not yet complete.

    Attributes:
        folder: Where they are.
    """

    folder: Path

    @classmethod
    def open(cls, output: Path, settings: dict[str, str]) -> UnfinishedBands:
        """Make the folder, or go on with what an interrupted run with the same settings left in it.

        Args:
            output: The label map that shall be.
            settings: How it is made.

        Returns:
            The folder beside it.

        Raises:
            OSError: It cannot be written.
        """
        made = cls(output.with_name(f"{output.name}.unfinished"))
        written = made.folder / SETTINGS
        if read_settings(written) != settings:
            made.remove()
            made.folder.mkdir(exist_ok=True)
            save_json(written, {"settings": settings}, {})
        return made

    def read(self, top: int) -> Band | None:
        """A band that an earlier run left.

        Args:
            top: Its first row.

        Returns:
            It, or `None`.
        """
        file = self._file(top)
        if not file.is_file():
            return None
        with np.load(file) as stored:
            return Band(stored["labels"], stored["scores"], stored["encoded"])

    def write(self, top: int, band: Band) -> None:
        """Keep a band.

        Args:
            top: Its first row.
            band: What to keep.

        Raises:
            OSError: It cannot be written.
        """
        with atomic_write(self._file(top)) as partial:
            np.savez_compressed(partial, labels=band.labels, scores=band.scores, encoded=band.encoded)

    def remove(self) -> None:
        """Remove what is kept, and the folder unless something else lies in it."""
        for file in self.folder.glob("*"):
            if BAND_NAME.fullmatch(file.name) or file.name == SETTINGS or file.name.startswith(PREFIX):
                file.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _file(self, top: int) -> Path:
        return self.folder / f"{top:09}.npz"
