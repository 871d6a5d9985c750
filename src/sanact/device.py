"""Which device to compute on."""

from __future__ import annotations

import torch

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
