"""Feature squeezing: classify images with fewer colours or less detail, or refuse images that this changes much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sanact.data import Data
from sanact.defenses.base import Card, Defense, Kind
from sanact.defenses.detector import Detector, Refusing
from sanact.defenses.transforming import Transformed
from sanact.transforms import BitDepth, MedianSmoothing, NLMeansSmoothing, Transform
from sanact.transforms.bit_depth import BITS
from sanact.transforms.smoothing import ODD, SIZE
from sanact.values import POSITIVE, Maybe, Rules, flag


@dataclass(frozen=True, kw_only=True)
class FeatureSqueezing(Defense):
    """Bit depth, a median filter, and non-local means on the image: those that are given.

    bits: per value, 1 to 8.  median: side of the window, ≥ 2.  h, window_size, patch_size: of non-local means, as in
        `NLMeansSmoothing`.  If bits, median or h is None, that squeezer is left out.
    detect: False applies all squeezers in turn and classifies the result.  True applies each squeezer alone, and refuses images
        whose score is higher than for all but 5 % of clean images:

        score = max_s ‖ softmax z(x) - softmax z(s(x)) ‖_1

    Raises ValueError if no squeezer is given.
    """

    bits: int | None = None
    median: int | None = None
    h: float | None = None
    window_size: int = 13
    patch_size: int = 3
    detect: bool = False

    card: ClassVar[Card] = Card(
        paper="Xu, Evans, Qi 2018, arXiv:1704.01155",
        claim="detects, at 5 % false alarms, 98.2 % on MNIST (1 bit, median 2x2) and 84.5 % on CIFAR-10 (5 bits, median 2x2, "
        "non-local means 13-3-2) of the examples of attackers who do not know of it",
        claimed={"mnist": 98.2, "cifar10": 84.5},
        broken="He et al. 2017, arXiv:1706.04701, with the score in the loss; Athalye et al. 2018, arXiv:1802.00420, with the "
        "identity as gradient",
        surrogates="the identity or soft steps for the bits, the mean for the median, held weights or a mean for non-local "
        "means; for the score the divergence of the answers, which does not saturate",
        needs="to detect, clean images to set the threshold on",
        deviation="non-local means compares colours in RGB, theirs in Lab",
    )
    rules: ClassVar[Rules] = {
        "bits": Maybe(BITS),
        "median": Maybe(SIZE),
        "h": Maybe(POSITIVE),
        "window_size": ODD,
        "patch_size": ODD,
        "detect": flag,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.squeezers():
            raise ValueError(f"at least one of bits, median and h must be given, got none ({self})")

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """attached, to classify; fitted, to detect."""
        return "fitted" if self.detect else "attached"

    def squeezers(self) -> list[Transform]:
        """The squeezers in the order in which images pass them."""
        chosen: list[Transform] = [BitDepth(self.bits)] if self.bits is not None else []
        chosen += [MedianSmoothing(self.median)] if self.median is not None else []
        return chosen + ([NLMeansSmoothing(self.window_size, self.patch_size, self.h)] if self.h is not None else [])

    @property
    def config(self) -> dict[str, Any]:
        idle = {"window_size", "patch_size"} if self.h is None else set()
        return {key: value for key, value in super().config.items() if key not in idle}

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        if not self.detect:
            for squeezer in reversed(self.squeezers()):
                model = Transformed(squeezer, model)
            return model
        detector = SqueezingDetector(self.squeezers())
        if data is not None:
            detector.fit(model, data)
        return Refusing(model, detector)


class SqueezingDetector(Detector):
    """The largest change of the probabilities by any squeezer."""

    def __init__(self, squeezers: Sequence[Transform]) -> None:
        super().__init__()
        self.squeezers = nn.ModuleList(squeezers)
        for squeezer in squeezers:
            squeezer.where = "the image, to detect"

    def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        pairs = [torch.stack([logits, network(squeezer(x))]) for squeezer in self.squeezers]
        return torch.stack([self.differentiable(change, pair) for pair in pairs]).amax(0)

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The divergence of the two answers: their probabilities saturate where each is sure of another class."""
        return {"divergence": divergence}

    @property
    def config(self) -> dict[str, object]:
        return {"name": self.name, "squeezers": [str(squeezer) for squeezer in self.squeezers]}


def change(pair: Tensor) -> Tensor:
    """The L1 distance of the probabilities of two answers: logits (2, N, K) → (N,)."""
    return pair.softmax(2).diff(dim=0)[0].abs().sum(1)


def divergence(pair: Tensor) -> Tensor:
    """Jeffreys' divergence Σ (p - q) (log p - log q), which has a gradient wherever the two differ: (2, N, K) → (N,)."""
    return (pair.softmax(2).diff(dim=0) * pair.log_softmax(2).diff(dim=0))[0].sum(1)
