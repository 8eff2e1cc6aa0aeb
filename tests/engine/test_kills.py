"""Runs that are killed: started again they end with every image once, byte for byte as if nothing had happened."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import standin
from clearclip.engine.run import segment_files
from clearclip.engine.sources import find_sources

pytest.importorskip("ray", reason="ray has no wheel for this Python")
if sys.platform != "linux":
    pytest.skip("finds processes through /proc", allow_module_level=True)

COUNT = 60
KILLS = int(os.environ.get("CLEARCLIP_KILLS", "1"))  # of each kind; 3 take minutes
PATIENCE = 240.0


def parents():
    """`{pid: parent}` of all processes."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            found[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def family(pid):
    """A process's descendants."""
    by_parent = {}
    for child, parent in parents().items():
        by_parent.setdefault(parent, []).append(child)
    found, todo = [], [pid]
    while todo:
        children = by_parent.get(todo.pop(), [])
        found += children
        todo += children
    return found


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_worker(pid):
    try:
        return b"MapWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


class Driver:
    """A run in a process of its own, with a cluster of its own."""

    def __init__(self, source, output, log):
        self.output = output
        paths = [str(Path(standin.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "standin", str(source), str(output), "0.02"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def done(self):
        return len(list(self.output.glob("[0-9]*.png")))

    def wait_for(self, count):
        """Until so many results are there, or the run is over."""
        until = time.monotonic() + PATIENCE
        while self.process.poll() is None and self.done() < count:
            assert time.monotonic() < until, "the run does not go on"
            time.sleep(0.02)

    def end(self, *, all_at_once):
        """Kill the driver; its workers with it, or see them go by themselves."""
        children = family(self.process.pid)
        kill([self.process.pid, *(children if all_at_once else [])])
        self.process.wait()
        until = time.monotonic() + PATIENCE
        while any(Path(f"/proc/{pid}/fd").exists() and alive(pid) for pid in children):
            assert time.monotonic() < until, "workers outlive their driver"
            time.sleep(0.1)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.timeout(1200)
def test_killed_at_any_moment(images, tmp_path, contents):
    """The driver, everything, and workers of the run that may end, each at a random count of results."""
    source, output = images(COUNT), tmp_path / "ray"
    segment_files(
        standin.load(),
        find_sources([str(source)]),
        labels=standin.LABELS,
        output=tmp_path / "local",
        batch_size=2,
        formats=["png"],
    )
    chance = random.Random(8)
    ways = ["driver", "everything"] * KILLS
    chance.shuffle(ways)
    moments = sorted(chance.sample(range(1, COUNT * 2 // 3), len(ways)))
    for way, moment in zip(ways, moments, strict=True):
        run = Driver(source, output, tmp_path / "log")
        run.wait_for(moment)
        run.end(all_at_once=way == "everything")
    run = Driver(source, output, tmp_path / "log")
    killed = 0
    for moment in sorted(chance.sample(range(COUNT * 2 // 3, COUNT - 6), KILLS)):
        run.wait_for(moment)
        workers = [pid for pid in family(run.process.pid) if is_worker(pid)]
        if workers:
            kill([chance.choice(workers)])
            killed += 1
    try:
        assert run.process.wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    finally:
        kill(family(run.process.pid) if run.process.poll() is None else [])
    assert killed
    last = (tmp_path / "log").read_text()
    done, skipped, failed = map(int, last.split())
    assert (done + skipped, failed) == (COUNT, 0)
    assert skipped > 0
    assert contents(output) == contents(tmp_path / "local")
    with sqlite3.connect(output / "ledger.sqlite") as ledger:
        stems = [stem for (stem,) in ledger.execute("SELECT stem FROM images ORDER BY stem")]
    ledger.close()
    assert stems == [f"{index:04d}" for index in range(COUNT)]
    assert json.loads((output / "labels.json").read_text())["model"] == "stand-in"


def hears_the_keyboard():
    """What a shell starts in the background ignores the interrupt, and so do its children; these tests may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.timeout(600)
def test_interrupted_from_the_keyboard(images, tmp_path, run):
    source, output = images(COUNT), tmp_path / "ray"
    words = ["segment", source, "-o", output, "-l", "sky", "-l", "sea", "--model", "tiny", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "clearclip", *map(str, words), "--engine", "ray", "--workers", "1", "--batch-size", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hears_the_keyboard,
    )
    until = time.monotonic() + PATIENCE
    while process.poll() is None and len(list(output.glob("*.png"))) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    children = family(process.pid)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in err
    assert process.returncode == 130, (out, err)
    until = time.monotonic() + PATIENCE
    while any(map(alive, children)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, children))
    assert not (output / "errors.csv").exists()
