"""The progress bar: where there is one, what it says, and that it goes away; lines where there is no terminal."""

from __future__ import annotations

import pytest

from clearclip.files import progress
from clearclip.files.progress import progress_bar, track


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rich needs to take a captured stream for a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


def test_it_shows_how_far_the_work_is_and_the_note_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("voc20[x]", show=True) as advance:
        assert advance is not None
        assert capsys.readouterr().err == ""
        advance(3, 7, "mIoU clearclip[residual=keep] 12.3")
    written = capsys.readouterr().err
    assert "voc20[x]" in written
    assert "3/7" in written
    assert "clearclip[residual=keep] 12.3" in written


def test_it_goes_away_when_the_work_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with progress_bar("voc20", show=True) as advance:
            assert advance is not None
            advance(1, 2, "")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert capsys.readouterr().err.endswith("\x1b[2K")  # the bar's line is wiped


def test_tracked_items_come_through_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(5), "Reading", show=True)) == [0, 1, 2, 3, 4]
    assert "/5" in capsys.readouterr().err


@pytest.mark.parametrize(("items", "show"), [([], True), ([1, 2], False), ([1, 2], None)])
def test_no_bar_without_items_a_wish_or_a_terminal(
    items: list[int], show: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(track(items, "Reading", show=show)) == items
    assert capsys.readouterr().err == ""


def test_lines_tell_the_progress_where_there_is_no_terminal(monkeypatch):
    now = iter([0.0, 10.0, 40.0, 50.0, 75.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    lines = []
    monkeypatch.setattr(progress.log, "info", lambda text, *values: lines.append(text % values))
    with progress_bar("Segmenting") as advance:
        for done in (1, 1000, 1100, 2000):
            advance(done, 4000, "2 failed" if done == 2000 else "")
    assert lines == [
        "Segmenting: 1,000 of 4,000 after 0:00:40, about 0:02:00 left",
        "Segmenting: 2,000 of 4,000 after 0:01:15, about 0:01:15 left; 2 failed",
    ]
