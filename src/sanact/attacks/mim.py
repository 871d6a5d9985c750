"""The momentum iterative method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sanact.attacks.bim import BIM
from sanact.attacks.gradient import Search
from sanact.attacks.projections import Generators
from sanact.values import NOT_NEGATIVE, Rules


@dataclass(frozen=True, kw_only=True)
class MIM(BIM):
    """Momentum iterative method: steps along a decaying sum of normalized gradients.

        g ← μ g + ∇J / ‖∇J‖₁          x' ← Π( x' + α sign(g) ),  from x

    decay: μ ≥ 0; 0 is BIM.  In L2 the step is α g / ‖g‖₂.
    Paper: Dong et al. 2018, arXiv:1710.06081.  Deviation: the best iterate is kept, not the last.
    """

    decay: float = 1.0

    rules: ClassVar[Rules] = {**BIM.rules, "decay": NOT_NEGATIVE}

    def explore(self, search: Search, generator: Generators, start: Tensor | None) -> None:
        begin, size = search.x if start is None else start, self.stride(search.eps)
        self.climb(search, begin, steps=self.steps, step_size=size, decay=self.decay)
