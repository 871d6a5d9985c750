"""The iterative least-likely class method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sanact.attacks.bim import BIM
from sanact.attacks.gradient import Search
from sanact.attacks.projections import Generators
from sanact.checks import Model


@dataclass(frozen=True, kw_only=True)
class ILCM(BIM):
    """Iterative least-likely class method: small steps towards the class that the model finds least likely.

        x' ← Π( x' - α sign ∇J(x', y_LL) ),  from x,  y_LL = argmin_y p(y | x)

    It succeeds when the prediction is no longer y.  It chooses its target itself, so ``targeted`` must stay False.
    Paper: Kurakin et al. 2017, arXiv:1607.02533.  Deviation: the best iterate is kept, not the last.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(not self.targeted, "targeted", "False, because it chooses the target itself")

    def search(self, model: Model, x: Tensor, y: Tensor, eps: Tensor) -> Search:
        return TowardsLeastLikely(self, model, x, y, eps, y, toward=True)

    def explore(self, search: Search, generator: Generators, start: Tensor | None) -> None:
        if start is not None:
            search.visit(search.open(), search.x)
        super().explore(search, generator, start)


class TowardsLeastLikely(Search):
    """Climbs towards the class that was least likely at the first points visited."""

    chosen = False

    def objective(self, logits: Tensor, index: Tensor) -> Tensor:
        if not self.chosen:
            self.labels, self.chosen = logits.detach().argmin(1), True
        return super().objective(logits, index)
