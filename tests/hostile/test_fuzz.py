"""The fuzzer, for a bounded time; and that it finds what is planted. `CLEARCLIP_FUZZ_SECONDS` gives it longer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a process that imported torch cannot be forked here")
ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("CLEARCLIP_FUZZ_SECONDS", "30"))


def fuzz(*options):
    line = [sys.executable, "-m", "tests.hostile.fuzz", *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.timeout(SECONDS + 300)
def test_nothing_is_found(tmp_path):
    pytest.importorskip("rasterio"), pytest.importorskip("av"), pytest.importorskip("pyarrow")
    ran = fuzz("--seconds", SECONDS, "--seed", os.environ.get("CLEARCLIP_FUZZ_SEED", "7"), "--findings", tmp_path)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    assert "0 findings" in ran.stdout


def test_what_is_planted_is_found_and_reproduced(tmp_path):
    planted = {
        "raises": "traceback: KeyError: 'no such key'",
        "sleeps": "hang: stopped after",
        "spins": "hang: stopped after",
        "allocates": "MiB, more than the limit of 1024",
        "asks": "asks: ",
        "writes": "changes inputs: input.txt",
        "lies": "a result that lies",
    }
    ran = fuzz("--cases", 1, "--seed", 5, "--limit", 3, "--only", ",".join(planted), "--findings", tmp_path)
    assert ran.returncode == 1, ran.stderr
    for name, reason in planted.items():
        assert any(reason in line for line in ran.stdout.splitlines() if f"FINDING 5:{name}:0 " in line), ran.stdout
        assert reason in (tmp_path / f"{name}-5-0" / "finding.txt").read_text()
    again = fuzz("--reproduce", "5:raises:0", "--findings", tmp_path / "again")
    assert (again.returncode, planted["raises"] in again.stdout) == (1, True)
    assert "KeyError" in (tmp_path / "again" / "raises-5-0" / "said.txt").read_text()
