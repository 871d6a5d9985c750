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
    """Count passes in the block for each of these N examples, (N,).  A forward pass is one, a backward pass another.

    of: (N,), which examples of the surrounding block these are; their passes are then added there, too.
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
    """Count one pass of a batch.

    of: which of the examples are in the batch, (batch,).  None: all of them, or, if the batch has another size, images
        used for all of them.
    """
    tally = _tally.get()
    if tally is None:
        return
    if of is not None:
        tally.index_add_(0, of, torch.ones_like(of))
    elif len(tally):
        tally += -(-batch // len(tally))
