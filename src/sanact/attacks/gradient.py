"""Attacks that climb a loss by its gradient inside a norm ball: what FGSM, BIM, ILCM, MIM and PGD have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from sanact.attacks.base import BudgetedAttack
from sanact.attacks.losses import LOSSES, LossName
from sanact.attacks.projections import per_example, project, steepest
from sanact.checks import Model, check_gradient, check_logits


@dataclass(frozen=True, kw_only=True)
class GradientAttack(BudgetedAttack):
    """Steps along the gradient of a loss, each projected back into the ball and into [0, 1].

    loss: what is driven up, "ce" or "margin".
    early_stop: an example that is won leaves the batch; False goes on to the highest loss, for examples to be replayed
        elsewhere.
    Of all points visited, x itself included, an example keeps the best: adversarial ones first, then the highest loss, then the
    latest: a loss that rounds to zero is no reason to stay.
    """

    loss: LossName = "ce"
    early_stop: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.loss in LOSSES, "loss", f"one of {', '.join(LOSSES)}")

    def for_replay(self) -> Self:
        return replace(self, early_stop=False)

    def climb(self, search: Search, start: Tensor, *, steps: int, step_size: Tensor, decay: float = 0.0) -> None:
        """Take ``steps`` steps from ``start`` and show every point visited, the last included, to the search.

        step_size: (N,).  decay: of the running mean of gradients that is followed; 0 follows the gradient itself.
        """
        index = search.open()  # the examples still in the batch
        here, mean = start[index], torch.zeros_like(start[index])
        for step in range(steps + 1):
            if not len(index):
                return
            last = step == steps
            with torch.set_grad_enabled(not last):
                here.requires_grad_(not last)
                loss, won = search.visit(index, here)
                if last or (self.early_stop and bool(won.all())):
                    return
                (gradient,) = torch.autograd.grad(loss.sum(), here)
            check_gradient(gradient, str(self))
            if self.early_stop and bool(won.any()):
                index, here, gradient, mean = (part[~won] for part in (index, here, gradient, mean))
            if decay:
                size = gradient.flatten(1).norm(p=1, dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
                gradient = mean = decay * mean + gradient / per_example(size, gradient)
            moved = here.detach() + per_example(step_size[index], here) * steepest(gradient, self.norm)
            here = project(moved, search.x[index], search.eps[index], self.norm)


class Search:
    """The best point found so far for each example.

    labels: what the loss is taken at, (N,); toward: whether the loss there is driven down.  y, attack.targeted: the goal.
    """

    def __init__(
        self, attack: GradientAttack, model: Model, x: Tensor, y: Tensor, eps: Tensor, labels: Tensor, *, toward: bool
    ) -> None:
        self.attack, self.model, self.x, self.y, self.eps = attack, model, x, y, eps
        self.labels, self.sign = labels, -1 if toward else 1
        self.best = x.clone()
        self.loss = torch.full((len(x),), -math.inf, dtype=x.dtype, device=x.device)
        self.won = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def open(self) -> Tensor:
        """The examples to go on with."""
        everybody = torch.arange(len(self.x), device=self.x.device)
        return everybody[~self.won] if self.attack.early_stop else everybody

    def visit(self, index: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """The loss at ``here``, and whether the goal is reached there, both (n,), for the examples ``index``."""
        logits = self.model(here)
        check_logits(logits.detach(), self.y[index], str(self.attack))
        loss = self.sign * LOSSES[self.attack.loss](logits, self.labels[index])
        won = (logits.detach().argmax(1) == self.y[index]) == self.attack.targeted
        better = (won & ~self.won[index]) | ((won == self.won[index]) & (loss.detach() >= self.loss[index]))
        chosen = index[better]
        self.best[chosen] = here.detach()[better]
        self.loss[chosen] = loss.detach()[better].to(self.loss.dtype)
        self.won[chosen] = won[better]
        return loss, won
