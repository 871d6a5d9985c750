"""Sparse Fourier: classify only the few waves that an image is made of, which drops changes of a few pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sanact.defenses.base import Card
from sanact.defenses.transforming import Behind
from sanact.transforms import SparseFourier, Transform


@dataclass(frozen=True, kw_only=True)
class SparseFourierTransform(Behind):
    """A network that sees the waves that iterative hard thresholding keeps; the arguments are those of `SparseFourier`."""

    share: float = 0.1
    corrupted: float = 0.04
    steps: int = 10

    of: ClassVar[type[Transform]] = SparseFourier
    card: ClassVar[Card] = Card(
        paper="Bafna, Murtagh, Vyas 2018, arXiv:1812.05013",
        claim="MNIST and Fashion-MNIST: withstands changes of a few pixels, by JSMA and C&W in L0, whose attackers do not know "
        "of it; nothing is claimed for Linf and L2",
        broken="Tramèr et al. 2020, arXiv:2002.08347: in L0 no better than an undefended network",
        surrogates="the identity, or its own gradient with what is kept held",
        deviation="the network is not trained anew on such images, and more waves are kept for that",
    )
