"""Zeroing elements below a threshold that comes from the map itself, or from clean data."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sanact.kernels.library import call, compiled, dense, like, threads

GIVEN = 0  # what kernels.h calls MASK_GIVEN, MASK_MAX, …
READINGS = {"max": 1, "max_all": 1, "quantile": 2, "mean_std": 3}
GRAIN = 2**15  # elements per thread


def kept_from(maps: Tensor, reading: str, strength: float, thresholds: Callable[[Tensor], Tensor | float]) -> Tensor:
    """The elements whose magnitude is not below τ; the others become zeros of the same sign.

    maps: (N, C, H, W).  reading: "max", "max_all", "quantile" or "mean_std", with their strength; τ comes from the map.  For
        any other, τ comes from ``thresholds``: (1, C, 1, 1), or (1, 1, 1, W) for vectors.  Plain torch always uses these.
    The gradient passes where the element is kept; τ is held constant.
    The last digits of τ for "mean_std" are rounded differently from torch's; all else is the same to the bit.
    """
    if (library := compiled(maps)) is None:
        return _plain(maps, thresholds)
    maps, last = dense(maps)
    n, c, h, w = maps.shape
    shape = (n, c, h, w, last)
    if reading in READINGS:
        shape = (n, 1, 1, c * h * w, False) if reading == "max_all" else shape
        strength = max(math.ceil(strength * h * w), 1) if reading == "quantile" else strength  # of a quantile: the rank
        tau = maps.new_empty(shape[0] * shape[1])
    else:
        shape = (n, w, 1, 1, True) if (c, h) == (1, 1) else shape
        tau = torch.as_tensor(thresholds(maps.detach())).flatten()
        if len(tau) != shape[1]:
            return _plain(maps, thresholds)  # it raises the error
    how = _How(library, shape, READINGS.get(reading, GIVEN), strength)
    if torch.is_grad_enabled() and maps.requires_grad:
        passed: Tensor = _Passed.apply(maps, maps.detach(), tau, how)
        return passed
    return _pass(maps, maps, tau, how)


def _plain(maps: Tensor, thresholds: Callable[[Tensor], Tensor | float]) -> Tensor:
    with torch.no_grad():
        kept = ~(maps.abs() < thresholds(maps))
    return maps * kept  # twice as fast as filling with zeros


class _How(NamedTuple):
    """shape: for the kernel, (N, C, H, W, whether the channels lie innermost)."""

    library: ctypes.CDLL
    shape: tuple[int, ...]
    reading: int
    strength: float


def _pass(value: Tensor, a: Tensor, tau: Tensor, how: _How) -> Tensor:
    """The value where |a| is not below τ, else 0 times it.  tau: read if the reading is GIVEN, else written."""
    out = torch.empty_like(a)
    shape = (*how.shape, threads(a.numel(), GRAIN))
    call(how.library.sanact_mask, a, value, tau, out, *shape, tau.numel(), how.reading, how.strength)
    return out


class _Passed(torch.autograd.Function):
    """`_pass`, with a gradient that uses `_pass` again, so that it can be differentiated any number of times."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, a: Tensor, tau: Tensor, how: _How) -> Tensor:
        out = _pass(value, a, tau, how)
        ctx.save_for_backward(a, tau)
        ctx.how = how
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        a, tau = ctx.saved_tensors
        how = ctx.how._replace(reading=GIVEN)
        return _Passed.apply(like(gradient, dense(a)[1]), a, tau, how), None, None, None
