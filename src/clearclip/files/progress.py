"""One progress for every long loop: a bar where standard error is a terminal, elsewhere a log line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

Item = TypeVar("Item")
Advance = Callable[[int, int, str], None]
LINE_SECONDS = 30.0
"""Between two log lines, and before the first."""
log = logging.getLogger("clearclip")


@contextmanager
def progress_bar(description: str, *, show: bool | None = None) -> Iterator[Advance | None]:
    """A bar that appears when it is first told how far the work is, and is wiped at the end.

    What comes takes the number done, the total and a note that stands behind the bar; it is `None` with `show=False`.
    By default, where standard error is no terminal, work that takes longer writes lines to the logger `clearclip`.
    """
    if show is False:
        yield None
        return
    if show is None and not sys.stderr.isatty():
        yield _lines(description)
        return
    from rich import progress as rich
    from rich.console import Console

    bar = rich.Progress(
        rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(), rich.TimeRemainingColumn(), rich.TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    task = bar.add_task(description, total=None, note="")

    def advance(done: int, total: int, note: str) -> None:
        bar.update(task, completed=done, total=total, note=note)
        bar.start()

    try:
        yield advance
    finally:
        bar.stop()


def _lines(description: str) -> Advance:
    started = last = time.monotonic()
    before: int | None = None

    def advance(done: int, total: int, note: str) -> None:
        nonlocal last, before
        before = done if before is None else before  # what an earlier run had done says nothing of the speed
        if (now := time.monotonic()) - last < LINE_SECONDS:
            return
        last = now
        spent = now - started
        left = f", about {_clock(spent / (done - before) * (total - done))} left" if done > before else ""
        noted = f"; {note}" if note else ""
        log.info("%s: %s of %s after %s%s%s", description, f"{done:,}", f"{total:,}", _clock(spent), left, noted)

    return advance


def _clock(seconds: float) -> str:
    """Seconds as `h:mm:ss`.

    >>> _clock(75)
    '0:01:15'
    """
    return str(timedelta(seconds=int(seconds)))


def track(items: Sequence[Item], description: str, *, show: bool | None = None) -> Iterator[Item]:
    """Go through items with a `progress_bar`."""
    with progress_bar(description, show=show) as advance:
        for done, item in enumerate(items):
            if advance is not None:
                advance(done, len(items), "")
            yield item
