"""Norm balls: the way up a gradient, the way back into the ball, a random place in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["Linf", "L2"]
Generators = torch.Generator | Sequence[torch.Generator]


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """(N,) → (N, 1, …, 1), to be broadcast against ``like``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def l2_norm(delta: Tensor) -> Tensor:
    """(N, …) → (N,)"""
    return delta.flatten(1).square().sum(1).sqrt()


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The unit step along which the loss grows fastest: sign(g) in Linf, g / ‖g‖₂ in L2; 0 where the gradient is 0."""
    if norm == "Linf":
        return gradient.sign()
    tiny = torch.finfo(gradient.dtype).tiny
    gradient = gradient / per_example(gradient.flatten(1).abs().amax(1), gradient).clamp_min(tiny)  # lest its square underflow
    return gradient / per_example(l2_norm(gradient), gradient).clamp_min(tiny)


def project(moved: Tensor, x: Tensor, eps: Tensor, norm: Norm) -> Tensor:
    """Into the ball of radius eps, (N,), around x and into [0, 1]."""
    radius = per_example(eps, x)
    if norm == "Linf":
        return torch.maximum(torch.minimum(moved, x + radius), x - radius).clamp(0, 1)
    delta = moved - x
    length = per_example(l2_norm(delta), x)
    return (x + delta * torch.where(length > radius, radius / length, 1)).clamp(0, 1)


def random_start(x: Tensor, eps: Tensor, norm: Norm, generators: Generators) -> Tensor:
    """A place drawn uniformly from the ball around x, clipped to [0, 1].

    generators: one for the whole batch, or one per example, so that an example's draw does not depend on its batch.
    """
    radius = per_example(eps, x)
    if norm == "Linf":
        offset = 2 * _draw(torch.rand, x.shape, generators) - 1
    else:
        direction = steepest(_draw(torch.randn, x.shape, generators), norm)
        length = _draw(torch.rand, x.shape[:1], generators) ** (1 / x[0].numel())
        offset = per_example(length, x) * direction
    return (x + radius * offset.to(x)).clamp(0, 1)


def _draw(distribution: Callable[..., Tensor], shape: torch.Size, generators: Generators) -> Tensor:
    if isinstance(generators, torch.Generator):
        return distribution(shape, generator=generators)
    return torch.stack([distribution(shape[1:], generator=generator) for generator in generators])
