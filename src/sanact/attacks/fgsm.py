"""The fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sanact.attacks.gradient import GradientAttack, Search
from sanact.attacks.projections import Generators
from sanact.checks import Model


@dataclass(frozen=True, kw_only=True)
class FGSM(GradientAttack):
    """Fast gradient sign method: one step to the border of the ball.

        x' = Π( x + eps sign ∇J(x, y) )

    In L2 the step is eps ∇J / ‖∇J‖₂.  Weak: it says little about a defense.
    Paper: Goodfellow et al. 2015, arXiv:1412.6572.  Deviation: x is kept where the step lowers the loss.
    """

    def craft(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        search = Search(self, model, x, y, eps, y, toward=self.targeted)
        self.climb(search, x, steps=1, step_size=eps)
        return search.best
