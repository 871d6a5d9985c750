"""PixelDefend: classify an image purified by a density model of clean images, or refuse images that it finds too unlikely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sanact.data import Data
from sanact.defenses.base import Card, Defense, Kind, hash_of
from sanact.defenses.detector import Detector, Refusing
from sanact.defenses.transforming import Transformed
from sanact.density import WEIGHTS, load_density
from sanact.device import device_of
from sanact.transforms import Purification
from sanact.transforms.pixel_defend import EPS
from sanact.values import Rules, flag


@dataclass(frozen=True, kw_only=True)
class PixelDefend(Defense):
    """Purify the image by a density model, or refuse it.

    eps: how far a value may move, in input units; the paper takes 16/255 on CIFAR-10.
    density: the model, "mnist" or "cifar10", or a file; see `Purification`.
    detect: False classifies the purified image.  True leaves images unchanged, and refuses those less likely than all but
        5 % of clean images, which is the paper's test by p-values.
    """

    eps: float = 0.3
    density: str = "mnist"
    detect: bool = False

    card: ClassVar[Card] = Card(
        paper="Song, Kim, Nowozin, Ermon, Kushman 2018, arXiv:1710.10766",
        claim="CIFAR-10: the accuracy under the strongest of their attacks rises from 32 to 70 %; no attacker knows of it",
        claimed={"cifar10": 70.0},
        broken="Athalye et al. 2018, arXiv:1802.00420: 9 % are left at 0.031 in Linf, with the identity as gradient",
        surrogates="the identity, or the mean of the values within reach, weighted by their likelihood",
        needs="a density model: ours of MNIST or CIFAR-10, or one by python -m sanact.density.train; to detect, clean images",
        deviation="a smaller density model with a bounded receptive field; its card has the bits per dimension",
    )
    rules: ClassVar[Rules] = {"eps": EPS, "detect": flag}

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """attached, to purify; fitted, to detect."""
        return "fitted" if self.detect else "attached"

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        device = device_of(model)
        if not self.detect:
            return Transformed(Purification(self.eps, self.density).to(device), model)
        detector = LikelihoodDetector(self.density).to(device)
        if data is not None:
            detector.fit(model, data)
        return Refusing(model, detector)

    @property
    def files(self) -> str:
        return hash_of(self.density, WEIGHTS)


class LikelihoodDetector(Detector):
    """Refuses images that the density model finds unlikely.

    The score is -log p(x) in bits per value.  It orders images like p-values, which are ranks among clean images.
    """

    def __init__(self, density: str) -> None:
        super().__init__()
        self.density = density
        self.model = load_density(density).requires_grad_(False)

    def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        return self.model.bits_per_dimension(x, rounded=False)
