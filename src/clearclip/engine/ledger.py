"""The book of a run: which images are finished, from which bytes, with which settings, and what their formats kept.

One SQLite file in the output folder, written by one process. A finished image is entered after its files stand, so a
run that is killed does at most that image again.

Belongs here: the file. Does not: deciding what to do with an entry (`batch`).
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clearclip.engine.sources import LEDGER_NAME
from clearclip.errors import ClearclipError, UsageError, printable
from clearclip.formats import Record

_TABLE = """
CREATE TABLE IF NOT EXISTS images (
    stem TEXT PRIMARY KEY, source TEXT NOT NULL, stamp TEXT NOT NULL, digest TEXT NOT NULL, settings TEXT NOT NULL,
    formats TEXT NOT NULL, record BLOB NOT NULL
)
"""


_COLUMNS = "stem, source, stamp, digest, settings, formats"


@dataclass(frozen=True)
class Entry:
    """A finished image.

    Attributes:
        stem: Name of its files.
        source: Where it came from.
        stamp: As `sources.stamp`.
        digest: As `sources.digest`.
        settings: Hash of how it was made.
        formats: Names of the formats that it has.
    """

    stem: str
    source: str
    stamp: str
    digest: str
    settings: str
    formats: tuple[str, ...]


class Ledger:
    """The finished images of an output folder; open it with `open_ledger`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def get(self, stem: str) -> Entry | None:
        """The entry of an image.

        Args:
            stem: Name of its files.

        Returns:
            It, or `None`.
        """
        row = self._connection.execute(f"SELECT {_COLUMNS} FROM images WHERE stem = ?", (printable(stem),)).fetchone()
        return None if row is None else _entry(row)

    def below(self, prefix: str) -> Iterator[Entry]:
        """The entries whose stems begin alike, as those of one container do.

        Args:
            prefix: What they begin with.

        Yields:
            Them, by stem.
        """
        low = printable(prefix)
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM images WHERE stem >= ? AND stem < ? ORDER BY stem", (low, low + "\U0010ffff")
        )
        yield from map(_entry, rows)

    def record(self, stem: str) -> Record | None:
        """What the formats kept of an image.

        Args:
            stem: Name of its files.

        Returns:
            It, or `None`.
        """
        row = self._connection.execute("SELECT record FROM images WHERE stem = ?", (printable(stem),)).fetchone()
        return None if row is None else _unpack(row[0])

    def add(self, entries: Iterable[tuple[Entry, Record]]) -> None:
        """Enter finished images, all or none; an older entry of a stem is replaced.

        Args:
            entries: Them, with what their formats kept.

        Raises:
            sqlite3.Error: They cannot be written.
        """
        rows = [
            (
                printable(entry.stem),
                printable(entry.source),
                entry.stamp,
                entry.digest,
                entry.settings,
                " ".join(entry.formats),
                zlib.compress(json.dumps(record).encode()),
            )
            for entry, record in entries
        ]
        with self._connection:
            self._connection.executemany(
                f"INSERT OR REPLACE INTO images ({_COLUMNS}, record) VALUES (?,?,?,?,?,?,?)", rows
            )

    def recognise(self, stem: str, *, source: str, stamp: str) -> None:
        """Note that a finished image was found again, with the same bytes, at another place or time.

        Args:
            stem: Name of its files.
            source: Where it is.
            stamp: As `sources.stamp`.
        """
        with self._connection:
            self._connection.execute(
                "UPDATE images SET source = ?, stamp = ? WHERE stem = ?", (printable(source), stamp, printable(stem))
            )

    def records(self, settings: str) -> Iterator[Record]:
        """What the formats kept of the images that were made one way.

        Args:
            settings: Hash of it.

        Yields:
            The records, by stem.
        """
        rows = self._connection.execute("SELECT record FROM images WHERE settings = ? ORDER BY stem", (settings,))
        for (record,) in rows:
            yield _unpack(record)


def _entry(row: tuple[str, str, str, str, str, str]) -> Entry:
    return Entry(*row[:5], formats=tuple(row[5].split()))


def _unpack(record: bytes) -> Record:
    unpacked: Record = json.loads(zlib.decompress(record))
    return unpacked


@contextmanager
def open_ledger(folder: Path) -> Iterator[Ledger]:
    """The ledger of an output folder, made where it is missing, for one process at a time.

    Args:
        folder: The output folder.

    Yields:
        The ledger.

    Raises:
        UsageError: Another run is at work in the folder, or the file is none of ours.
        ClearclipError: The disk is full.
    """
    path = folder / LEDGER_NAME
    connection = sqlite3.connect(path, timeout=5, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # also what makes the log work on network folders
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        with connection:
            connection.execute(_TABLE)
        yield Ledger(connection)
    except sqlite3.Error as error:
        raise _explain(error, path) from error
    finally:
        connection.close()


def _explain(error: sqlite3.Error, path: Path) -> ClearclipError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # Python 3.11 on
    text = str(error)
    if code == 5 or "locked" in text:
        return UsageError(
            f"{path.parent}: another run is at work in this folder: wait for it, or choose another folder"
        )
    if code in (10, 13) or "full" in text or "disk I/O" in text:
        return ClearclipError(
            f"{path.parent}: the disk is full. What is done stays; free some space and start again ({text})"
        )
    return UsageError(f"{path} is none of ours or damaged ({text}): delete it, or choose another folder")
