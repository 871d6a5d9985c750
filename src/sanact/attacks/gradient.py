"""Attacks that raise a loss by its gradient inside a norm ball: the common base of FGSM, BIM, ILCM, MIM and PGD."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from sanact.attacks.base import BudgetedAttack
from sanact.attacks.losses import LOSSES, LossName, dlr_towards
from sanact.attacks.projections import Generators, per_example, project, steepest, to_scale
from sanact.checks import Model, gradient_of
from sanact.values import OneOf, Rules, Whole, flag


@dataclass(frozen=True, kw_only=True)
class GradientAttack(BudgetedAttack):
    """Steps along the gradient of a loss, each projected back into the ball and into [0, 1].

    loss: what is maximized, one of ``losses``.
    early_stop: True ends an example as soon as it is adversarial.  False continues to the highest loss, which makes examples
        that transfer to other models.
    draws: how many passes of a randomized model to average loss and gradient over, ≥ 1.  Success means that more than half of
        them are adversarial.  Paper: Athalye et al. 2018, arXiv:1802.00420 (expectation over transformation).
    Call: as `BudgetedAttack`.  start, a tensor like x, replaces x or the first random start; points outside the ball are
        projected into it.
    Returns the best point visited.  Adversarial points win over others.  Among equals the higher loss wins, then the
    later point.
    """

    loss: LossName = "ce"
    early_stop: bool = True
    draws: int = 1

    losses: ClassVar[tuple[LossName, ...]] = ("ce", "margin", "dlr")
    rules: ClassVar[Rules] = {**BudgetedAttack.rules, "early_stop": flag, "draws": Whole(1, 10_000)}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "loss", OneOf(self.losses)(self.loss, "loss", str(self)))

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        eps: Tensor | None = None,
        generator: Generators | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        if start is not None and (start.shape != x.shape or start.dtype != x.dtype or start.device != x.device):
            came = f"{tuple(start.shape)}, {start.dtype} on {start.device}"
            raise ValueError(f"start must be like x, {tuple(x.shape)}, {x.dtype} on {x.device}, got {came} ({self})")
        return self._on_guard(model, x, y, eps, generator, *([] if start is None else [start]))

    def craft(
        self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators, start: Tensor | None = None
    ) -> Tensor:
        search = self.search(model, x, y, eps)
        self.explore(search, generator, None if start is None else project(start, x, eps, self.norm))
        return search.best

    def search(self, model: Model, x: Tensor, y: Tensor, eps: Tensor) -> Search:
        """The search with this attack's objective."""
        return Search(self, model, x, y, eps, y, toward=self.targeted)

    def explore(self, search: Search, generator: Generators, start: Tensor | None) -> None:
        """Climb the loss, and show every point to the search.  start: where to begin, inside the balls, if given."""
        raise NotImplementedError

    def for_replay(self) -> Self:
        return replace(self, early_stop=False)

    def climb(self, search: Search, start: Tensor, *, steps: int, step_size: Tensor, decay: float = 0.0) -> None:
        """Take ``steps`` steps from ``start`` and show every point visited, including the last, to the search.

        step_size: (N,).  decay: decay of the running mean of gradients to follow; 0 follows the gradient itself.
        """
        index = search.open()  # the examples still in the batch
        here, mean = start[index], torch.zeros_like(start[index])
        for step in range(steps + 1):
            if not len(index):
                return
            _, won, gradient = search.visit(index, here, slope=step < steps)
            if step == steps:
                return
            if self.early_stop and bool(won.any()):
                index, here, gradient, mean = (part[~won] for part in (index, here, gradient, mean))
            if decay:
                gradient = to_scale(gradient)
                size = gradient.flatten(1).abs().sum(1).clamp_min(torch.finfo(gradient.dtype).tiny)
                gradient = mean = decay * mean + gradient / per_example(size, gradient)
            moved = here + per_example(step_size[index], here) * steepest(gradient, self.norm)
            here = project(moved, search.x[index], search.eps[index], self.norm)


class Search:
    """The best point found so far for each example.

    labels: where the loss is taken, (N,); toward: whether to lower the loss there.  y, attack.targeted: the goal.
    """

    def __init__(
        self, attack: GradientAttack, model: Model, x: Tensor, y: Tensor, eps: Tensor, labels: Tensor, *, toward: bool
    ) -> None:
        self.attack, self.model, self.x, self.y, self.eps = attack, model, x, y, eps
        self.labels, self.sign = labels, -1 if toward else 1
        self.places = torch.arange(len(x), device=x.device)  # in the attacked batch
        self.best = x.clone()
        self.loss = torch.full((len(x),), -math.inf, dtype=x.dtype, device=x.device)
        self.won = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def elsewhere(self, index: Tensor, eps: Tensor, attack: GradientAttack) -> Search:
        """The same search for the examples ``index``, in balls of other radii, with nothing found yet."""
        x, y, eps, labels = (part[index] for part in (self.x, self.y, eps, self.labels))
        there = type(self)(attack, self.model, x, y, eps, labels, toward=self.sign < 0)
        there.places = self.places[index]
        return there

    def open(self) -> Tensor:
        """The examples to continue with."""
        everybody = torch.arange(len(self.x), device=self.x.device)
        return everybody[~self.won] if self.attack.early_stop else everybody

    def visit(self, index: Tensor, here: Tensor, *, slope: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The loss at ``here``, whether the goal is reached there, both (n,), and the gradient of the loss, for ``index``.

        slope: whether to compute the gradient.  It is 0 otherwise, and where all examples are won and leave the batch.
        """
        of = self.places[index]
        loss, hits, gradient = self.loss.new_zeros(len(index)), index.new_zeros(len(index)), torch.zeros_like(here)
        for _ in range(self.attack.draws):
            with torch.set_grad_enabled(slope):
                point = here.detach().requires_grad_(slope)
                value, hit = self.look(point, index)
            loss += value.detach() / self.attack.draws
            hits += hit
            if slope and not (self.attack.early_stop and self.attack.draws == 1 and bool(hits.all())):
                gradient += gradient_of(value, point, self.attack, of) / self.attack.draws
        won = 2 * hits > self.attack.draws
        self.keep(index, here, loss, won)
        return loss, won, gradient

    def keep(self, index: Tensor, here: Tensor, loss: Tensor, won: Tensor) -> None:
        """Keep the points ``here`` of ``index`` that are better than the best so far."""
        better = (won & ~self.won[index]) | ((won == self.won[index]) & (loss >= self.loss[index]))
        chosen = index[better]
        self.best[chosen], self.loss[chosen], self.won[chosen] = here[better], loss[better], won[better]

    def look(self, point: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The loss at a point, and whether the goal is reached there, both (n,), from one draw."""
        logits = self.attack.logits(self.model, point, self.y[index], self.places[index])
        return self.objective(logits, index), (logits.detach().argmax(1) == self.y[index]) == self.attack.targeted

    def objective(self, logits: Tensor, index: Tensor) -> Tensor:
        """The quantity to maximize, (n,)."""
        if self.sign < 0 and self.attack.loss == "dlr":
            return dlr_towards(logits, self.labels[index])
        return self.sign * LOSSES[self.attack.loss](logits, self.labels[index])
