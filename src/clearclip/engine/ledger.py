"""The ledger of an output folder: which images are finished, how, and which files are the run's own, byte for byte.

One SQLite file, written by the one process that holds the folder (`files.writing.claim`). A file is entered before it
gets its name; `before` is the digest of the file that it replaces.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from clearclip.errors import ClearclipError, UsageError, printable
from clearclip.files.reading import RefusedError, check_regular, open_regular
from clearclip.files.writing import Written
from clearclip.formats import Record

LEDGER_NAME = "ledger.sqlite"
VERSION = 2
RECORD_LIMIT = 1 << 28
_TABLES = (
    """CREATE TABLE images (
        stem TEXT PRIMARY KEY, source TEXT NOT NULL, stamp TEXT NOT NULL, digest TEXT NOT NULL,
        settings TEXT NOT NULL, run TEXT NOT NULL, formats TEXT NOT NULL, record BLOB NOT NULL)""",
    """CREATE TABLE files (
        path TEXT PRIMARY KEY, stem TEXT NOT NULL, size INTEGER NOT NULL, time INTEGER NOT NULL,
        digest TEXT NOT NULL, before TEXT NOT NULL)""",
    "CREATE INDEX files_of ON files (stem)",
    "CREATE TABLE about (settings TEXT NOT NULL)",
)
_NAMES_ANOTHER = bytes.fromhex("d9d505f920a163d7")
"""How a journal of SQLite ends that belongs to a transaction in several files; ours are all in one."""
_COLUMNS = "stem, source, stamp, digest, settings, run, formats"


@dataclass(frozen=True)
class Entry:
    """A finished image; `source`, `stamp`, `digest` as in `sources`, `settings` a hash of how it was made."""

    stem: str
    source: str
    stamp: str
    digest: str
    settings: str
    run: str
    formats: tuple[str, ...]


class Owned(NamedTuple):
    """A file of the folder that a run wrote, for the image `stem` or for all (an empty one), and what it replaced."""

    stem: str
    written: Written
    before: str


class Ledger:
    """The finished images and the files of an output folder; open it with `open_ledger`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @property
    def settings(self) -> dict[str, Any] | None:
        """How the folder's results are made; `None` before the first run."""
        row = self._connection.execute("SELECT settings FROM about").fetchone()
        return None if row is None else _decoded(row[0])

    def settle(self, settings: Mapping[str, Any]) -> None:
        """Store how the folder's results are made from now on."""
        with self._connection:
            self._connection.execute("DELETE FROM about")
            self._connection.execute("INSERT INTO about VALUES (?)", (json.dumps(settings),))

    @property
    def is_empty(self) -> bool:
        """Whether no image is finished."""
        return self._connection.execute("SELECT 1 FROM images LIMIT 1").fetchone() is None

    def get(self, stem: str) -> Entry | None:
        """The entry of an image."""
        return next(self._entries("stem = ?", printable(stem)), None)

    def _entries(self, where: str, *values: str) -> Iterator[Entry]:
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM images WHERE {where} ORDER BY stem", values)
        return map(_entry, rows)

    def below(self, prefix: str) -> Iterator[Entry]:
        """The entries whose stems begin with the prefix, as those of one container do."""
        low = printable(prefix)
        return self._entries("stem >= ? AND stem < ?", low, low + "\U0010ffff")

    def made_otherwise(self, settings: str) -> list[Entry]:
        """The entries of images that were made with other settings."""
        return list(self._entries("settings != ?", settings))

    def record(self, stem: str) -> Record | None:
        """What the formats stored of an image."""
        row = self._connection.execute("SELECT record FROM images WHERE stem = ?", (printable(stem),)).fetchone()
        return None if row is None else _unpack(row[0])

    def records(self, settings: str) -> Iterator[Record]:
        """What the formats stored of the images with these settings, by stem."""
        rows = self._connection.execute("SELECT record FROM images WHERE settings = ? ORDER BY stem", (settings,))
        return (_unpack(record) for (record,) in rows)

    def owned(self, path: str) -> Owned | None:
        """What is known of a file, by its path relative to the folder, with slashes."""
        return next(iter(self._files("path", path).values()), None)

    def files(self, stem: str) -> dict[str, Owned]:
        """The files of an image by path; an empty stem gives those of the whole run."""
        return self._files("stem", stem)

    def _files(self, column: str, value: str) -> dict[str, Owned]:
        rows = self._connection.execute(
            f"SELECT path, stem, size, time, digest, before FROM files WHERE {column} = ?", (printable(value),)
        )
        return dict(map(_owned, rows))

    def add(
        self, entries: Iterable[tuple[Entry, Record]], files: Mapping[str, Owned], gone: Iterable[str] = ()
    ) -> None:
        """Enter finished images and files about to get their names, and drop the files `gone`, in one transaction."""
        images = [
            (*map(printable, (entry.stem, entry.source)), entry.stamp, entry.digest, entry.settings, entry.run,
             " ".join(entry.formats), zlib.compress(json.dumps(record).encode()))
            for entry, record in entries
        ]  # fmt: skip
        rows = [(printable(path), printable(one.stem), *one.written, one.before) for path, one in files.items()]
        with self._connection:
            self._connection.executemany("DELETE FROM files WHERE path = ?", [(printable(path),) for path in gone])
            self._connection.executemany(
                f"INSERT OR REPLACE INTO images ({_COLUMNS}, record) VALUES (?,?,?,?,?,?,?,?)", images
            )
            self._connection.executemany("INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?)", rows)

    def forget(self, stem: str) -> None:
        """Remove an image's entry; its files are removed with `add`."""
        with self._connection:
            self._connection.execute("DELETE FROM images WHERE stem = ?", (printable(stem),))

    def recognise(self, stem: str, *, source: str, stamp: str) -> None:
        """Note that a finished image was found with the same bytes at another place or time."""
        with self._connection:
            self._connection.execute(
                "UPDATE images SET source = ?, stamp = ? WHERE stem = ?", (printable(source), stamp, printable(stem))
            )


def _schema(connection: sqlite3.Connection) -> set[tuple[Any, ...]]:
    return set(connection.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite%'"))


def _our_schema() -> set[tuple[Any, ...]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for table in _TABLES:
            connection.execute(table)
        return _schema(connection)


def _entry(row: tuple[Any, ...]) -> Entry:
    if not all(isinstance(value, str) for value in row):
        raise sqlite3.DatabaseError("an image's row holds no text")
    stem, source, stamp, digest, settings, run, formats = row
    return Entry(stem, source, stamp, digest, settings, run, tuple(formats.split()))


def _owned(row: tuple[Any, ...]) -> tuple[str, Owned]:
    path, stem, size, time, digest, before = row
    if not (
        isinstance(size, int) and isinstance(time, int) and all(isinstance(it, str) for it in (path, stem, digest))
    ):
        raise sqlite3.DatabaseError("a file's row holds something else")
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or PureWindowsPath(path).drive:
        raise sqlite3.DatabaseError(f"it names a file outside the folder, {path!r}")
    return path, Owned(stem, Written(size, time, digest), str(before))


def _unpack(record: Any) -> Record:
    try:
        stream = zlib.decompressobj()
        text = stream.decompress(record, RECORD_LIMIT)
        if stream.unconsumed_tail:
            raise sqlite3.DatabaseError(f"a record has more than {RECORD_LIMIT:,} bytes")
        unpacked: Record = _decoded(text)
    except (zlib.error, TypeError, ValueError) as error:
        raise sqlite3.DatabaseError(f"a record is damaged ({error})") from error
    if not isinstance(unpacked.get("formats"), dict):
        raise sqlite3.DatabaseError("a record is none of ours")
    return unpacked


def _decoded(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise sqlite3.DatabaseError(f"it holds no JSON where that is expected ({error})") from error
    if not isinstance(found, dict):
        raise sqlite3.DatabaseError(f"it holds {str(found)[:60]!r} where a JSON object is expected")
    return found


@contextmanager
def open_ledger(folder: Path) -> Iterator[Ledger]:
    """The ledger of an output folder that this process has claimed, made where it is missing.

    `UsageError` if it is damaged, of another version or not clearclip's; `ClearclipError` if the disk is full.
    """
    path = folder / LEDGER_NAME
    try:
        _check_files(path)
        connection = sqlite3.connect(path, timeout=5, check_same_thread=False)
    except (RefusedError, sqlite3.Error) as error:
        raise UsageError(f"{path} cannot be used ({error}): choose another folder") from error
    with closing(connection):
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # also what makes the log work on network folders
            is_new = _is_new(connection, folder)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            if is_new:
                with connection:
                    for statement in (*_TABLES, f"PRAGMA user_version = {VERSION}"):
                        connection.execute(statement)
            yield Ledger(connection)
        except sqlite3.Error as error:
            raise _explain(error, path) from error


def _check_files(path: Path) -> None:
    """`RefusedError` for files that SQLite must not open: it writes through links and waits for pipes.

    A journal may also name a second one, which SQLite would remove, whatever file it is.
    """
    for suffix in ("", "-journal", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if not os.path.lexists(file):
            continue
        try:
            check_regular(file.lstat())
        except RefusedError as error:
            raise RefusedError(f"{file.name}: {error}") from error
        if suffix == "-journal":
            with open_regular(file) as journal:
                journal.seek(max(0, file.stat().st_size - len(_NAMES_ANOTHER)))
                if journal.read() == _NAMES_ANOTHER:
                    raise RefusedError(f"{file.name} names another file to remove: no run of ours wrote it")


def _is_new(connection: sqlite3.Connection, folder: Path) -> bool:
    """Whether a ledger is empty; it is not changed. One of another version or with other tables is refused."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    schema = _schema(connection)
    if schema and version == VERSION and schema != _our_schema():
        raise sqlite3.DatabaseError("its tables are none of ours")
    if schema and version != VERSION:
        raise UsageError(
            f"{folder} holds results of another version of clearclip, whose ledger does not say which files are its "
            "own: choose another folder, or remove this one; --overwrite does not change it either"
        )
    return not schema


def results_below(folder: Path) -> frozenset[Path] | None:
    """The files that a ledger in this folder lists; `None` where there is none that can be read now."""
    path = folder / LEDGER_NAME
    try:
        path.lstat()
        _check_files(path)
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
            ours = _schema(connection) == _our_schema()
            rows = connection.execute("SELECT path FROM files").fetchall() if ours else []
    except (OSError, sqlite3.Error):
        return None
    return frozenset(folder / path for (path,) in rows if isinstance(path, str))


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
    return UsageError(
        f"{path} is none of ours or damaged ({text}): choose another folder; nothing in this one is changed"
    )
