"""The iterative least-likely class method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sanact.attacks.bim import BIM
from sanact.attacks.gradient import Search
from sanact.attacks.projections import Generators
from sanact.checks import Model, logits_of


@dataclass(frozen=True, kw_only=True)
class ILCM(BIM):
    """Iterative least-likely class method: small steps towards the class that the model believes in least.

        x' ← Π( x' - α sign ∇J(x', y_LL) ),  from x,  y_LL = argmin_y p(y | x)

    It has won when the prediction is no longer y.  It chooses its target itself, so ``targeted`` must stay False.
    Paper: Kurakin et al. 2017, arXiv:1607.02533.  Deviation: the best iterate is kept, not the last.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(not self.targeted, "targeted", "False, for it chooses the target itself")

    def craft(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        logits = logits_of(model, x, y, self)
        search = Search(self, model, x, y, eps, logits.argmin(1), toward=True)
        self.climb(search, x, steps=self.steps, step_size=self.stride(eps))
        return search.best
