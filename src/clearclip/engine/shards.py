"""A run in parts, each by a process of its own into a folder of its own, and their union."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from clearclip.engine.ledger import LEDGER_NAME, Ledger, open_ledger
from clearclip.engine.report import ERROR_TABLE, Report
from clearclip.engine.results import Results, Staged, stage
from clearclip.engine.run import compared, mark_of, write_settings
from clearclip.errors import UsageError
from clearclip.files.reading import read_text
from clearclip.files.shards import Shard
from clearclip.files.writing import claim
from clearclip.formats import Choices, Run, Writer, get_formats
from clearclip.vocabulary import Vocabulary

MERGED = "merged-"
"""Before the name of a part's folder whose results have been moved."""
NAME = re.compile(rf"(?:{MERGED})?shard-([0-9]{{1,9}})-of-([0-9]{{1,9}})")
AT_ONCE = 200
"""Images whose files are moved in one transaction."""
TABLE_BYTES = 1 << 28


def shard_folder(output: Path, shard: Shard) -> Path:
    """Where a part's results lie until all are merged."""
    return output / f"shard-{shard.index}-of-{shard.count}" if shard.count > 1 else output


def merge_shards(output: Path) -> Report:
    """Move the results of all parts below a folder into it, as an undivided run would have left them.

    `UsageError` if a part is missing or at work, or they were made with different settings. Interrupted, it goes on
    where it stopped.
    """
    report = Report()
    if not any(output.glob("*shard-*")):
        raise UsageError(f"{output} holds no parts of a run: run with --shard 1/n to n/n first")
    with claim(output):
        if any(output.glob("shard-*")):  # else they have been moved, and are only to be removed
            folders = _all_shards(output)
            _merge(output, folders, report)
            for folder in folders:  # all before the first is removed, so that a merge that is stopped here goes on
                folder.rename(output / (MERGED + folder.name.removeprefix(MERGED)))
        for folder in output.glob(f"{MERGED}shard-*"):
            _remove(folder)
    return report


def _merge(output: Path, folders: Sequence[Path], report: Report) -> None:
    with ExitStack() as held, open_ledger(output) as ledger:
        for folder in folders:
            held.enter_context(claim(folder))
        results = Results(output, ledger)
        results.recover()
        for folder in folders:
            with open_ledger(folder) as part:
                _adopt_settings(ledger, part, folder)
                _move_results(results, part, folder, report)
                report.failed += _errors(folder)
        _finish(results, output, report)
        results.clean()


def _remove(folder: Path) -> None:
    """Remove a part's folder, whose results are elsewhere, but for what somebody else put there."""
    with claim(folder):
        if (folder / LEDGER_NAME).is_file():
            with open_ledger(folder) as part:
                Results(folder, part).remove(part.files(""))
        for suffix in ("", "-wal", "-shm"):
            (folder / f"{LEDGER_NAME}{suffix}").unlink(missing_ok=True)
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty
            Path(place).rmdir()


def _all_shards(output: Path) -> list[Path]:
    found = {
        (int(match[2]), int(match[1])): path
        for path in output.glob("*shard-*")
        if (match := NAME.fullmatch(path.name)) and (path.name.startswith("shard") or (path / LEDGER_NAME).is_file())
    }
    counts = {count for count, _ in found}
    if len(counts) != 1:
        raise UsageError(
            f"{output} holds parts of {len(counts)} divisions: run --shard 1/n to n/n with one n, and merge"
        )
    (count,) = counts
    if missing := [str(index) for index in range(1, count + 1) if (count, index) not in found]:
        raise UsageError(
            f"{output}: of {count} parts {', '.join(missing[:10])} are missing: run --shard {missing[0]}/{count}"
        )
    for path in found.values():
        if not (path / LEDGER_NAME).is_file():
            raise UsageError(f"{path} holds no results of a run: run that part again")
    return [found[key] for key in sorted(found)]


def _adopt_settings(ledger: Ledger, part: Ledger, folder: Path) -> None:
    theirs, known = part.settings, ledger.settings
    if theirs is None:
        raise UsageError(f"{folder} holds no results of a run: run that part again")
    if known is None:
        ledger.settle(theirs)
    elif differing := sorted(key for key in compared(theirs, known) if theirs.get(key) != known.get(key)):
        raise UsageError(f"{folder} was made with other settings ({', '.join(differing)}): run that part again")


def _move_results(results: Results, part: Ledger, folder: Path, report: Report) -> None:
    entries = list(part.below(""))
    for start in range(0, len(entries), AT_ONCE):
        made = []
        for entry in entries[start : start + AT_ONCE]:
            record, files = part.record(entry.stem), part.files(entry.stem)
            if record is None or not all(owned.written.stands(folder / path) for path, owned in files.items()):
                raise UsageError(f"{folder}: a result of {entry.source} is missing or was changed: run that part again")
            with stage(results.folder) as staging:
                for path in files:
                    (staging / path).parent.mkdir(parents=True, exist_ok=True)
                    _link(folder / path, staging / path)
                made.append((entry, record, Staged.of(staging)))
        refused = results.accept(made)
        report.failed += [(entry.source, refused[entry.stem]) for entry, _, _ in made if entry.stem in refused]
        for entry, _, _ in made:
            if entry.stem not in refused:
                report.done += 1
                for path in part.files(entry.stem):
                    (folder / path).unlink()
                part.forget(entry.stem)


def _link(file: Path, link: Path) -> None:
    try:
        link.hardlink_to(file)
    except OSError:  # a file system without links, or a part on another one
        shutil.copy2(file, link)


def _errors(folder: Path) -> list[tuple[str, str]]:
    path = folder / ERROR_TABLE
    if not path.is_file():
        return []
    rows = list(csv.reader(io.StringIO(read_text(path, limit=TABLE_BYTES), newline="")))
    return [(image, reason) for image, reason in rows[1:]]


def _finish(results: Results, output: Path, report: Report) -> None:
    settings = results.ledger.settings or {}
    mark = mark_of(settings)
    vocabulary = Vocabulary.from_entries(settings["labels"], background=settings["background"])
    choices = Choices(**{**settings["choices"], "things": tuple(settings["choices"]["things"])})
    info = {key: value for key, value in settings.items() if key not in ("labels", "background", "choices")}
    names = dict.fromkeys(name for record in results.ledger.records(mark) for name in record["formats"])
    with stage(output) as folder:
        if names:
            Writer(get_formats(names), Run(folder, vocabulary, info, choices=choices)).finish(
                lambda: results.ledger.records(mark)
            )
        report.write_errors(folder)
        write_settings(folder, settings, results.ledger.records(mark))
        results.publish(Staged.of(folder))
