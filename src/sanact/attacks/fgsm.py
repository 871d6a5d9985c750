"""The fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sanact.attacks.gradient import GradientAttack, Search
from sanact.attacks.projections import Generators, per_example, project, steepest


@dataclass(frozen=True, kw_only=True)
class FGSM(GradientAttack):
    """Fast gradient sign method: one step to the border of the ball.

        x' = Π( x + eps sign ∇J(x, y) )

    In L2 the step is eps ∇J / ‖∇J‖₂.  It is a weak attack, which says little about a defense.
    Paper: Goodfellow et al. 2015, arXiv:1412.6572.  Deviation: an x that is already misclassified is returned as it is.
    """

    def explore(self, search: Search, generator: Generators, start: Tensor | None) -> None:
        here = search.x if start is None else start
        _, won, gradient = search.visit(search.open(), here, slope=True)
        ahead = here + per_example(search.eps, here) * steepest(gradient, self.norm)
        search.best[~won] = project(ahead, search.x, search.eps, self.norm)[~won]
