"""How many passes through networks an attack costs, example by example."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_tally: ContextVar[Tensor | None] = ContextVar("passes", default=None)


@contextmanager
def counting(x: Tensor, of: Tensor | None = None) -> Iterator[Tensor]:
    """For the block, the passes of each of these N examples, (N,): a forward pass is one, a backward pass another.

    of: which of the examples of the block around this one they are, (N,); their passes are then added there.
    """
    tally = torch.zeros(len(x), dtype=torch.long, device=x.device)
    before = _tally.set(tally)
    try:
        yield tally
    finally:
        _tally.reset(before)
        if of is not None and (outer := _tally.get()) is not None:
            outer.index_add_(0, of, tally)


def count(batch: int, of: Tensor | None) -> None:
    """Note one pass of a batch.

    of: which of the examples are in it, (batch,); None: all, or, where the number is another, images that serve all of them.
    """
    tally = _tally.get()
    if tally is None:
        return
    if of is not None:
        tally.index_add_(0, of, torch.ones_like(of))
    elif len(tally):
        tally += -(-batch // len(tally))
