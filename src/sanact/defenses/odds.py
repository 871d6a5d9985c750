"""The odds are odd: refuse, or classify differently, images whose logits react to noise unlike those of clean images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sanact.data import Data
from sanact.defenses.base import Card, Defense, Kind
from sanact.defenses.detector import Correcting, Corrector, Refusing
from sanact.device import device_of, one_thread
from sanact.values import POSITIVE, SEED, Rules, Whole, flag


@dataclass(frozen=True, kw_only=True)
class OddsAreOdd(Defense):
    """A statistical test of how Gaussian noise η moves the logits z, where y = argmax z(x).

        g_k(x, η) = (z_k - z_y)(x + η) - (z_k - z_y)(x)        score = max_{k≠y} E_η[ g_k(x, η) - μ_yk ] / σ_yk

    μ, σ: mean and standard deviation of g over noise and clean images of class y.
    noise: standard deviation of η, in input units.  draws: of η, to take the expectation over.  seed: for these draws.
    correct: False refuses images whose score is above a threshold.  True classifies these as the k with the largest statistic.
    Raises ValueError if the network puts no clean image into one of its classes, because μ and σ would be missing.
    """

    noise: float = 0.06
    draws: int = 8
    seed: int = 0
    correct: bool = False

    kind: ClassVar[Kind] = "fitted"
    card: ClassVar[Card] = Card(
        paper="Roth, Kilcher, Hofmann 2019, arXiv:1902.04818",
        claim="CIFAR-10: detects 99 % of the examples of PGD at 1 % false alarms, and corrects most of them",
        claimed={"cifar10": 99.0},
        broken="Hosseini, Kannan, Poovendran 2019, arXiv:1907.12138; Tramèr et al. 2020, arXiv:2002.08347, by matching the "
        "logits of an image of another class, averaged over draws: nothing is left at 8/255",
        needs="clean training images of every class",
        deviation="8 draws of noise of one size, theirs 256 of several; one threshold for all pairs of classes, theirs one "
        "a pair",
    )
    rules: ClassVar[Rules] = {"noise": POSITIVE, "draws": Whole(1, 10_000), "seed": SEED, "correct": flag}

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        detector = OddsDetector(self.noise, self.draws, self.seed)
        if data is not None:
            with one_thread():
                detector.learn(model, data)
                detector.fit(model, data)
            detector.rewind()
        return Correcting(model, detector) if self.correct else Refusing(model, detector)


class OddsDetector(Corrector):
    """Draws its noise example by example, so that it does not depend on the batch size.

    mean, std: μ and σ, (K, K), by predicted class and rival; 0 and 1 where they are the same.
    """

    mean: Tensor
    std: Tensor
    randomized = True

    def __init__(self, noise: float, draws: int, seed: int = 0) -> None:
        super().__init__()
        self.noise, self.draws, self.seed = noise, draws, seed
        self.rewind()

    def rewind(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)

    @property
    def averaged(self) -> int:  # type: ignore[override]
        return self.draws

    @torch.no_grad()
    def learn(self, network: nn.Module, data: Data, batch_size: int = 100) -> None:
        """Measure μ and σ on clean images."""
        device = device_of(network)
        moved, predicted = [], []
        for batch in data.batches(batch_size):
            x = batch.x.to(device)
            logits = network(x)
            moved.append(self.moved(network, x, logits).double())
            predicted.append(logits.argmax(1))
        g, y = torch.cat(moved), torch.cat(predicted)  # (N, draws, K), (N,)
        classes = g.shape[2]
        if missing := [k for k in range(classes) if not (y == k).any()]:
            raise ValueError(
                f"it needs images of each of the {classes} classes, got {len(y)} of which none is put into class {missing[0]} "
                f"({self})"
            )
        own = [g[y == k].flatten(0, 1) for k in range(classes)]  # (images · draws, K) each
        std = torch.stack([part.std(0, correction=0) for part in own]).fill_diagonal_(1)
        if not bool((std > 0).all()):
            raise ValueError(f"noise of {self.noise} moves no logit: the network takes it away, or it is too small ({self})")
        self.register_buffer("mean", torch.stack([part.mean(0) for part in own]).to(logits))
        self.register_buffer("std", std.to(logits))

    def moved(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        """g for each draw, (N, draws, K)."""
        noise = [torch.randn(self.draws, *x.shape[1:], generator=self._generator) for _ in x]
        noisy = x[:, None] + self.noise * torch.stack(noise).to(x)  # (N, draws, C, H, W)
        lead = network(noisy.flatten(0, 1)).reshape(len(x), self.draws, -1)
        y = logits.argmax(1)[:, None]
        moved: Tensor = lead - lead.gather(2, y[:, None].expand(-1, self.draws, 1)) - (logits - logits.gather(1, y))[:, None]
        return moved

    def statistics(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        """The standardized statistic of each rival, (N, K), and -inf for the predicted class itself."""
        y = logits.argmax(1)
        found = (self.moved(network, x, logits).mean(1) - self.mean[y]) / self.std[y]
        return found.scatter(1, y[:, None], -torch.inf)

    def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        return self.statistics(network, x, logits).amax(1)

    def correct(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The corrected logits say how far each statistic is above the threshold; the predicted class has 0."""
        logits = network(x)
        found = self.statistics(network, x, logits)
        corrected = self.scale * (found - self.threshold)
        return logits, found.amax(1), corrected.masked_fill(found.isneginf(), 0)
