"""RayS: an attack that sees only the predicted class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sanact.attacks.base import QUERIES, BudgetedAttack, doublings
from sanact.attacks.projections import Generators, Norm, per_example
from sanact.checks import Model
from sanact.values import Rules, flag

TOLERANCE = 1e-3  # of a radius, in input units
FIRST = 100  # queries before the first check whether an example is hopeless
PACE = 1.5  # by how much a radius may be expected to shrink in ten times as many queries


@dataclass(frozen=True, kw_only=True)
class RayS(BudgetedAttack):
    """Ray searching: find the direction d in {-1, 1}ᴰ along which the boundary is nearest.

        min over d  r(d) = min { r : clip(x + r d) is misclassified }

    d begins as all ones and is cut into 1, 2, 4, … blocks, down to single values.  Block by block the sign is flipped.  If the
    flipped direction fools the model at the best radius so far, it is kept, and bisection finds its own radius.
    It uses decisions alone: no gradients, and of the logits only the index of the largest.  An example ends when its radius is
    within eps.  One that never gets there moves by eps in its best direction.

    queries: of the model, for each example, ≥ 1.  norm: Linf.  It is untargeted and deterministic.
    abort_early: also end an example after 100, 200, 400, … queries if its radius would have to shrink by more than 1.5-fold
        in ten times as many.
    Paper: Chen and Gu 2020, arXiv:2006.12792.  Deviation: the first direction is tried as it is, before any flip.
    """

    queries: int = 2000
    abort_early: bool = False

    norms: ClassVar[tuple[Norm, ...]] = ("Linf",)
    rules: ClassVar[Rules] = {**BudgetedAttack.rules, "queries": QUERIES, "abort_early": flag}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(not self.targeted, "targeted", "False")

    def craft(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        radius, direction = x.new_full((len(x),), torch.inf), torch.ones_like(x)
        everybody = torch.arange(len(x), device=x.device)
        radius[self._fooled(model, x, y, everybody)] = 0
        index = everybody[radius > eps]  # the examples still searching
        trial, low = direction[index], torch.zeros_like(radius[index])
        bisecting, block = torch.zeros_like(index, dtype=torch.bool), torch.zeros_like(index)
        starts, stops = (ends.to(x.device) for ends in _blocks(x[0].numel(), self.queries))
        hopes = doublings(FIRST, self.queries) if self.abort_early else []
        for query in range(1, self.queries):
            if not len(index):
                break
            tried = torch.where(bisecting, (low + radius[index]) / 2, radius[index]).clamp(max=1)  # 1 reaches any corner
            fooled = self._fooled(model, _along(x[index], tried, trial), y[index], index)
            radius[index] = torch.where(fooled, tried, radius[index])
            direction[index] = torch.where(per_example(fooled, trial), trial, direction[index])
            low = torch.where(fooled, low * bisecting, tried)
            bisecting = (bisecting | fooled) & (radius[index] - low > TOLERANCE)
            flipped = _flip(direction[index], starts[block], stops[block])
            trial = torch.where(per_example(bisecting, trial), trial, flipped)
            block = block + ~bisecting
            searching = radius[index] > eps[index]
            if query in hopes:
                searching &= radius[index] <= eps[index] * PACE ** math.log10(self.queries / query)
            index, trial, low, bisecting, block = (part[searching] for part in (index, trial, low, bisecting, block))
        return _along(x, torch.minimum(radius, eps), direction)

    def _fooled(self, model: Model, x: Tensor, y: Tensor, of: Tensor) -> Tensor:
        return self.logits(model, x, y, of).argmax(1) != y


def _along(x: Tensor, radius: Tensor, direction: Tensor) -> Tensor:
    return (x + per_example(radius, x) * direction).clamp(0, 1)


def _flip(direction: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """The direction with the signs of the values start..stop - 1, (N,) each, flipped."""
    place = torch.arange(direction[0].numel(), device=direction.device)
    inside = (start[:, None] <= place) & (place < stop[:, None])
    return direction * (1 - 2 * inside.to(direction)).reshape(direction.shape)


def _blocks(values: int, count: int) -> tuple[Tensor, Tensor]:
    """Starts and ends of the first ``count`` blocks, (count,): halves, quarters, …, then single values again and again."""
    starts: list[int] = []
    stops: list[int] = []
    parts = 1
    while len(starts) < count:
        ends = torch.arange(parts + 1) * values // parts
        starts += ends[:-1].tolist()
        stops += ends[1:].tolist()
        parts = min(2 * parts, values)
    return torch.tensor(starts[:count]), torch.tensor(stops[:count])
