"""An attack on networks that can refuse: another class and acceptance at once, in steps that spare unimportant pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sanact.attacks import PGD
from sanact.attacks.gradient import Search
from sanact.attacks.losses import margin
from sanact.attacks.projections import Generators, per_example, project, steepest
from sanact.checks import Model, fooled, logits_of

CLEAR = 1.0  # margin, in logits, by which each goal should be reached
CROSSINGS = 2.5  # length of all steps together, in radii of the ball


@dataclass(frozen=True, kw_only=True)
class Acceptance(PGD):
    """Steps along the gradient of two hinges.  Their L2 length is fixed beforehand, and falls to zero.

        J = -max(0, 1 - max_{k≠y} z_k + z_y) - max(0, 1 + z_K - max_k z_k),    z_K the logit of the refusal

    In Linf, a PGD step moves every pixel by the same amount, including pixels that hardly affect the class; detectors notice
    these.  Pixels already at the bound that their gradient points to do not count.
    For networks that can refuse.  step_size: of the first step, in L2; None lets all steps together cross the ball 2.5 times.
    Paper: Carlini and Wagner 2017, arXiv:1705.07263 (detectors in the loss).
    """

    random_start: bool = False

    def search(self, model: Model, x: Tensor, y: Tensor, eps: Tensor) -> Search:
        return BothGoals(self, model, x, y, eps, y, toward=False)

    def explore(self, search: Search, generator: Generators, start: Tensor | None) -> None:
        x, radius, index = search.x, search.eps, search.open()
        if self.norm == "Linf":
            radius = radius * math.sqrt(x[0].numel())
        first = 2 * self.stride(radius, CROSSINGS)
        here = (x if start is None else start)[index]
        for step in range(self.steps + 1):
            _, won, gradient = search.visit(index, here, slope=step < self.steps)
            if self.early_stop:
                index, here, gradient = (part[~won] for part in (index, here, gradient))
            if step == self.steps or not len(index):
                return
            reached = project(here + gradient.sign(), x[index], search.eps[index], self.norm)
            free = torch.where(reached == here, 0, gradient) if self.norm == "Linf" else gradient
            length = first[index] * (1 - step / self.steps)
            here = project(here + per_example(length, here) * steepest(free, "L2"), x[index], search.eps[index], self.norm)


class BothGoals(Search):
    def look(self, point: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        y = self.y[index]
        logits = logits_of(self.model, point, y, self.attack, self.places[index])
        other, refused = margin(logits[:, :-1], y), logits[:, -1] - logits[:, :-1].amax(1)
        return -(CLEAR - other).relu() - (CLEAR + refused).relu(), fooled(self.model, logits.detach(), y)
