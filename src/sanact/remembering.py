"""Looking at things once while nothing changes them: a network and its images are hashed once a run, not once a cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_remembered: ContextVar[dict[Any, tuple[Any, str]] | None] = ContextVar("remembered", default=None)


@contextmanager
def remembered() -> Iterator[None]:
    """For the block, what `once` has looked at is not looked at again: nothing may change it meanwhile."""
    token = _remembered.set(_remembered.get() or {})
    try:
        yield
    finally:
        _remembered.reset(token)


def once(value: Any, key: Callable[[], str], *more: Any) -> str:
    """``key()``, which looks at ``value``; in a block of `remembered` it is called once for this value and ``more``."""
    known = _remembered.get()
    if known is None:
        return key()
    if (id(value), *more) not in known:
        known[id(value), *more] = value, key()  # the value stays alive, and so nobody else gets its address
    return known[id(value), *more][1]
