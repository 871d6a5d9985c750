"""Norm balls: steepest steps, projections and random points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["Linf", "L2", "L1"]
Generators = torch.Generator | Sequence[torch.Generator]


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """(N,) → (N, 1, …, 1), to be broadcast against ``like``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def l2_norm(delta: Tensor) -> Tensor:
    """(N, …) → (N,)"""
    return delta.flatten(1).square().sum(1).sqrt()


def length(delta: Tensor, norm: Norm) -> Tensor:
    """(N, …) → (N,)"""
    if norm == "L2":
        return l2_norm(delta)
    size = delta.flatten(1).abs()
    return size.amax(1) if norm == "Linf" else size.sum(1)


def diameter(x: Tensor, norm: Norm) -> float:
    """The largest possible distance between two images shaped like these, (N, …); a ball of this radius holds all images."""
    return float(length(torch.ones_like(x[:1]), norm))


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The unit step along which the loss grows fastest: sign(g) in Linf, g / ‖g‖₂ in L2; 0 where the gradient is 0.

    In L1 it is sign(g) at the largest entry of |g|.
    """
    if norm == "Linf":
        return gradient.sign()
    if norm == "L1":
        return sparse_sign(gradient, torch.ones_like(gradient.flatten(1)[:, 0]))
    gradient = to_scale(gradient)
    return gradient / per_example(l2_norm(gradient), gradient).clamp_min(torch.finfo(gradient.dtype).tiny)


def to_scale(gradient: Tensor) -> Tensor:
    """Divide by the largest entry, per example, so that squares and sums do not over- or underflow; 0 stays 0."""
    return gradient / per_example(gradient.flatten(1).abs().amax(1), gradient).clamp_min(torch.finfo(gradient.dtype).tiny)


def sparse_sign(gradient: Tensor, count: Tensor) -> Tensor:
    """sign(g) at the ``count``, (N,), largest entries of |g|, scaled to length 1 in L1; 0 where the gradient is 0."""
    size = gradient.flatten(1).abs()
    place = count.long().clamp(1, size.shape[1]) - 1
    least = size.sort(1, descending=True).values.gather(1, place[:, None])[:, 0]
    sign = torch.where(gradient.abs() >= per_example(least, gradient), gradient.sign(), 0)
    return sign / per_example(length(sign, "L1").clamp_min(1), sign)


def project(moved: Tensor, x: Tensor, eps: Tensor, norm: Norm) -> Tensor:
    """Project into the ball of radius eps, (N,), around x, and into [0, 1].

    In Linf and L1 this is the nearest such point; in L2, the nearest point of the ball, clipped.
    """
    radius = per_example(eps, x)
    if norm == "Linf":
        return torch.maximum(torch.minimum(moved, x + radius), x - radius).clamp(0, 1)
    if norm == "L1":
        return _project_l1(moved, x, eps)
    delta = moved - x
    size = per_example(l2_norm(delta), x)
    return (x + delta * torch.where(size > radius, radius / size, 1)).clamp(0, 1)


def _project_l1(moved: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """Shrink each |d_i|, d = moved - x, by the same λ ≥ 0, down to 0, and up to the room r_i to the wall of the box:

    |δ_i| = min(max(|d_i| - λ, 0), r_i).  As λ falls, the length Σ|δ_i| grows along straight pieces.  Its slope rises by 1 at
    each |d_i|, where entry i begins to move, and falls by 1 at each |d_i| - r_i, where it reaches its wall.  λ is where the
    length reaches eps.
    Paper: Croce and Hein 2021, arXiv:2103.01208 (the projection onto the intersection of the L1 ball and the box).
    """
    d = (moved - x).flatten(1)
    size, room = d.abs(), torch.where(d > 0, 1 - x.flatten(1), x.flatten(1))
    bends, order = torch.cat([size, size - room], dim=1).sort(dim=1, descending=True)
    rate = torch.cat([torch.ones_like(size), -torch.ones_like(size)], dim=1).gather(1, order).cumsum(1)
    grown = torch.cat([torch.zeros_like(eps)[:, None], (rate[:, :-1] * -bends.diff(dim=1)).cumsum(1)], dim=1)
    last = ((grown <= eps[:, None]).sum(1, keepdim=True) - 1).clamp_min(0)  # last bend before the length is eps
    left = eps[:, None] - grown.gather(1, last)
    shrink = (bends.gather(1, last) - left / rate.gather(1, last).clamp_min(1)).clamp_min(0)
    shrunk = torch.minimum((size - shrink).clamp_min(0), room)
    moving = ((shrunk > 0) & (shrunk < room)).sum(1, keepdim=True)
    shrink = shrink + (shrunk.sum(1, keepdim=True) - eps[:, None]).clamp_min(0) / moving.clamp_min(1)  # corrects rounding
    return (x + (d.sign() * (size - shrink).clamp_min(0)).reshape(x.shape)).clamp(0, 1)


def to_hyperplane(x: Tensor, value: Tensor, slope: Tensor, norm: Norm) -> Tensor:
    """The shortest step δ from x, within [0, 1], to where value + ⟨slope, δ⟩ = 0; if the box prevents it, as near as possible.

    value: (N,).  slope: like x.
    δ has the sign opposite to value · slope.  In Linf and L2, |δ_i| = min(τ c_i, r_i), where c_i is 1 or |slope_i|, r_i is the
    room to the wall, and τ solves Σ |slope_i δ_i| = |value|.  In L1 the steepest entries go to their walls one by one.
    Paper: Croce and Hein 2020, arXiv:1907.02044.
    """
    flat, tiny = x.flatten(1), torch.finfo(x.dtype).tiny
    sign = -(value.sign()[:, None] * slope.flatten(1).sign())
    room = torch.where(sign > 0, 1 - flat, flat) * sign.abs()
    scale = slope.flatten(1).abs().amax(1, keepdim=True).clamp_min(tiny)  # so that squares do not underflow
    steep, needed = slope.flatten(1).abs() / scale, value.abs()[:, None] / scale
    if norm == "L1":
        order = steep.argsort(1, descending=True)
        gain = (steep * room).gather(1, order)
        share = ((needed - gain.cumsum(1) + gain) / gain.clamp_min(tiny)).clamp(0, 1)
        size = room * torch.zeros_like(room).scatter(1, order, share)
    else:
        pace = torch.ones_like(steep) if norm == "Linf" else steep
        bends, order = (room / pace.clamp_min(tiny)).sort(1)
        at_wall = (steep * room).gather(1, order).cumsum(1)
        rate = (steep * pace).gather(1, order).flip(1).cumsum(1).flip(1)  # of this entry and those that reach their wall later
        before = torch.nn.functional.pad(at_wall, (1, 0))[:, :-1]
        first = (before + bends * rate < needed).sum(1, keepdim=True).clamp_max(room.shape[1] - 1)
        tau = (needed - before.gather(1, first)).clamp_min(0) / rate.gather(1, first).clamp_min(tiny)
        size = torch.minimum(torch.minimum(tau, bends.gather(1, first)) * pace, room)
    return (sign * size).reshape(x.shape)


def random_start(x: Tensor, eps: Tensor, norm: Norm, generators: Generators) -> Tensor:
    """A point drawn uniformly from the ball around x, clipped to [0, 1].

    generators: one for the whole batch, or one per example, so that an example's draw does not depend on its batch.
    """
    radius = per_example(eps, x)
    if norm == "Linf":
        offset = 2 * draw(torch.rand, x.shape, generators) - 1
    else:
        if norm == "L2":
            direction = steepest(draw(torch.randn, x.shape, generators), norm)
        else:
            laplace = draw(torch.rand, x.shape, generators).neg().log1p() * draw(torch.randn, x.shape, generators).sign()
            direction = laplace / per_example(length(laplace, "L1"), x)
        distance = draw(torch.rand, x.shape[:1], generators) ** (1 / x[0].numel())
        offset = per_example(distance, x) * direction
    return (x + radius * offset.to(x)).clamp(0, 1)


def draw(distribution: Callable[..., Tensor], shape: Sequence[int], generators: Generators) -> Tensor:
    """Random numbers of this shape, (N, …), on the CPU; if there is one generator per example, each draws from its own."""
    if isinstance(generators, torch.Generator):
        return distribution(shape, generator=generators)
    return torch.stack([distribution(shape[1:], generator=generator) for generator in generators])


def generators_of(generators: Generators, index: Tensor) -> Generators:
    """The generators of the examples ``index``."""
    return generators if isinstance(generators, torch.Generator) else [generators[i] for i in index.tolist()]
