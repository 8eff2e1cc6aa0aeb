"""Finished bands of a label map that is not yet complete, in a folder beside it: a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clearclip.classify.presence import Verdict
from clearclip.errors import UsageError, printable
from clearclip.files.label_maps import read_settings, save_json
from clearclip.files.reading import read_bytes
from clearclip.files.writing import PREFIX, atomic_write, sweep

SETTINGS = "settings.json"
VERDICTS = "verdicts.json"
BAND_NAME = re.compile(r"\d{9,}\.(band|npz)")  # .npz: an earlier version's
FORMAT = "2"
DIGEST_BYTES = hashlib.sha256().digest_size


def unfinished(output: Path) -> Path:
    """The folder that holds the finished bands of an output."""
    return output.with_name(f"{output.name}.unfinished")


@dataclass(frozen=True, eq=False)
class Band:
    """Some rows of the output."""

    labels: npt.NDArray[Any]
    """`(rows, W)`, nodata among them."""
    scores: npt.NDArray[np.float32]
    """`(rows, W)`, or `(rows, 0)` where none were asked for."""
    encoded: npt.NDArray[np.int64]
    """`(n, 2)`: rows of windows that were encoded for it, and how many windows of each."""


@dataclass(frozen=True)
class Layout:
    """What a band of a label map can look like."""

    width: int
    dtype: str
    labels: int
    """How many labels there are."""
    nodata: int
    """The label of pixels that have none."""
    scores: bool
    """Whether scores are kept too."""
    windows: tuple[int, int]
    """`(ny, nx)` of the image."""


@dataclass(frozen=True)
class UnfinishedBands:
    """The folder of finished bands; the output is claimed while it is used.

    A band's file is a digest of the settings, the band's place and its bytes, and then these, compressed.
    """

    folder: Path
    settings: dict[str, str]
    layout: Layout

    @classmethod
    def open(cls, output: Path, settings: dict[str, str], layout: Layout, *, overwrite: bool) -> UnfinishedBands:
        """Go on with what an interrupted run with the same settings left beside an output, or begin anew.

        `UsageError` if a folder of that name is not ours, or was left by other settings and `overwrite` is not given.
        """
        made = cls(unfinished(output), {**settings, "bands": FORMAT}, layout)
        if os.path.lexists(made.folder):
            made._check(overwrite=overwrite)
        return made

    @property
    def begun(self) -> bool:
        """Whether an interrupted run with the same settings goes on."""
        return (self.folder / SETTINGS).is_file()

    def _check(self, *, overwrite: bool) -> None:
        name = printable(str(self.folder))
        if self.folder.is_symlink() or not self.folder.is_dir():
            raise UsageError(f"{name} is no folder: unfinished work would lie there; move it, or name another output")
        sweep(self.folder)
        if not any(self.folder.iterdir()):
            return
        found = read_settings(self.folder / SETTINGS)
        if not isinstance(found, dict):
            raise UsageError(
                f"{name} was not made by clearclip, or is damaged: move or delete it, or name another output"
            )
        if found == self.settings:
            return
        if not overwrite:
            keys = [key for key in {**self.settings, **found} if self.settings.get(key) != found.get(key)]
            differences = (
                f"{key}: {_short(found.get(key))} there, {_short(self.settings.get(key))} here" for key in keys
            )
            raise UsageError(
                f"{name} holds what an interrupted run with other settings made ({'; '.join(differences)}): start "
                "with those again, give --overwrite (overwrite=) to begin anew, or delete that folder"
            )
        self.remove()

    def read(self, top: int, rows: int) -> Band | None:
        """The band of `rows` rows from `top`; `None` if there is none, or a damaged or foreign one."""
        layout = self.layout
        pixels = rows * layout.width
        sizes = np.array([pixels * np.dtype(layout.dtype).itemsize, pixels * 4 * layout.scores])
        limit = int(sizes.sum()) + 16 * layout.windows[0]
        try:
            data = read_bytes(self._file(top), limit=DIGEST_BYTES + limit + limit // 1000 + 64)
            packed = data[DIGEST_BYTES:]
            if data[:DIGEST_BYTES] != self._digest(top, packed):
                return None
            labels, scores, encoded = np.split(
                np.frombuffer(zlib.decompressobj().decompress(packed, limit), np.uint8), sizes.cumsum()
            )
            band = Band(
                labels.view(layout.dtype).reshape(rows, layout.width),
                scores.view(np.float32).reshape(rows, -1) if layout.scores else np.empty((rows, 0), np.float32),
                encoded.view(np.int64).reshape(-1, 2),
            )
        except (OSError, ValueError, zlib.error):
            return None
        return band if self._possible(band) else None

    def _possible(self, band: Band) -> bool:
        """Whether the numbers are such as a run makes: a file of the right digest may still be a forged one."""
        known = band.labels != self.layout.nodata
        return bool(
            (band.labels[known] < self.layout.labels).all()
            and (not self.layout.scores or np.array_equal(np.isfinite(band.scores), known))
            and ((band.encoded >= 0) & (band.encoded <= self.layout.windows)).all()
        )

    def write(self, top: int, band: Band) -> None:
        """Keep a band that begins at row `top`; `OSError` if it cannot be written."""
        arrays = (band.labels, band.scores, band.encoded)
        packed = zlib.compress(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
        self._begin()
        with atomic_write(self._file(top)) as partial:
            partial.write_bytes(self._digest(top, packed) + packed)

    def _begin(self) -> None:
        if not (self.folder / SETTINGS).is_file():
            self.folder.mkdir(exist_ok=True)
            save_json(self.folder / SETTINGS, {"settings": self.settings}, {})

    def read_verdicts(self) -> tuple[Verdict, ...]:
        """Which labels compete in the whole image, as an interrupted run found; none where there are none of ours."""
        try:
            found = json.loads(read_bytes(self.folder / VERDICTS, limit=100_000_000))
            verdicts = tuple(Verdict(float(one[0]), float(one[1]), str(one[2])) for one in found["verdicts"])
        except (OSError, ValueError, TypeError, LookupError):
            return ()
        return verdicts if (found["settings"], len(verdicts)) == (self.settings, self.layout.labels) else ()

    def write_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Keep which labels compete in the whole image."""
        self._begin()
        with atomic_write(self.folder / VERDICTS) as partial:
            told = [[one.competed, one.best, one.reason] for one in verdicts]
            partial.write_text(json.dumps({"settings": self.settings, "verdicts": told}), encoding="utf-8")

    def remove(self) -> None:
        """Remove what is kept, and the folder unless something else lies in it."""
        for file in self.folder.glob("*"):
            if BAND_NAME.fullmatch(file.name) or file.name in (SETTINGS, VERDICTS) or file.name.startswith(PREFIX):
                file.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _digest(self, top: int, packed: bytes) -> bytes:
        place = json.dumps([self.settings, top], sort_keys=True).encode()
        return hashlib.sha256(b"%d %b%b" % (len(place), place, packed)).digest()

    def _file(self, top: int) -> Path:
        return self.folder / f"{top:09}.band"


def _short(text: Any) -> str:
    """A setting as a message has room for it."""
    shown = "none" if text is None else printable(str(text))
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
