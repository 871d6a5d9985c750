"""What a command tells on standard error while it is at work: warnings, a line a cell where it is quiet, or all it does."""

from __future__ import annotations

import logging
import sys

STAMPED = "%(asctime)s %(name)s: %(message)s"


class _Lines(logging.Handler):
    """A line a message, above a progress bar if one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)  # asked for each time: a bar puts something else there


def tell(level: int, form: str = "%(message)s") -> None:
    """From now on, tell what is of this level or above.  form: as `logging` has it."""
    lines, ours = _Lines(), logging.getLogger("sanact")
    lines.setFormatter(logging.Formatter(form, "%H:%M:%S"))
    ours.handlers, ours.propagate = [lines], False
    ours.setLevel(level)
