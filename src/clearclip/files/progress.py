"""One progress bar for every long loop, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Advance = Callable[[int, int, str], None]


@contextmanager
def progress_bar(description: str, *, show: bool | None = None) -> Iterator[Advance | None]:
    """A bar that appears when it is first told how far the work is, and is wiped at the end.

    Args:
        description: Stands before the bar.
        show: Whether there is a bar; `None`: where standard error is a terminal.

    Yields:
        Takes the number done, the total and a note that stands behind the bar; `None` where there is no bar.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task(description, total=None, note="")

    def advance(done: int, total: int, note: str) -> None:
        bar.update(task, completed=done, total=total, note=note)
        bar.start()

    try:
        yield advance
    finally:
        bar.stop()


def track(items: Sequence[Item], description: str, *, show: bool | None = None) -> Iterator[Item]:
    """Go through items with a bar.

    Args:
        items: What to go through.
        description: Stands before the bar.
        show: Whether there is a bar; `None`: where standard error is a terminal.

    Yields:
        The items.
    """
    with progress_bar(description, show=show) as advance:
        for done, item in enumerate(items):
            if advance is not None:
                advance(done, len(items), "")
            yield item
