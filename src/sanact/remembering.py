"""Remember the hash of things that do not change: networks and images are hashed once a run, not once a cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_remembered: ContextVar[dict[Any, tuple[Any, str]] | None] = ContextVar("remembered", default=None)


@contextmanager
def remembered() -> Iterator[None]:
    """For the block, remember the results of `once`; the values must not change meanwhile."""
    token = _remembered.set(_remembered.get() or {})
    try:
        yield
    finally:
        _remembered.reset(token)


def once(value: Any, key: Callable[[], str], *more: Any) -> str:
    """``key()``, a function of ``value``; inside `remembered` it is called only once for this value and ``more``."""
    known = _remembered.get()
    if known is None:
        return key()
    if (id(value), *more) not in known:
        known[id(value), *more] = value, key()  # keeps the value alive, so that no other gets its address
    return known[id(value), *more][1]
