"""What a command writes to standard error while it works: warnings, one line per cell if quiet, or a log of everything."""

from __future__ import annotations

import logging
import sys

STAMPED = "%(asctime)s %(name)s: %(message)s"


class _Lines(logging.Handler):
    """One line per message, above a progress bar if one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)  # looked up each time: a progress bar replaces sys.stderr


def tell(level: int, form: str = "%(message)s") -> None:
    """Show messages of this level or above from now on.  form: the format, as for `logging`."""
    lines, ours = _Lines(), logging.getLogger("sanact")
    lines.setFormatter(logging.Formatter(form, "%H:%M:%S"))
    ours.handlers, ours.propagate = [lines], False
    ours.setLevel(level)
