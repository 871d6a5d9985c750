"""One progress bar for all long work: what is running, how far it is, and the time left."""

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
        """share: share of the work that is done, 0 to 1.  left: seconds until the end."""


@contextmanager
def progress_bar(what: str, total: int, *, show: bool = True) -> Iterator[Advance]:
    """Yield ``advance(n=1, what=None)``.  The bar is drawn on standard error, so that standard output can be piped.

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
    """Yield ``tell(share, left, what=None)``: a bar for work whose remaining time is forecast again and again.

    Between two forecasts the time left runs down by the clock.
    """
    with _bar(TaskProgressColumn(), _TimeLeft(), show=show) as bar:
        task = bar.add_task(what, total=1.0, until=None)

        def tell(share: float, left: float, what: str | None = None) -> None:
            bar.update(task, completed=share, description=what, until=time.monotonic() + left)

        yield tell


def say(text: str) -> None:
    """A line on standard error, whether that is a terminal or not."""
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


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
    """The time left, as forecast."""

    def render(self, task: Task) -> Text:
        until = task.fields["until"]
        return Text("-:--:--" if until is None else duration(max(0.0, until - time.monotonic())), style="progress.remaining")


def duration(seconds: float) -> str:
    """A duration in words: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
