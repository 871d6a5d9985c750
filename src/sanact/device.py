"""Which device to compute on, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sanact.values import meant


def pick_device(device: str | torch.device) -> torch.device:
    """The device of this name; "auto" is CUDA if there is one, else the CPU.  ValueError for a missing device."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen).cpu()  # fails on "meta"
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        why = str(error).partition("\n")[0]
        hint = meant(device, ("auto", "cpu", "cuda"))
        raise ValueError(f"device must be auto, cpu, or one that is there, got '{device}': {why}{hint}") from error
    return chosen


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's weights; the CPU if it has none."""
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


@contextmanager
def one_thread() -> Iterator[None]:
    """For the block, compute on one CPU thread: a sum split among threads differs in its last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
