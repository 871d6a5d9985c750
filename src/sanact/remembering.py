"""Remember what is made of things that do not change: a network is hashed and folded once a run, not once a cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Memory = dict[Any, tuple[Any, Any]]
T = TypeVar("T")

_remembered: ContextVar[Memory | None] = ContextVar("remembered", default=None)


@contextmanager
def remembered(memory: Memory | None = None) -> Iterator[None]:
    """For the block, remember the results of `once`; the values must not change meanwhile.

    memory: where, unless a block around this one remembers already; it can be given again to a later block.
    """
    outer = _remembered.get()
    token = _remembered.set(outer if outer is not None else memory if memory is not None else {})
    try:
        yield
    finally:
        _remembered.reset(token)


def once(value: Any, compute: Callable[[], T], *more: Any) -> T:
    """``compute()``, a function of ``value``; inside `remembered` it is called only once for this value and ``more``."""
    known = _remembered.get()
    if known is None:
        return compute()
    if (id(value), *more) not in known:
        known[id(value), *more] = value, compute()  # keeps the value alive, so that no other gets its address
    result: T = known[id(value), *more][1]
    return result
