"""The basic iterative method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sanact.attacks.base import STEPS
from sanact.attacks.gradient import GradientAttack, Search
from sanact.attacks.projections import Generators
from sanact.values import POSITIVE, Maybe, Rules


@dataclass(frozen=True, kw_only=True)
class BIM(GradientAttack):
    """Basic iterative method: FGSM in small steps.

        x' ← Π( x' + α sign ∇J(x', y) ),  from x

    steps: whole number ≥ 1.  step_size: α > 0, in input units; None is eps / steps.
    Paper: Kurakin et al. 2017, arXiv:1607.02533.  Deviation: the best iterate is kept, not the last.
    """

    steps: int = 10
    step_size: float | None = None

    rules: ClassVar[Rules] = {**GradientAttack.rules, "steps": STEPS, "step_size": Maybe(POSITIVE)}

    def explore(self, search: Search, generator: Generators, start: Tensor | None) -> None:
        self.climb(search, search.x if start is None else start, steps=self.steps, step_size=self.stride(search.eps))

    def stride(self, eps: Tensor, crossings: float = 1.0) -> Tensor:
        """The step size of each example, (N,); by default all ``steps`` together are ``crossings`` radii long."""
        return crossings * eps / self.steps if self.step_size is None else eps.new_full(eps.shape, self.step_size)
