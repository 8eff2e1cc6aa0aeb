"""Which files of an output folder are our own, byte for byte: a list in the folder, and nothing else is ever replaced.

A file is entered before it gets its name. Killed in between, a run leaves an entry without its file, and the file that
stands there is still known by its earlier entry. Folders of labelled images have a ledger instead (`engine.ledger`).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath

from clearclip.errors import UsageError
from clearclip.files.reading import RefusedError, check_regular, read_bytes
from clearclip.files.writing import Written, claim, move

LIST_NAME = "clearclip-files"
LIST_LIMIT = 1 << 28
"""Bytes of a list: some 1.5 million files."""


@contextmanager
def hold(folder: Path, *, part: str = "", patience: float = 0.0) -> Iterator[Outputs]:
    """Claim an output folder and read its lists; `UsageError` if one is damaged, or another run is at work there.

    With a `part`, processes that have different ones may be at work in the folder at once, each with a list of its own.
    A claim that somebody else has is waited for, `patience` seconds at most.

    >>> with tempfile.TemporaryDirectory() as folder, hold(Path(folder)) as outputs:
    ...     outputs.check(["words/a.txt"])
    ...     with outputs.write("words/a.txt") as partial:
    ...         _ = partial.write_text("sky")
    """
    last = time.monotonic() + patience
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(claim(folder / _list_name(part) if part else folder, is_file=bool(part)))
                break
            except UsageError as error:
                if not isinstance(error.__cause__, BlockingIOError) or time.monotonic() >= last:
                    raise
            time.sleep(0.05)
        yield Outputs(folder, part=part)


class Outputs:
    """The files of a folder that this process has claimed, with `hold` or otherwise."""

    def __init__(self, folder: Path, *, part: str = "") -> None:
        self.folder = folder
        self._list = folder / _list_name(part)
        self._stage = folder / f".{LIST_NAME}{part}"
        self._known: dict[str, list[Written]] = {}
        self._made: set[str] = set()
        _remove_left(self._stage)
        if os.path.lexists(self._stage):
            raise UsageError(f"{self._stage} is in the way of unfinished files: move it, or choose another folder")
        for file in sorted({*folder.glob(f"{LIST_NAME}*.jsonl"), self._list}):
            for name, written in _read(file):
                self._known.setdefault(name, []).append(written)

    def stands(self, name: str) -> bool:
        """Whether a file is there as one of our runs wrote it."""
        return any(written.stands(self.folder / name) for written in self._known.get(name, ()))

    def check(self, names: Iterable[str]) -> None:
        """Refuse names that are taken by what is not ours, or that no file can have here, before they are made."""
        seen: set[str] = set()
        for name in names:
            self._check(name)
            if name in seen:
                raise self._twice(name)
            seen.add(name)

    def _twice(self, name: str) -> UsageError:
        return UsageError(f"{self.folder / name} would be the name of two results: ask for one of them at a time")

    def _check(self, name: str) -> bool:
        """Whether a file of ours has this name."""
        file = self.folder / name
        if not _is_plain(name):
            raise UsageError(f"{name!r} leads out of the folder {self.folder}: no file of ours may be called so")
        if not Path(os.path.realpath(file.parent)).is_relative_to(os.path.realpath(self.folder)):
            raise UsageError(
                f"{file} lies elsewhere, as {file.parent} is a link: remove the link, or choose another folder"
            )
        try:
            is_file = stat.S_ISREG(file.lstat().st_mode)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise UsageError(f"{file} cannot be written ({error.strerror}): choose another folder") from error
        if not is_file or name not in self._known:
            raise UsageError(
                f"{file} is there and was not written by a run in this folder: move it, or choose another folder"
            )
        if not self.stands(name):
            raise UsageError(f"{file} was changed since it was written: keep it elsewhere, or choose another folder")
        return True

    @contextmanager
    def write(self, name: str, *, again: bool = False) -> Iterator[Path]:
        """A path to write a file to, which gets its name, with slashes, when the block ends without an error.

        One name twice in a run is refused, but where `again` says that it is the same result in a later state.
        """
        if name in self._made and not again:
            raise self._twice(name)
        self._check(name)
        self._stage.mkdir(exist_ok=True)
        waiting = Path(tempfile.mkdtemp(dir=self._stage))
        try:
            partial = waiting / PurePosixPath(name).name
            yield partial
            replace = self._check(name)
            self._enter(name, Written.of(partial))
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            move(partial, target, replace=replace)
            self._made.add(name)
        except FileExistsError as error:
            raise UsageError(f"{self.folder / name} appeared meanwhile: move it, and start again") from error
        finally:
            shutil.rmtree(waiting, ignore_errors=True)
            with suppress(OSError):  # another file waits there
                self._stage.rmdir()

    def drop_rest(self, prefix: str) -> None:
        """Remove files of earlier runs whose names begin so, if this one has not made them and nobody changed them."""
        for name in self._known.keys() - self._made:
            if name.startswith(prefix):
                with suppress(UsageError):
                    if self._check(name):
                        (self.folder / name).unlink()

    def _enter(self, name: str, written: Written) -> None:
        line = json.dumps([name, *written]) + "\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(self._list, flags, 0o666)
        try:
            end = os.fstat(handle).st_size
            if os.write(handle, line.encode()) < len(line):
                os.ftruncate(handle, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._list))
        finally:
            os.close(handle)
        self._known.setdefault(name, []).append(written)


def _remove_left(stage: Path) -> None:
    """Remove what a killed run left, and nothing else that somebody may have put there."""
    if not stage.is_symlink():
        for waiting in stage.glob("tmp????????"):  # as `tempfile.mkdtemp` calls them
            shutil.rmtree(waiting, ignore_errors=True)
        with suppress(OSError):
            stage.rmdir()


def _list_name(part: str) -> str:
    return f"{LIST_NAME}{part}.jsonl"


def _is_plain(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not (
        path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive or "\0" in name
    )


def _read(file: Path) -> Iterator[tuple[str, Written]]:
    """The entries of a list; `UsageError` if there is anything else in it."""
    try:
        check_regular(file.lstat())  # a link is refused, as it would be written through
        *lines, rest = read_bytes(file, limit=LIST_LIMIT).split(b"\n")
        if rest:
            raise RefusedError("its last line has no end: delete that line")
        for number, line in enumerate(lines, start=1):
            try:
                name, size, changed, digest = json.loads(line)
                is_entry = type(size) is int and type(changed) is int and re.fullmatch("[0-9a-f]{64}", digest)
                if not (is_entry and _is_plain(name)):
                    raise ValueError("none of ours")
            except (ValueError, TypeError, RecursionError) as error:
                raise RefusedError(f"its line {number:,} is damaged") from error
            yield name, Written(size, changed, digest)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(
            f"{file} should list which files here are our own, and cannot be used ({error.strerror or error}): "
            "mend it, or choose another folder"
        ) from error
