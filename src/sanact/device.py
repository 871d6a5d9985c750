"""Which device to compute on, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sanact.values import meant


def pick_device(device: str | torch.device) -> torch.device:
    """The device of this name; "auto" is CUDA where there is one, else the CPU.  ValueError if it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen).cpu()  # which "meta" cannot
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        why = str(error).partition("\n")[0]
        hint = meant(device, ("auto", "cpu", "cuda"))
        raise ValueError(f"device must be auto, cpu, or one that is there, got '{device}': {why}{hint}") from error
    return chosen


def device_of(model: nn.Module) -> torch.device:
    """Where the weights of a model are; of one that has none, the CPU."""
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


@contextmanager
def one_thread() -> Iterator[None]:
    """For the block, the CPU computes with one thread: sums that are shared out differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
