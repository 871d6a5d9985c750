"""How a command ends that is stopped by Ctrl-C or by the system: with one line, and everything kept."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM, as sent by Slurm and `docker stop`."""


def stoppable(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, ended by SIGTERM in the same way as by Ctrl-C: one line, and exit status 128 plus the signal's number."""

    @functools.wraps(verb)
    def run(*given: Any, **named: Any) -> None:
        if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
            return verb(*given, **named)
        before = signal.signal(signal.SIGTERM, _terminate)
        try:
            verb(*given, **named)
        except KeyboardInterrupt as stop:
            from rich.console import Console

            number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
            Console(stderr=True).print("stopped; run again to continue from here", highlight=False, soft_wrap=True)
            raise SystemExit(128 + number) from None
        finally:
            signal.signal(signal.SIGTERM, before)

    return run


def _terminate(number: int, frame: Any) -> None:
    raise Terminated
