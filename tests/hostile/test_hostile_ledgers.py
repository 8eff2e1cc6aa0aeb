"""Ledgers that others made: journals, pipes and links beside them, and links in the place of result folders."""

import os
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing

import pytest

from clearclip.engine.ledger import Entry, Owned, open_ledger, results_below
from clearclip.engine.results import STAGES, Results
from clearclip.errors import UsageError
from clearclip.files.writing import Written

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
MAGIC = bytes.fromhex("d9d505f920a163d7")


@pytest.fixture
def folder(tmp_path):
    """An output folder with an empty ledger."""
    folder = tmp_path / "out"
    folder.mkdir()
    with open_ledger(folder) as ledger:
        ledger.settle({"labels": []})
    return folder


def test_a_ledger_s_journal_removes_no_file_that_it_names(folder, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_bytes(b"made by hand")
    name, pages = str(precious).encode(), (folder / "ledger.sqlite").stat().st_size // 4096
    head = (MAGIC + struct.pack(">5I", 0, 1, pages, 512, 4096)).ljust(512, b"\0")
    tail = struct.pack(">I", 0x40000000 // 4096 + 1) + name + struct.pack(">2I", len(name), sum(name)) + MAGIC
    (folder / "ledger.sqlite-journal").write_bytes(head + tail)
    with pytest.raises(UsageError, match="journal names another file"), open_ledger(folder):
        pass
    assert precious.read_bytes() == b"made by hand"


def test_a_ledger_that_a_kill_left_with_a_plain_journal_is_used(folder):
    (folder / "ledger.sqlite-journal").write_bytes(bytes(512))
    with open_ledger(folder) as ledger:
        assert ledger.settings == {"labels": []}


@needs_pipes
@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_a_pipe_beside_a_ledger_is_not_waited_for(folder, suffix):
    os.mkfifo(folder / f"ledger.sqlite{suffix}")
    code = (
        "import sys; from pathlib import Path\n"
        "from clearclip.engine.ledger import open_ledger, results_below\n"
        "print(results_below(Path(sys.argv[1])), flush=True)\n"
        "with open_ledger(Path(sys.argv[1])): pass"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "None"
    assert f"ledger.sqlite{suffix}: it is a named pipe" in done.stderr


@pytest.mark.parametrize("stands", [True, False])
def test_a_ledger_is_not_made_through_a_link(tmp_path, stands):
    mine, folder = tmp_path / "empty.txt", tmp_path / "out"
    folder.mkdir()
    if stands:
        mine.touch()
    (folder / "ledger.sqlite").symlink_to(mine)
    with pytest.raises(UsageError, match="no regular file"), open_ledger(folder):
        pass
    assert results_below(folder) is None
    assert (mine.stat().st_size == 0) if stands else not mine.exists()


def waiting(folder, ledger):
    """A file of a killed run that waits for its name."""
    file = folder / STAGES / "x" / "masks" / "a.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"new")
    ledger.add((), {"masks/a.png": Owned("a", Written.of(file), "")})


def test_a_killed_run_is_not_finished_behind_a_link(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "masks").symlink_to(elsewhere)
    with open_ledger(folder) as ledger:
        waiting(folder, ledger)
        Results(folder, ledger).recover()
    assert not list(elsewhere.iterdir())
    assert not (folder / STAGES).exists()


@pytest.mark.parametrize("make", [os.mkdir, pytest.param(getattr(os, "mkfifo", None), marks=needs_pipes)])
def test_a_killed_run_goes_on_where_something_else_has_the_name(folder, make):
    (folder / "masks").mkdir()
    make(folder / "masks" / "a.png")
    with open_ledger(folder) as ledger:
        waiting(folder, ledger)
        results = Results(folder, ledger)
        results.recover()
        assert "was not written by a run" in results.obstacle(["masks/a.png"], stem="a")
    assert not (folder / "masks" / "a.png").is_file()


def test_nothing_is_set_aside_from_behind_a_link(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(b"made by hand")
    (folder / "masks").symlink_to(elsewhere)
    entry = Entry("a", "a.jpg", "", "", "earlier", "run", ("masks",))
    with open_ledger(folder) as ledger:
        ledger.add([(entry, {"formats": {}})], {"masks/a.png": Owned("a", Written(3, 1, "0" * 64), "")})
        Results(folder, ledger).set_aside([entry], "{}")
    assert (elsewhere / "a.png").read_bytes() == b"made by hand"


@pytest.mark.parametrize("settings", ["3", "0.5", "[1]", '[["labels", []]]', "null", '"labels"', "{", b"\xff"])
def test_settings_that_are_no_object_are_damage(folder, settings):
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        connection.execute("UPDATE about SET settings = ?", (settings,))
    with pytest.raises(UsageError, match="none of ours or damaged"), open_ledger(folder) as ledger:
        _ = ledger.settings
