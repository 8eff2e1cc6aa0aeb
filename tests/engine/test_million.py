"""The table of costs in the documentation is what the script computes."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_table_is_the_scripts(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    from million import cost

    text = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, flags=re.MULTILINE)
    assert len(rows) == 3
    for rate, *numbers in rows:
        found = cost(rate=float(rate), workers=8, price=2.0, efficiency=0.9)
        assert [float(number) for number in numbers] == [found["hours"], found["worker_hours"], found["money"]]


def test_cost_by_hand():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from million import cost
    finally:
        sys.path.pop(0)
    found = cost(rate=2.0, workers=5, price=3.0, efficiency=0.5, images=36_000, start=0.0, bytes_each=1000)
    assert found["hours"] == pytest.approx(2.0)
    assert found["worker_hours"] == pytest.approx(10.0)
    assert found["money"] == pytest.approx(30.0)
    assert found["results_gb"] == pytest.approx(0.0, abs=0.05)
