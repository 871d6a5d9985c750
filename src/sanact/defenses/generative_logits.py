"""Generative classifiers: the class under which a deep generative model finds the image likeliest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.data import Data
from sanact.defenses.base import Card
from sanact.defenses.detector import Detector, Refusing
from sanact.defenses.trained import Trained
from sanact.graph import likely_shape
from sanact.objectives import Objective, Step
from sanact.values import Rules, Whole, flag

LATENT, HIDDEN = 32, 200  # numbers of z; units of every hidden layer


@dataclass(frozen=True, kw_only=True)
class GenerativeLogits(Trained):
    """A generative model of image, class and a latent variable, whose joint likelihoods are the logits.

        logit_y = log p(x, y) ≈ log 1/S Σ_s p(z_s) p(y | z_s) p(x | z_s, y) / q(z_s | x, y),   z_s ~ q(z | x, y)

    draws: S, ≥ 1, samples of z in classification.  weights: see `Trained`.
    detect: also refuse images with a lower p(x) = Σ_y p(x, y) than all but 5 % of clean images.
    """

    draws: int = 10
    detect: bool = False

    card: ClassVar[Card] = Card(
        paper="Li, Bradshaw, Sharma 2019, arXiv:1802.06552",
        claim="MNIST: more robust than discriminative networks, and most examples that fool it are detected",
        broken="Tramèr et al. 2020, arXiv:2002.08347, on features of CIFAR-10 at 8/255: 99.7 % misclassified and 0.4 % "
        "detected, by matching logits",
        needs="weights that were trained with it: ours, or a file; to detect, clean images to set the threshold on",
        deviation="of the seven factorizations the one called GFZ, of two-layer networks; the samples are drawn once and for "
        "all; of the three tests that of the marginal likelihood; ours, trained briefly on 20,000 images, classify 85 % "
        "of clean ones, far less than the paper's",
    )
    rules: ClassVar[Rules] = {"draws": Whole(1, 1000), "detect": flag}

    @property
    def needs_data(self) -> bool:
        return self.detect

    @property
    def trained_with(self) -> dict[str, Any]:
        return {}  # a model classifies with any number of samples

    def architecture(self, network: nn.Module, example: Tensor | None = None) -> nn.Module:
        shape = tuple(example.shape[1:]) if example is not None else likely_shape(network)
        if shape is None:
            raise ValueError(f"the shape of the images cannot be found out: pass example ({self})")
        with torch.no_grad():
            classes = network(torch.zeros(1, *shape)).shape[1]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return DeepBayes(math.prod(shape), classes, self.draws).train(network.training)

    def objective(self, network: nn.Module) -> Objective:
        return Evidence()

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        trained = super().defend(model, data, example)
        if not self.detect:
            return trained
        detector = Improbable()
        if data is not None:
            detector.fit(trained, data)
        return Refusing(trained, detector)


class DeepBayes(nn.Module):
    """p(z) p(y | z) p(x | z, y) with q(z | x, y), two layers each: x (N, C, H, W) → log p(x, y) up to a constant, (N, K).

    p(z) is standard normal; p(x | z, y) is normal around the decoder's output for z and y, with a variance of 1/2.
    The samples come from one draw of ``draws`` normal vectors, the same for every image and class.  In training there is one
    vector, drawn anew, so that the result is the evidence lower bound.
    """

    noise: Tensor

    def __init__(self, pixels: int, classes: int, draws: int) -> None:
        super().__init__()
        self.from_image, self.from_class = nn.Linear(pixels, HIDDEN), nn.Linear(classes, HIDDEN, bias=False)
        self.cause = nn.Linear(HIDDEN, 2 * LATENT)
        self.label = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))
        self.from_cause, self.with_class = nn.Linear(LATENT, HIDDEN), nn.Linear(classes, HIDDEN, bias=False)
        self.image = nn.Linear(HIDDEN, pixels)
        drawn = torch.randn(draws, LATENT, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", drawn, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        classes = torch.eye(self.from_class.in_features).to(x)
        hidden = F.relu(self.from_image(x)[:, None] + self.from_class(classes))  # (N, K, H)
        mean, log_std = self.cause(hidden).chunk(2, 2)  # (N, K, Z)
        noise = torch.randn_like(mean)[:, :, None] if self.training else self.noise
        z = mean[:, :, None] + log_std.exp()[:, :, None] * noise  # (N, K, S, Z)
        prior_over_posterior = (noise.square() - z.square()).sum(3) / 2 + log_std.sum(2)[:, :, None]  # (N, K, S)
        label = self.label(z).log_softmax(3).diagonal(dim1=1, dim2=3).transpose(1, 2)  # (N, K, S)
        drawn = self.image(F.relu(self.from_cause(z) + self.with_class(classes)[:, None])).sigmoid()  # (N, K, S, P)
        image = -(x[:, None, None] - drawn).square().sum(3)
        logits: Tensor = (prior_over_posterior + label + image).logsumexp(2) - math.log(z.shape[2])
        return logits


class Improbable(Detector):
    """Refuses images of a low p(x): the score is -log Σ_y p(x, y)."""

    def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        return -logits.logsumexp(1)


@dataclass(frozen=True)
class Evidence(Objective):
    """Maximizes the evidence lower bound of image and class, as a mean over pixels."""

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        logits = step.forward(step.x)
        return -logits.gather(1, step.y[:, None]).mean() / step.x[0].numel(), logits

    @property
    def identity(self) -> Any:
        return "evidence"

    @property
    def note(self) -> str:
        return "images, by the evidence lower bound of image and class"
