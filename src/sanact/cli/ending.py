"""How a command ends that cannot go on: one line, whatever happened, and for what nobody foresaw the traceback in a file."""

from __future__ import annotations

import functools
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def contained(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, for which a user's code that ends the program is an error like any other: nothing was judged."""

    @functools.wraps(verb)
    def run(*given: Any, **named: Any) -> None:
        try:
            verb(*given, **named)
        except SystemExit as error:
            raise ValueError(f"code of the model or of a library ended the program: SystemExit({error.code!r})") from error

    return run


def told(error: Exception) -> str:
    """An error as one line.  One that nobody foresaw has its kind before it, and names the file that has its traceback."""
    message = " ".join(str(error).split()) or "no message"
    if _foreseen(error):
        return message
    try:
        handle, path = tempfile.mkstemp(prefix="sanact-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
        where = f"the traceback is in {path}"
    except OSError as failed:
        where = f"no file could be written for the traceback: {failed}"
    return f"{type(error).__name__}: {message} (unforeseen; {where})"


def _foreseen(error: Exception) -> bool:
    """Whether it says what came and what is allowed: an error of the system, or one that our own code raised."""
    if isinstance(error, OSError):
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    raised_in = Path(frames[-1][0].f_code.co_filename) if frames else Path()
    return isinstance(error, (ValueError, TypeError, RuntimeError)) and Path(__file__).parents[1] in raised_in.parents
