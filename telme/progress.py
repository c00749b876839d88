"""How far long work is: a bar in a terminal, a log line for every tenth elsewhere."""

import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Task as Row

log = logging.getLogger(__name__)

T = TypeVar("T")


def bar() -> Progress:
    """A bar with the time left; its rows have a field `note` for what else is worth seeing.

    Where progress is not to be logged, as in all processes but one that train together, nothing is drawn either.
    """
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(*shown, *times, transient=True, disable=not log.isEnabledFor(logging.INFO))


def log_tenths(row: Row, advance: int, unit: str) -> None:
    """Where no bar can be drawn, a line whenever `advance` more items completed a tenth."""
    done, total = int(row.completed), int(row.total or 1)
    if done * 10 // total > (done - advance) * 10 // total:
        note = f", {row.fields['note']}" if row.fields["note"] else ""
        left = "" if row.time_remaining is None else f", {row.time_remaining:.0f} s left in it"
        log.info("%s: %d of %d %s%s%s", row.description, done, total, unit, note, left)


def tracked(items: Iterable[T], total: int, description: str, unit: str) -> Iterator[T]:
    """The items as they come, while a bar or the log shows how many of `total` have come."""
    with bar() as progress:
        row = progress.add_task(description, total=total, note="")
        for item in items:
            yield item
            progress.advance(row)
            if not progress.console.is_terminal:
                log_tenths(progress.tasks[row], 1, unit)
