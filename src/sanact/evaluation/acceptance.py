"""An attack on networks that can refuse: another class and acceptance at once, in steps that spare unimportant pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sanact.attacks import PGD
from sanact.attacks.gradient import Search
from sanact.attacks.losses import likeliest_others, margin
from sanact.attacks.projections import Generators, per_example, project, steepest
from sanact.checks import Model, fooled, gradient_of, logits_of
from sanact.values import Rules, Whole

CLEAR = 1.0  # margin, in logits, by which each goal should be reached
CROSSINGS = 2.5  # length of all steps together, in radii of the ball


@dataclass(frozen=True, kw_only=True)
class Acceptance(PGD):
    """Steps towards two goals at once.  Their L2 length is fixed beforehand, and falls to zero.

        a = max_{k≠y} z_k - z_y,   or towards a class t  z_t - max_{k≠t} z_k        b = max_k z_k - z_K
        x' ← Π( x' + η u / ‖u‖₂ ),   u = [a < 1] ∇a / ‖∇a‖₂ + [b < 1] ∇b / ‖∇b‖₂

    z_K is the logit of the refusal.  Both gradients count alike: a score may be far steeper than the logits, or hardly rise.
    In Linf, a PGD step moves every pixel by the same amount, including pixels that hardly affect the class; detectors notice
    these.  Pixels already at the bound that a gradient points to do not count for it.
    For networks that can refuse.  step_size: of the first step, in L2; None lets all steps together cross the ball 2.5 times.
    targets: of the likeliest other classes, how many are tried one after the other; 0 goes towards whichever leads.
    Papers: Carlini and Wagner 2017, arXiv:1705.07263 (detectors in the loss); Tramèr et al. 2020, arXiv:2002.08347 (every class
    in turn); Bryniarski et al. 2021, arXiv:2106.15023 (one goal must not drown the other).
    """

    random_start: bool = False
    targets: int = 0

    rules: ClassVar[Rules] = {**PGD.rules, "targets": Whole(0, 100_000)}

    def search(self, model: Model, x: Tensor, y: Tensor, eps: Tensor) -> BothGoals:
        return BothGoals(self, model, x, y, eps, y, toward=self.targets > 0)

    def explore(self, search: Search, generator: Generators, start: Tensor | None) -> None:
        start = search.x if start is None else start
        if not self.targets:
            return self._ascend(search, start, search.open())
        rivals = likeliest_others(logits_of(search.model, start, search.y, self)[:, :-1], search.y, self.targets)
        for rival in rivals.T:
            search.labels = rival
            self._ascend(search, start, torch.nonzero(~search.won)[:, 0])

    def _ascend(self, search: Search, start: Tensor, index: Tensor) -> None:
        radius, here = search.eps, start[index]
        if self.norm == "Linf":
            radius = radius * math.sqrt(search.x[0].numel())
        first = 2 * self.stride(radius, CROSSINGS)
        for step in range(self.steps + 1):
            if not len(index):
                return
            _, won, direction = search.visit(index, here, slope=step < self.steps)
            if self.early_stop:
                index, here, direction = (part[~won] for part in (index, here, direction))
            moved = here + per_example(first[index] * (1 - step / self.steps), here) * steepest(direction, "L2")
            here = project(moved, search.x[index], search.eps[index], self.norm)


class BothGoals(Search):
    """labels: with ``toward``, the class that each example is driven to."""

    def visit(self, index: Tensor, here: Tensor, *, slope: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Minus what the goals lack, whether both are reached, both (n,), and the sum of unit steps to what is not."""
        y, of, draws = self.y[index], self.places[index], self.attack.draws
        goals, hits = here.new_zeros(2, len(index)), index.new_zeros(len(index))
        slopes = here.new_zeros(2, *here.shape)
        for _ in range(draws):
            with torch.set_grad_enabled(slope):
                point = here.detach().requires_grad_(slope)
                logits = logits_of(self.model, point, y, self.attack, of)
                values = self._goals(logits, index)
            hits += fooled(self.model, logits.detach(), y)
            for which, value in enumerate(values):
                goals[which] += value.detach() / draws
                if slope:
                    slopes[which] += gradient_of(value, point, self.attack, of, retain_graph=which == 0) / draws
        missing, won = (CLEAR - goals).relu(), 2 * hits > draws
        loss = -missing.sum(0)
        self.keep(index, here, loss, won)
        steps = [steepest(self._free(one, here, index), "L2") for one in slopes]
        return loss, won, sum((per_example(far > 0, one) * one for far, one in zip(missing, steps, strict=True)), 0 * here)

    def _goals(self, logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """How far another class leads, and how far its logit is above that of the refusal, both (n,)."""
        classes, labels = logits[:, :-1], self.labels[index]
        return self.sign * margin(classes, labels), classes.amax(1) - logits[:, -1]

    def _free(self, slope: Tensor, here: Tensor, index: Tensor) -> Tensor:
        """The gradient without the pixels, in Linf, that are already at the bound it points to."""
        if self.attack.norm != "Linf":
            return slope
        reached = project(here + slope.sign(), self.x[index], self.eps[index], "Linf")
        return torch.where(reached == here, 0, slope)
