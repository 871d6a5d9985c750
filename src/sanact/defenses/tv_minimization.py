"""Total variation minimization: classify the smoothest image that agrees with some of the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sanact.defenses.base import Card
from sanact.defenses.transforming import Behind
from sanact.transforms import Transform, TVMinimization


@dataclass(frozen=True, kw_only=True)
class TotalVariationMinimization(Behind):
    """A network that sees images rebuilt from a random part of their pixels; the arguments are those of `TVMinimization`."""

    strength: float = 0.03
    share: float = 0.5
    steps: int = 50
    seed: int = 0

    of: ClassVar[type[Transform]] = TVMinimization
    card: ClassVar[Card] = Card(
        paper="Guo, Rana, Cisse, van der Maaten 2018, arXiv:1711.00117",
        claim="ImageNet: of the networks trained on such images up to about 60 % are right where attackers do not know of it",
        broken="Athalye et al. 2018, arXiv:1802.00420: nothing is left at 0.05 in L2, normalized, on ImageNet, with the "
        "identity as gradient, averaged over draws",
        surrogates="the identity, and its own gradient through the solver; both averaged over draws",
        deviation="solved to within 1 % by another method, with the root of the squared differences; the network is not "
        "trained anew on such images",
    )
