"""Projected gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sanact.attacks.base import RESTARTS
from sanact.attacks.bim import BIM
from sanact.attacks.gradient import Search
from sanact.attacks.projections import Generators, random_start
from sanact.values import Rules, flag


@dataclass(frozen=True, kw_only=True)
class PGD(BIM):
    """Projected gradient descent: BIM from random starts.

        x' ← Π( x' + α sign ∇J(x', y) ),  from x + U(ball)

    steps: of each start.  step_size: α; None is 2.5 eps / steps, so that the ball can be crossed from any start.
    restarts: random starts, ≥ 1; the best point of all is kept.
    random_start: False starts at x, which allows one start only.
    In L2, use 5 restarts, or no random start.  A single random start may lie on the far side of the ball, and all steps
    together are 2.5 radii long: they may end before they have gone around it.  On linear models of 3 by 3 to 8 by 8 pixels,
    whose nearest adversarial point lies 2 % inside the ball, a single start finds 7 to 9 of 10.
    Paper: Madry et al. 2018, arXiv:1706.06083.  Deviation: the best iterate is kept, not the last.
    """

    steps: int = 40
    restarts: int = 1
    random_start: bool = True

    rules: ClassVar[Rules] = {**BIM.rules, "restarts": RESTARTS, "random_start": flag}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.random_start or self.restarts == 1, "restarts", "1 without random_start: all would be alike")

    def explore(self, search: Search, generator: Generators, start: Tensor | None) -> None:
        x, eps = search.x, search.eps
        if self.early_stop and self.random_start and start is None:
            search.visit(search.open(), x)
        for run in range(self.restarts):
            if run or start is None:
                start = random_start(x, eps, self.norm, generator) if self.random_start else x
            self.climb(search, start, steps=self.steps, step_size=self.stride(eps, crossings=2.5))
