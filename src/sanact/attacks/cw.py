"""Carlini and Wagner's L2 attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sanact.attacks.base import STEPS, Attack
from sanact.attacks.losses import margin
from sanact.attacks.projections import Generators, Norm, per_example
from sanact.checks import Model, gradient_of
from sanact.values import NOT_NEGATIVE, POSITIVE, Rules, Whole, flag

LARGEST = 1e10  # c


@dataclass(frozen=True, kw_only=True)
class CW(Attack):
    """Carlini and Wagner's attack: the closest adversarial example in L2, without a budget.

        minimize over w  ‖x' - x‖₂² + c · max( z_y - max_{i≠y} z_i, -κ ),   x' = (tanh w + 1) / 2

    w is found by Adam.  Each example has its own binary search for c: tenfold until it succeeds, at most to 1e10, then
    bisection.  In a targeted attack the two logits change places.  If no adversarial example is found, x is returned.

    search_steps: of the search for c, ≥ 1.  steps: of Adam in each, ≥ 1.  step_size: of Adam, > 0, in units of w.
    confidence: κ ≥ 0, the margin in logits that counts as success.  initial_c: > 0.
    abort_early: end an example whose lowest objective fell by less than a ten-thousandth over a tenth of the steps (at
        least 50).
    Paper: Carlini and Wagner 2017, arXiv:1608.04644, `l2_attack.py`.  Deviations: 1,000 steps, not 10,000; examples end
    early one by one, not as a batch.
    """

    search_steps: int = 9
    steps: int = 1000
    step_size: float = 0.01
    confidence: float = 0.0
    initial_c: float = 1e-3
    abort_early: bool = True

    rules: ClassVar[Rules] = {
        **Attack.rules,
        "search_steps": Whole(1, 100),
        "steps": STEPS,
        "step_size": POSITIVE,
        "confidence": NOT_NEGATIVE,
        "initial_c": POSITIVE,
        "abort_early": flag,
    }

    @property
    def budget(self) -> tuple[Norm, float | None]:
        return "L2", None

    def craft(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        best, distance = x.clone(), x.new_full((len(x),), torch.inf)
        lower, upper = x.new_zeros(len(x)), x.new_full((len(x),), torch.inf)
        c = x.new_full((len(x),), self.initial_c)
        for _ in range(self.search_steps):
            found = self._minimize(model, x, y, c, best, distance)
            upper = torch.where(found, torch.minimum(upper, c), upper)
            lower = torch.where(found, lower, torch.maximum(lower, c))
            c = torch.where(upper.isinf(), (10 * c).clamp_max(max(LARGEST, self.initial_c)), (lower + upper) / 2)
        return best

    def _minimize(self, model: Model, x: Tensor, y: Tensor, c: Tensor, best: Tensor, distance: Tensor) -> Tensor:
        """One run of Adam.  Writes closer adversarial examples to ``best`` and ``distance``; returns who found any, (N,)."""
        found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        index = torch.arange(len(x), device=x.device)  # the examples still running
        w = torch.atanh((2 * x - 1) * (1 - 1e-6))
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        lowest, earlier = (x.new_full((len(x),), torch.inf) for _ in range(2))
        steepest = torch.finfo(w.dtype).max ** 0.5 / 10  # Adam squares gradients, which must not overflow
        every = max(self.steps // 10, 50)  # in fewer than 50 steps, black and white pixels hardly move
        for step in range(1, self.steps + 1):
            bent = torch.tanh(w)
            candidate = (bent + 1) / 2
            with torch.enable_grad():
                point = candidate.detach().requires_grad_()
                logits = self.logits(model, point, y[index], index)
                short = margin(logits, y[index]) * (1 if self.targeted else -1)  # distance to success, without κ
                slope = gradient_of(short, point, self, index)
            delta, short = candidate - x[index], short.detach().to(x)
            squared, missing = delta.square().flatten(1).sum(1), short + self.confidence
            objective = squared + c[index] * missing.clamp_min(0)
            slope = 2 * delta + per_example(c[index] * (missing >= 0), slope) * slope
            gradient = slope.clamp(-steepest, steepest) * (1 - bent.square()) / 2

            success = short <= -self.confidence if self.confidence else short < 0
            closer = success & (squared < distance[index])
            best[index[closer]], distance[index[closer]] = candidate[closer], squared[closer]
            found[index[success]] = True

            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient.square()
            w = w - self.step_size * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)

            lowest[index] = torch.minimum(lowest[index], objective)
            if self.abort_early and step % every == 0:
                running = lowest[index] <= 0.9999 * earlier[index]
                earlier[index] = lowest[index]
                if not running.all():
                    index, w, mean, square = (part[running] for part in (index, w, mean, square))
                if not len(index):
                    break
        return found
