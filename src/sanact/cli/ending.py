"""How a command ends when it fails: one line in any case, and for unforeseen errors the traceback in a file."""

from __future__ import annotations

import functools
import os
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

from sanact.values import foreseen


def contained(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, where user code that ends the program is an ordinary error: nothing was judged."""

    @functools.wraps(verb)
    def run(*given: Any, **named: Any) -> None:
        try:
            verb(*given, **named)
        except SystemExit as error:
            raise ValueError(f"code of the model or of a library ended the program: SystemExit({error.code!r})") from error

    return run


def told(error: Exception) -> str:
    """An error as one line.  An unforeseen one begins with its type, and names the file with its traceback."""
    message = " ".join(str(error).split()) or "no message"
    if foreseen(error):
        return message
    try:
        handle, path = tempfile.mkstemp(prefix="sanact-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
        where = f"the traceback is in {path}"
    except OSError as failed:
        where = f"no file could be written for the traceback: {failed}"
    return f"{type(error).__name__}: {message} (unforeseen; {where})"
