"""One progress bar for all long work: what is running, how far, how long still."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Advance = Callable[..., None]


class Tell(Protocol):
    def __call__(self, share: float, left: float, what: str | None = None) -> None:
        """share: of the work, that is done, 0 to 1.  left: seconds from now to the end."""


@contextmanager
def progress_bar(what: str, total: int, *, show: bool = True) -> Iterator[Advance]:
    """Yield ``advance(n=1, what=None)``, drawn on standard error, so that results can be piped from standard output.

    what: the text before the bar; ``advance`` may replace it.  total: the units of work.  show: False draws nothing; nor is
    anything drawn in a file or a pipe.
    """
    with _bar(MofNCompleteColumn(), TimeRemainingColumn(), show=show) as bar:
        task = bar.add_task(what, total=total)

        def advance(n: int = 1, what: str | None = None) -> None:
            bar.update(task, advance=n, description=what)

        yield advance


@contextmanager
def forecast_bar(what: str, *, show: bool = True) -> Iterator[Tell]:
    """Yield ``tell(share, left, what=None)``: the same bar for work of which is told, again and again, how long it will take.

    Between two tellings the time left runs down by the clock.
    """
    with _bar(TaskProgressColumn(), _TimeLeft(), show=show) as bar:
        task = bar.add_task(what, total=1.0, until=None)

        def tell(share: float, left: float, what: str | None = None) -> None:
            bar.update(task, completed=share, description=what, until=time.monotonic() + left)

        yield tell


def _bar(count: ProgressColumn, left: ProgressColumn, *, show: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        count,
        TimeElapsedColumn(),
        TextColumn("left"),
        left,
        console=console,
        disable=not (show and (console.is_interactive or console.is_jupyter)),  # in a pipe Rich would draw an empty line
        transient=True,
    )


class _TimeLeft(ProgressColumn):
    """Until when a forecast says that it will take."""

    def render(self, task: Task) -> Text:
        until = task.fields["until"]
        return Text("-:--:--" if until is None else duration(max(0.0, until - time.monotonic())), style="progress.remaining")


def duration(seconds: float) -> str:
    """A time as it is said: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
