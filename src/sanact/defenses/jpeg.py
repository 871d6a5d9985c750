"""JPEG compression: classify each image after lossy compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sanact.defenses.base import Card
from sanact.defenses.transforming import Behind
from sanact.transforms import JPEG, Transform


@dataclass(frozen=True, kw_only=True)
class JPEGCompression(Behind):
    """A network that sees images after JPEG; quality as for `JPEG`."""

    quality: int = 75

    of: ClassVar[type[Transform]] = JPEG
    card: ClassVar[Card] = Card(
        paper="Dziugaite, Ghahramani, Roy 2016, arXiv:1608.00853; Guo, Rana, Cisse, van der Maaten 2018, arXiv:1711.00117",
        claim="ImageNet, unaware attackers: undoes small perturbations, less so than total variation and quilting",
        broken="Athalye et al. 2018, arXiv:1802.00420: nothing is left at 0.05 in L2, normalized, on ImageNet, with the "
        "identity as gradient; Shin and Song 2017, with a rounding that is soft",
        surrogates="the identity, or JPEG with a rounding that is soft",
        deviation="the network is not trained anew on compressed images",
    )
