"""What all sanitizers share: the activations they take."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from sanact.kernels.plain import variance
from sanact.parts import Part

P = ParamSpec("P")
R = TypeVar("R")


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """Leave ``function`` uncompiled inside a compiled network, as `torch.compiler.disable` does.

    `torch.compiler.disable` loads the whole compiler at once, which doubles the time to import torch.  This waits until a
    network is compiled.
    """

    @wraps(function)
    def uncompiled(*given: P.args, **named: P.kwargs) -> R:
        called = torch.compiler.disable(function) if torch.compiler.is_compiling() else function  # type: ignore[no-untyped-call]
        return called(*given, **named)

    return uncompiled


class Sanitizer(Part):
    """An operator on one hidden activation: tensor in, tensor of the same shape and dtype out, never in place.

    forward: feature maps (N, C, H, W) or vectors (N, F), of any float dtype.  Each map or vector is cleaned on its own.
        (N, C, 1, 1), the output of global pooling, counts as a vector.
    where: the layer that the sanitizer is attached to.
    channels_last: whether maps come as (N, H, W, C), the layout that linear layers take.
    bypassed: return the input; see `bypass`.
    Raises ValueError for another rank, TypeError for another dtype.
    """

    kind = "sanitizer"
    channels_last: bool = False

    def forward(self, a: Tensor) -> Tensor:
        if not a.is_floating_point():
            raise TypeError(f"an activation must be of a float dtype, got {a.dtype} ({self})")
        if a.ndim not in (2, 4):
            raise ValueError(f"an activation must be (N, C, H, W) or (N, F), got {tuple(a.shape)} ({self})")
        if self.bypassed:
            return a
        return self._like(a, self.differentiable(self.sanitize, self._maps(a)))

    def bounds(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        if self.bypassed or self.monotone:
            return self(low), self(high)
        least, most = self.enclosed(self._maps(low), self._maps(high))
        return self._like(low, least), self._like(high, most)

    def _maps(self, a: Tensor) -> Tensor:
        """An activation as (N, C, H, W)."""
        if a.ndim == 2 or a.shape[2:] == (1, 1):
            return a.reshape(a.shape[0], 1, 1, a.shape[1])
        return a.permute(0, 3, 1, 2) if self.channels_last else a

    def _like(self, a: Tensor, maps: Tensor) -> Tensor:
        """Maps in the original shape of the activation."""
        if a.ndim == 2 or a.shape[2:] == (1, 1):
            return maps.reshape(a.shape)
        return maps.permute(0, 2, 3, 1) if self.channels_last else maps

    def made_for(self, channels: int, like: Tensor) -> None:
        """Prepare for activations of this many channels (units of a vector), on the device and in the dtype of ``like``."""

    @abstractmethod
    def sanitize(self, maps: Tensor) -> Tensor:
        """maps: (N, C, H, W); a vector comes as one map of height 1, (N, 1, 1, F)."""

    def enclosed(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Like `bounds`, but for maps (N, C, H, W); for sanitizers that are not monotone."""
        return super().bounds(low, high)

    @property
    def name(self) -> str:
        from sanact.sanitizers import SANITIZERS

        return next((name for name, kind in SANITIZERS.items() if kind is type(self)), super().name)


def sanitizers_of(model: Any) -> list[Sanitizer]:
    """The sanitizers of a model, in the order of execution; an empty list for a model that is only a callable."""
    return [part for part in model.modules() if isinstance(part, Sanitizer)] if isinstance(model, nn.Module) else []


def local_mean(maps: Tensor, size: int) -> Tensor:
    """The mean of the size x size window around each element, without what lies outside the map; one row has a 1-D window."""
    window = [size if length > 1 else 1 for length in maps.shape[2:]]
    return avg_pool2d(maps, window, stride=1, padding=[k // 2 for k in window], count_include_pad=False)


def deviation(a: Tensor, dims: tuple[int, int]) -> Tensor:
    """The square root of `variance`.  For a constant map it is 0, and so is its gradient."""
    squared = variance(a, dims)
    constant = squared == 0
    return squared.masked_fill(constant, 1).sqrt().masked_fill(constant, 0)


def odd(name: str, value: int, sanitizer: str, *, least: int = 3) -> int:
    """``value`` if it is an odd whole number of at least ``least``; else ValueError."""
    if not isinstance(value, int) or value < least or value % 2 == 0:
        raise ValueError(f"{name} must be an odd whole number ≥ {least}, got {value!r} (sanitizer '{sanitizer}')")
    return value
