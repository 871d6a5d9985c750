"""Random resizing and padding: classify each image at a smaller random size and a random place in its frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sanact.defenses.base import Card
from sanact.defenses.transforming import Behind
from sanact.transforms import RandomResizePad, Transform


@dataclass(frozen=True, kw_only=True)
class RandomResizingPadding(Behind):
    """A network that sees each image at a random size and place; share and seed as for `RandomResizePad`."""

    share: float = 0.9
    seed: int = 0

    of: ClassVar[type[Transform]] = RandomResizePad
    card: ClassVar[Card] = Card(
        paper="Xie, Wang, Zhang, Ren, Yuille 2018, arXiv:1711.01991",
        claim="second of the NIPS 2017 defenses with an adversarially trained ensemble; examples of ImageNet networks that are "
        "crafted without it or on single patterns of it mostly fail",
        broken="Athalye et al. 2018, arXiv:1802.00420: nothing is left at 0.031 on ImageNet, by gradients averaged over draws",
        surrogates="none, its own gradient serves, averaged over draws",
        deviation="shrinks within a frame of the old size, where the paper grows 299 pixels to 331; of 28 pixels there are 13 "
        "patterns, of 32 there are 29, of its 331 there were 12,528",
    )
