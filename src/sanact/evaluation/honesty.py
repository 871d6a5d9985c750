"""Does a model answer the same question in the same way, and does its gradient match finite differences?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from sanact.attacks.base import untouched
from sanact.attacks.losses import margin
from sanact.checks import Model, acceptable, fooled, logits_of
from sanact.parts import parts_of
from sanact.preserve import copied

DIRECTIONS = 4
SMALL = 1e-3  # a step short enough to measure the slope at a point
QUERIES = 10  # batches of other queries before a model is asked again
DRAWS = 10  # passes of a random model, to see its usual answer
BATCHES = (*range(2, 13), 100)  # sizes of batches in which the same images are asked about


def draws_at_random(model: Model) -> bool:
    """Whether one of its parts declares that it is random; see `Part.randomized`."""
    return any(part.randomized for part in parts_of(model))


def draws_of(model: Model) -> int:
    """How many passes show the usual answer of a model: 1, or enough for 10 draws of each random part."""
    return max((-(-DRAWS // part.averaged) for part in parts_of(model) if part.randomized), default=1)


def answer(model: Model, x: Tensor) -> Tensor:
    """The logits at x, without labels; see `checks.logits_of`."""
    return logits_of(model, x, torch.zeros(len(x), dtype=torch.long, device=x.device), "checks")


def again(model: Model, x: Tensor) -> Tensor:
    """The same, with the random draws that a new copy of the model would make."""
    for part in parts_of(model):
        part.rewind()
    return answer(model, x)


def won(model: Model, x: Tensor, y: Tensor, passes: int | None = None) -> Tensor:
    """Whether x is won, (N,): in more than half of the passes another class is predicted and the image accepted.

    passes: how many; None is `draws_of`.
    """
    hits = [fooled(model, answer(model, x), y) for _ in range(passes or draws_of(model))]
    return 2 * torch.stack(hits).sum(0) > len(hits)


def lead(model: Model, logits: Tensor, y: Tensor) -> Tensor:
    """The margin in the model's logits, (N,): another class than y, above y and above the refusal."""
    return margin(acceptable(model, logits, y), y)


def fresh_copy(model: nn.Module) -> nn.Module:
    """A copy that has not answered any query since; the model itself if it cannot be copied."""
    try:
        return copied(model)
    except ValueError:
        return model


def answers(model: nn.Module, fresh: nn.Module, x: Tensor, size: float) -> Iterator[tuple[str, float]]:
    """What the logits depend on besides the image: the largest difference, relative to the largest logit.

    fresh: a copy of the model that has not seen x.  x: (N, C, H, W).  size: of the noise around them, in Linf.
    Random parts begin their draws again for each answer.  Their draws differ by the place in the batch, so the check of the
    batch is left out for models with such parts.
    """
    with untouched(model), untouched(fresh):
        yield "earlier queries", _memory(model, fresh, x, size)
        yield "whether gradients are recorded", _watched(model, x)
        if draws_at_random(model):
            return
        whole = answer(model, x)
        alone = torch.cat([answer(model, x[i : i + 1]) for i in range(len(x))])
        orders = [torch.cat([every := torch.arange(len(x)), every.flip(0)]).flip(0)]
        orders += [torch.arange(size) % len(x) for size in BATCHES]
        mixed = [apart(answer(model, x[order]), whole[order]) for order in orders]
    yield "the batch", max(apart(alone, whole), *mixed)


def _memory(model: nn.Module, fresh: nn.Module, x: Tensor, size: float) -> float:
    """The difference of the fresh copy's answers about points near x, which it has not seen."""
    generator = torch.Generator().manual_seed(0)

    def near() -> Tensor:
        return (x + size * (2 * torch.rand(x.shape, generator=generator) - 1).to(x)).clamp(0, 1)

    points = near()
    before, first = again(fresh, points), again(model, x)
    for _ in range(QUERIES):
        answer(model, near())
    return max(apart(again(model, points), before), apart(again(model, x), first))


def _watched(model: nn.Module, x: Tensor) -> float:
    """The difference between the answers that an attack by gradients sees, and those that count."""
    with torch.enable_grad():
        seen = again(model, x.clone().requires_grad_()).detach()
    return apart(seen, again(model, x))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest magnitude in b."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))


def slopes(model: nn.Module, x: Tensor, y: Tensor, size: float) -> Iterator[tuple[str, float]]:
    """The difference between the gradient of the margin and finite differences, from 0 to 2.

        | s - ⟨∇m, d⟩ | / max( |s|, |⟨∇m, d⟩| ),   s = ( m(x + h d) - m(x - h d) ) / 2h

    The median over examples and directions d: random signs, and the sign of the gradient itself.  It is 0 for a smooth model
    and small h, 1 for a gradient unrelated to the model, and 2 for one that points the other way.
    It is measured with a short step and with a step of half the budget, and the smaller value counts: a fair surrogate for a
    step function is right only over the long one.  It is measured at x, then, after more gradients, at random points of the
    ball, and the larger value counts: a gradient may be right only where an attack begins.
    x: (N, C, H, W).  size: the budget in Linf.  Slopes too small to be measured in this arithmetic are left out.
    A random part makes the same draws for all of them.
    """
    generator = torch.Generator().manual_seed(0)
    signs = [(2 * torch.randint(2, x.shape, generator=generator) - 1).to(x) for _ in range(DIRECTIONS)]
    here = _slopes(model, x, y, size, signs)
    for sign in signs * (QUERIES // DIRECTIONS):
        _slope_at(model, (x + size * sign).clamp(0, 1), y)
    near = _slopes(model, (x + size * signs[0]).clamp(0, 1), y, size, signs[1:])
    yield from ((way, max(found[way] for found in (here, near) if way in found)) for way in here | near)


def _slopes(model: nn.Module, x: Tensor, y: Tensor, size: float, signs: Sequence[Tensor]) -> dict[str, float]:
    """The same at x alone."""
    shortest = min(SMALL, size / 4)
    found: dict[str, list[float]] = {"random directions": [], "its own steps": []}
    for h in (shortest, max(size / 2, shortest)):
        point = x.clamp(h, 1 - h) if h < 0.5 else x
        gradient = _slope_at(model, point, y)
        for way, directions in (("random directions", signs), ("its own steps", [gradient.sign()])):
            errors = [_error(model, point, y, gradient, d, h) for d in directions]
            measured = torch.cat(errors)
            found[way] += [float(measured.median())] if len(measured) else []
    return {way: min(figures) for way, figures in found.items() if figures}


def _slope_at(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with untouched(model), torch.enable_grad():
        point = x.clone().requires_grad_()
        value = lead(model, again(model, point), y).sum()
        if not value.requires_grad:
            return torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(value, point, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient.nan_to_num(0, 0, 0)


def _error(model: nn.Module, x: Tensor, y: Tensor, gradient: Tensor, direction: Tensor, h: float) -> Tensor:
    """The errors for those examples whose slope can be measured, (n,)."""
    with untouched(model):
        ahead, behind = again(model, x + h * direction), again(model, x - h * direction)
    measured = (lead(model, ahead, y).double() - lead(model, behind, y).double()) / (2 * h)
    claimed = (gradient.double() * direction).flatten(1).sum(1)
    larger = torch.maximum(measured.abs(), claimed.abs())
    rounding = 32 * torch.finfo(ahead.dtype).eps * ahead.abs().amax(1).double() / h
    return ((measured - claimed).abs() / larger)[larger > rounding]
