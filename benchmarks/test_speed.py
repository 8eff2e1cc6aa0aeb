"""The benchmark of speed runs and says what it measured, in some minutes: `pytest benchmarks`. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).with_name("speed.py")


def speed(*arguments):
    command = [sys.executable, SPEED, "--layers", "2", "--repeats", "1", "--threads", "1", "--quick", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def measured():
    done = speed("--cases", "image,winners,text,gpu,profile", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ratios_with_their_goals(measured):
    rows = {row["case"]: row for row in measured["rows"]}
    for case in (
        "1 image, 20 queries, label map alone",
        "1 image, 1,000 queries, scores and a threshold",
        "text: 171 labels × 80 templates",
    ):
        assert rows[case]["measured"].endswith("×")
        assert float(rows[case]["measured"].removesuffix("×")) > 0
        assert rows[case]["goal"].startswith("≤")
        low, high = map(float, rows[case]["spread"].split("–"))
        assert low <= high
    assert "threads" in measured["about"]
    assert "torch" in measured["about"]


def test_at_least_half_of_the_queries_win(measured):
    shares = [row["winning"] for row in measured["rows"] if row["winning"] is not None]
    assert len(shares) == 6
    assert min(shares) >= 0.5


def test_winners_are_those_of_a_plain_loop(measured):
    remarks = [row["remark"] for row in measured["rows"] if row["case"].startswith("winners")]
    assert len(remarks) == 6
    assert all(float(remark.rpartition("label at ")[2].split()[0]) > 99.8 for remark in remarks)


def test_trimmed_texts_give_the_same_embeddings(measured):
    (row,) = [row for row in measured["rows"] if row["case"].startswith("text")]
    assert float(row["remark"].rpartition(" ")[2]) <= 1e-6


def test_the_steps_of_an_image_add_up(measured):
    shares = [float(row["measured"].removesuffix(" %")) for row in measured["rows"] if row["case"].startswith("20 q")]
    assert len(shares) == 6
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_an_unknown_case_is_named():
    done = speed("--cases", "image,imge")
    assert done.returncode == 2
    assert "there is no case imge" in done.stderr
    assert not done.stdout
