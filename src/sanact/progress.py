"""One progress bar for all long work: what is running, how far, how long still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[..., None]


@contextmanager
def progress_bar(what: str, total: int, *, show: bool = True) -> Iterator[Advance]:
    """Yield ``advance(n=1, what=None)``, drawn on standard error, so that results can be piped from standard output.

    what: the text before the bar; ``advance`` may replace it.  total: the units of work.  show: False draws nothing; nor is
    anything drawn in a file or a pipe.
    """
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not (show and (console.is_interactive or console.is_jupyter)),  # in a pipe Rich would draw an empty line
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=total)

        def advance(n: int = 1, what: str | None = None) -> None:
            bar.update(task, advance=n, description=what)

        yield advance
