"""Crop ensembles: classify an image by the mean prediction on random crops of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sanact.defenses.base import Card
from sanact.defenses.transforming import Behind, Transformed
from sanact.transforms import CropRescale, Transform
from sanact.values import Rules, Whole


class CropAverage(Transformed):
    """A network that sees several crops of each image: x in [0, 1] → the logarithm of its mean probabilities."""

    def __init__(self, transform: Transform, network: nn.Module, draws: int) -> None:
        super().__init__(transform, network)
        self.draws = transform.averaged = draws

    def forward(self, x: Tensor) -> Tensor:
        if self.transform.bypassed:
            return super().forward(x)
        logits = super().forward(x.repeat_interleave(self.draws, 0)).log_softmax(1)
        return logits.reshape(len(x), self.draws, logits.shape[1]).logsumexp(1) - math.log(self.draws)


@dataclass(frozen=True, kw_only=True)
class CropEnsemble(Behind):
    """The mean of the probabilities that a network gives to random crops, as logits.

        z = log( 1/n Σ_i softmax f(crop_i(x)) )

    draws: n, 1 to 1,000; an attacker's gradient is already a mean over them.  share, seed: as for `CropRescale`.
    """

    draws: int = 10
    share: float = 0.9
    seed: int = 0

    of: ClassVar[type[Transform]] = CropRescale
    card: ClassVar[Card] = Card(
        paper="Guo, Rana, Cisse, van der Maaten 2018, arXiv:1711.00117; Graese, Rozsa, Boult 2016, arXiv:1610.04256",
        claim="ImageNet: of networks trained on crops up to about 60 % are right where attackers do not know of it",
        broken="Athalye et al. 2018, arXiv:1802.00420: nothing is left at 0.05 in L2, normalized, on ImageNet, by gradients "
        "averaged over draws",
        surrogates="none, its own gradient serves, averaged over draws",
        deviation="10 crops of 0.9 of a side in place of 30 of 0.4, for the network is not trained anew on crops",
    )
    rules: ClassVar[Rules] = {"draws": Whole(1, 1000)}

    def around(self, model: nn.Module, transform: Transform) -> nn.Module:
        return CropAverage(transform, model, self.draws)
