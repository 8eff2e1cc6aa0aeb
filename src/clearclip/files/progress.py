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

    What comes takes the number done, the total and a note that stands behind the bar. It is `None` where there is no
    bar: with `show=False`, or by default where standard error is no terminal.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield None
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


def track(items: Sequence[Item], description: str, *, show: bool | None = None) -> Iterator[Item]:
    """Go through items with a `progress_bar`."""
    with progress_bar(description, show=show) as advance:
        for done, item in enumerate(items):
            if advance is not None:
                advance(done, len(items), "")
            yield item
