"""Region-based classification: predict the class of most random points around the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.data import Data
from sanact.defenses.base import Around, Card, Defense
from sanact.parts import Part
from sanact.values import SEED, Number, Rules, Whole

AT_ONCE = 500  # points per pass
FOLLOWED = 16  # points that an attacker's gradient averages over
LEAST = 1e-12  # smallest share whose logarithm is taken


@dataclass(frozen=True, kw_only=True)
class RegionVoting(Defense):
    """A vote of random points around the image.

        class(x) = argmax_k #{ i : f(x + u_i) = k },   u_i ~ U[-eps, eps]^d,   i = 1 … draws

    eps: half the side of the hypercube, in input units, (0, 1].  It should be the largest without a cost in clean accuracy; the
        paper has 0.3 on MNIST and 0.02 on CIFAR-10.
    draws: points that vote, ≥ 1.  seed: of the points; see `Voting`.
    """

    eps: float = 0.3
    draws: int = 100
    seed: int = 0

    card: ClassVar[Card] = Card(
        paper="Cao, Gong 2017, arXiv:1709.05583",
        claim="MNIST and CIFAR-10: most examples of Carlini and Wagner's attacks fail, unless their perturbations grow; no "
        "attacker knows of it",
        broken="He, Li, Song 2018, Decision boundary analysis of adversarial examples (ICLR): OPTMARGIN, which averages over "
        "points around the example",
        surrogates="the mean logits of 16 points, or their mean probabilities",
        deviation="100 points vote, where the paper has 10,000 on MNIST and 1,000 on CIFAR-10; points are not cut off at 0 and "
        "1; a tie goes to the class of the larger mean probability",
    )
    rules: ClassVar[Rules] = {
        "eps": Number(0, 1, open_least=True, words="be in (0, 1]"),
        "draws": Whole(1, 100_000),
        "seed": SEED,
    }

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        return Voting(model, self.eps, self.draws, self.seed)


class Voting(Around, Part):
    """A network with a vote of random points around the image: x in [0, 1], (N, C, H, W) → (N, K).

        logit_k = log( (votes_k + p_k) / (draws + 1) ),   p: the mean of the points' probabilities, which decides ties

    The points are drawn on the CPU, image by image, so they depend neither on the batch size nor on the device.  See `rewind`.
    Votes have no gradient, so attackers differentiate a mean over points of their own.
    """

    kind = "vote"
    randomized = True
    where = "the image"

    def __init__(self, network: nn.Module, eps: float, draws: int, seed: int = 0) -> None:
        super().__init__(network)
        self.eps, self.draws, self.seed = eps, draws, seed
        self.gradient = self.choices[0]
        self.rewind()

    def rewind(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) if self.bypassed else self.differentiable(self._voted, x)

    @property
    def averaged(self) -> int:  # type: ignore[override]
        return self.draws

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {
            "mean logits": lambda x: self._answers(x, FOLLOWED).mean(1),
            "mean probabilities": lambda x: self._answers(x, FOLLOWED).softmax(2).mean(1),
        }

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self.surrogates)

    @torch.no_grad()
    def _voted(self, x: Tensor) -> Tensor:
        answers = self._answers(x, self.draws)
        votes = F.one_hot(answers.argmax(2), answers.shape[2]).sum(1)
        return ((votes + answers.softmax(2).mean(1)) / (self.draws + 1)).clamp_min(LEAST).log()

    def _answers(self, x: Tensor, count: int) -> Tensor:
        """The logits of this many points around each image, (N, count, K)."""
        offsets = self.offsets(len(x), count, *x.shape[1:], generator=self._generator)
        points = (x[:, None] + offsets.to(x)).flatten(0, 1)  # (N count, C, H, W)
        answers = torch.cat([self.network(some) for some in torch.split(points, AT_ONCE)])
        return answers.reshape(len(x), count, -1)

    def offsets(self, *shape: int, generator: torch.Generator) -> Tensor:
        """The offsets of the points from the image."""
        return self.eps * (2 * torch.rand(shape, generator=generator) - 1)

    def extra_repr(self) -> str:
        return f"eps={self.eps}, draws={self.draws}, seed={self.seed}"
