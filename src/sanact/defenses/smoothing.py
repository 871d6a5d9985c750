"""Randomized smoothing: predict the class of most noisy copies of the image, with a certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.data import Data
from sanact.defenses.base import Card, Defense
from sanact.defenses.region_voting import AT_ONCE, Voting
from sanact.values import POSITIVE, SEED, Rules, Whole


@dataclass(frozen=True, kw_only=True)
class Smoothing(Defense):
    """A vote of noisy copies of the image.

        class(x) = argmax_k P( f(x + n) = k ),   n ~ N(0, σ² I)

    sigma: σ > 0, in input units.  draws: copies that vote when judged, ≥ 1; a certificate has its own number.  seed: for the
        noise.
    ``sanact certify --defense smoothing:sigma=…`` makes a certificate with an L2 radius.
    """

    sigma: float = 0.25
    draws: int = 32
    seed: int = 0

    card: ClassVar[Card] = Card(
        paper="Cohen, Rosenfeld, Kolter 2019, arXiv:1902.02918",
        claim="ImageNet: 49 % certified within an L2 distance of 0.5",
        broken="not within its radius, which is proven, but for the small chance it names; beyond the radius it claims nothing",
        surrogates="the mean logits of 16 noisy copies, or their mean probabilities",
        needs="nothing; it keeps accuracy only around a network that was trained under the same noise",
        deviation="before the judge few copies vote, and none abstains: ties go to the larger mean probability. The proof "
        "is as published",
    )
    rules: ClassVar[Rules] = {"sigma": POSITIVE, "draws": Whole(1, 100_000), "seed": SEED}

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        return Smoothed(model, self.sigma, self.draws, self.seed)


class Smoothed(Voting):
    """`Voting` of copies of the image with Gaussian noise.

    network: of the same call.  sigma, draws, seed: see `Smoothing`.
    """

    def __init__(self, network: nn.Module, sigma: float, draws: int, seed: int = 0) -> None:
        super().__init__(network, sigma, draws, seed)
        self.sigma = sigma

    @torch.no_grad()
    def votes(self, x: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """How many noisy copies of one image, (C, H, W), are put into each class, (K,)."""
        counted = torch.zeros(1, dtype=torch.long, device=x.device)
        for start in range(0, draws, AT_ONCE):
            noise = self.offsets(min(AT_ONCE, draws - start), *x.shape, generator=generator)
            logits = self.network(x + noise.to(x))
            counted = counted + F.one_hot(logits.argmax(1), logits.shape[1]).sum(0)
        return counted

    def offsets(self, *shape: int, generator: torch.Generator) -> Tensor:
        return self.sigma * torch.randn(shape, generator=generator)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}, draws={self.draws}, seed={self.seed}"
