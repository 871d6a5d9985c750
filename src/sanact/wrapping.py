"""Wrappers for speed are taken off, since the module inside computes the same."""

from __future__ import annotations

from typing import Any

from torch import nn

from sanact.preserve import copied

INSIDE = {  # by the class of the wrapper, the attribute that holds the network
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",  # of torch.compile
}


def unwrapped(model: Any) -> Any:
    """The network inside `DataParallel`, `DistributedDataParallel` and `torch.compile`; anything else as it is."""
    while type(model).__module__.startswith("torch.") and (inner := INSIDE.get(type(model).__name__)):
        model = getattr(model, inner)
    return model


def in_float32(model: nn.Module) -> tuple[nn.Module, str]:
    """The network itself; if its weights are of half precision, a copy in float32.  The second value is a note that says so.

    16 bits cannot tell apart the points of a small ball, and gradients in them cannot be trusted.
    """
    half = {weight.dtype for weight in model.parameters() if weight.is_floating_point() and weight.element_size() < 4}
    if not half:
        return model, ""
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in half))
    return copied(model).float(), f"weights of {names}, computed in float32"
