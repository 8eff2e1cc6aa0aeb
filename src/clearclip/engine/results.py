"""The files of an output folder: written aside, compared with the ledger, entered, then renamed.

Workers write the files of an image into a folder of their own (`stage`). The one process that holds the output folder
checks that no name is taken by a file that is not in its ledger, enters the new ones, and gives them their names.
Killed before the entry, a run leaves nothing of the image; killed after it, the next start goes on with the renaming.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from clearclip.engine.ledger import Entry, Ledger, Owned
from clearclip.errors import UsageError
from clearclip.files.reading import open_regular
from clearclip.files.writing import PREFIX, Written, move
from clearclip.formats import Record

STAGES = f"{PREFIX}run"


@dataclass(frozen=True)
class Staged:
    """Files that wait in a folder, by the paths that they will have in the output folder."""

    folder: Path
    files: Mapping[str, Written]

    @classmethod
    def of(cls, folder: Path) -> Staged:
        """All files below a folder."""
        files = sorted(file for file in folder.rglob("*") if not file.is_dir())
        return cls(folder, {file.relative_to(folder).as_posix(): Written.of(file) for file in files})

    def discard(self) -> None:
        """Remove the waiting files."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def stage(output: Path) -> Iterator[Path]:
    """A new folder for files on their way into `output`; it is removed if the block fails."""
    waiting = output / STAGES
    waiting.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=waiting))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


class Results:
    """The files of a folder that this process has claimed; `overwrite` also replaces edited ones."""

    def __init__(self, folder: Path, ledger: Ledger, *, overwrite: bool = False) -> None:
        self.folder = folder
        self.ledger = ledger
        self.overwrite = overwrite

    def recover(self) -> None:
        """Finish what a killed run had entered but not renamed, and remove the rest of what it left."""
        waiting = self.folder / STAGES
        for file in () if waiting.is_symlink() else waiting.glob("*/**/*"):
            path = file.relative_to(waiting).as_posix().partition("/")[2]
            known, target = self.ledger.owned(path), self.folder / path
            if known is None or not (known.written.stands(file) and self._is_inside(file) and self._is_inside(target)):
                continue
            if os.path.lexists(target) and not stat.S_ISREG(target.lstat().st_mode):
                continue
            if not os.path.lexists(target) or Written.of(target).digest in (known.before, known.written.digest):
                target.parent.mkdir(parents=True, exist_ok=True)
                move(file, target, replace=True)
        self.clean()

    def clean(self) -> None:
        """Remove what waits for its name; nobody else is at work in the folder."""
        shutil.rmtree(self.folder / STAGES, ignore_errors=True)

    def stand(self, stem: str, wanted: Iterable[Path]) -> bool:
        """Whether the wanted files of an image, or all files in a wanted folder, are there as they were written."""
        known = self.ledger.files(stem)
        for name in wanted:
            path = name.relative_to(self.folder).as_posix()
            own = [one for one in known if one == path or one.startswith(f"{path}/")]
            if not own or not all(known[one].written.stands(self.folder / one) for one in own):
                return False
        return True

    def _is_inside(self, file: Path) -> bool:
        """Whether a file's folder, links resolved, lies below this one."""
        return Path(os.path.realpath(file.parent)).is_relative_to(os.path.realpath(self.folder))

    def obstacle(self, paths: Iterable[str], *, stem: str) -> str | None:
        """Why files of an image may not get these names, as far as that is known before they are made."""
        for path in paths:
            file = self.folder / path
            if not self._is_inside(file):
                return f"{file} lies elsewhere, as {file.parent} is a link: remove the link, or choose another folder"
            if not os.path.lexists(file):
                continue
            known = self.ledger.owned(path)
            if known is None or not stat.S_ISREG(file.lstat().st_mode):
                return f"{file} is there and was not written by a run in this folder: move it, or choose another folder"
            if known.stem != stem:
                return f"{file} belongs to {known.stem or 'the whole run'}: rename the image, or choose another folder"
            if not self.overwrite and _may_be_edited(file, known.written):
                return f"{file} was changed since it was written: keep it elsewhere, or give --overwrite"
        return None

    def accept(self, made: Iterable[tuple[Entry, Record, Staged]]) -> dict[str, str]:
        """Enter images and give their files their names; returns why it could not be done, by stem.

        Files that an image had before and has no more are removed if they still are as they were written.
        """
        entries: list[tuple[Entry, Record]] = []
        files: dict[str, Owned] = {}
        moves: list[tuple[str, Staged]] = []
        gone: list[str] = []
        refused: dict[str, str] = {}
        for entry, record, staged in made:
            if reason := self._taken(entry.stem, staged, files):
                refused[entry.stem] = reason
                staged.discard()
                continue
            entries.append((entry, record))
            files |= self._rows(entry.stem, staged)
            old = self.ledger.get(entry.stem)
            if old is not None and (old.settings, old.digest) != (entry.settings, entry.digest):
                gone += self._removed(self.ledger.files(entry.stem).keys() - staged.files.keys())
            moves.append((entry.stem, staged))
        self.ledger.add(entries, files, gone)
        for stem, staged in moves:
            if reason := self._move(staged, files):
                self.ledger.forget(stem)
                refused[stem] = reason
        return refused

    def publish(self, staged: Staged) -> None:
        """Give the files of the whole run their names; `UsageError` if one is taken."""
        if reason := self._taken("", staged, {}):
            raise UsageError(reason)
        files = self._rows("", staged)
        self.ledger.add((), files)
        if reason := self._move(staged, files):
            raise UsageError(reason)

    def set_aside(self, entries: Iterable[Entry], settings: str) -> Path:
        """Move the files of images into a folder `earlier-…` with a `labels.json` of their own, and give its path."""
        folder = Path(tempfile.mkdtemp(prefix="earlier-", dir=self.folder))
        folder.chmod(self.folder.stat().st_mode & 0o777)
        (folder / "labels.json").write_text(settings + "\n", encoding="utf-8")
        for entry in entries:
            for path in self.ledger.files(entry.stem):
                if not self._is_inside(self.folder / path):
                    continue  # behind a link, where it may be somebody else's
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    move(self.folder / path, folder / path, replace=False)
        return folder

    def remove(self, paths: Iterable[str]) -> None:
        """Remove our files that are as they were written, and their entries; edited ones stay."""
        self.ledger.add((), {}, self._removed(paths))

    def _removed(self, paths: Iterable[str]) -> list[str]:
        gone = []
        for path in paths:
            known, file = self.ledger.owned(path), self.folder / path
            if known is None or not self._is_inside(file):
                continue
            if known.written.stands(file):
                file.unlink()
            if os.path.lexists(file):
                continue
            gone.append(path)
            above = file.parent
            with suppress(OSError):  # not empty
                while above != self.folder:
                    above.rmdir()
                    above = above.parent
        return gone

    def _taken(self, stem: str, staged: Staged, others: Mapping[str, Owned]) -> str | None:
        if both := [path for path in staged.files if path in others]:
            return f"{self.folder / both[0]} is the name of two results: rename one image, or use two folders"
        reason = self.obstacle(staged.files, stem=stem)
        if reason is not None or self.overwrite:
            return reason
        for path in staged.files:
            file, known = self.folder / path, self.ledger.owned(path)
            stands = known is None or known.written.stands(file) or not os.path.lexists(file)
            if not (stands or _begins(staged.folder / path, file)):
                return f"{file} was changed since it was written: keep it elsewhere, or give --overwrite"
        return None

    def _rows(self, stem: str, staged: Staged) -> dict[str, Owned]:
        def before(target: Path) -> str:
            return Written.of(target).digest if os.path.lexists(target) else ""

        return {path: Owned(stem, written, before(self.folder / path)) for path, written in staged.files.items()}

    def _move(self, staged: Staged, rows: Mapping[str, Owned]) -> str | None:
        try:
            for path in staged.files:
                target = self.folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                move(staged.folder / path, target, replace=bool(rows[path].before))
        except FileExistsError as error:
            self.ledger.add((), {}, [path for path in staged.files if (staged.folder / path).exists()])
            return f"{error.filename or self.folder} appeared while the run was at work: move it, and start again"
        finally:
            staged.discard()
        return None


def is_folder(file: Path) -> bool:
    """Whether a name is a folder's, not a link's; False for a name too long for a file."""
    return os.path.isdir(file) and not os.path.islink(file)  # noqa: PTH112, PTH114  (Path's raise for a long name)


def _may_be_edited(file: Path, written: Written) -> bool:
    """Whether a file was changed other than by being cut short, and so may hold somebody's work."""
    try:
        return file.lstat().st_size >= written.size and not written.stands(file)
    except OSError:
        return False


def _begins(whole: Path, part: Path) -> bool:
    """Whether a file is a prefix of another, as one that was cut or emptied is."""
    try:
        with open_regular(whole) as long, open_regular(part) as short:
            while chunk := short.read(1 << 20):
                if long.read(len(chunk)) != chunk:
                    return False
    except OSError:
        return False
    return True


def naming(folder: Path) -> Callable[[str], str]:
    """Folds names that the folder's file system takes for the same: letter case and Unicode form, or nothing."""
    with stage(folder) as probe:
        (probe / "Name").touch()
        folds = (probe / "nAME").exists()
        shutil.rmtree(probe, ignore_errors=True)
    return (lambda name: unicodedata.normalize("NFC", name).casefold()) if folds else str
