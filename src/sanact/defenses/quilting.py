"""Image quilting: classify images rebuilt from patches of clean images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sanact.defenses.base import Card, Kind
from sanact.defenses.transforming import Behind
from sanact.transforms import Quilting, Transform


@dataclass(frozen=True, kw_only=True)
class ImageQuilting(Behind):
    """A network that sees quilts of clean patches in place of images; the arguments are those of `Quilting`."""

    patch_size: int = 5
    overlap: int = 2
    neighbours: int = 10
    patches: int = 10_000
    seed: int = 0

    kind: ClassVar[Kind] = "fitted"
    of: ClassVar[type[Transform]] = Quilting
    card: ClassVar[Card] = Card(
        paper="Guo, Rana, Cisse, van der Maaten 2018, arXiv:1711.00117",
        claim="ImageNet: of the networks trained on quilts up to about 60 % are right where attackers do not know of it",
        broken="Athalye et al. 2018, arXiv:1802.00420: nothing is left at 0.05 in L2, normalized, on ImageNet, with the "
        "identity as gradient, averaged over draws",
        surrogates="the identity, or the mean of many near patches, weighted by their distances; both averaged over draws",
        needs="clean images to take patches from",
        deviation="a bank of 10,000 patches in place of a million; the network is not trained anew on quilts",
    )
