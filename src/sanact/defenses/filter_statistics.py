"""Statistics of convolution filters: a cascade of support vector machines on the outputs of convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.attacks import PGD
from sanact.data import Data
from sanact.defenses.base import Card, Defense, Kind
from sanact.defenses.detector import Correcting, Corrector, Refusing
from sanact.defenses.layers import BATCH, LayerDetector, check_both, won_by
from sanact.device import one_thread
from sanact.values import POSITIVE, Rules, Whole, flag

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # the quantiles: shares of the places that lie below
WIDTH = 0.1  # of a channel's standard deviation
KEPT = 0.99  # share of the adversarial images of a stage that go on to the next
FEWEST = 10  # clean images needed to fit another stage
FIRST = 100  # images whose outputs give the principal components
RESOLVED = 1e-5  # of the largest spread of a component: what varies less is rounding

Percentiles = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class FilterStatistics(Defense):
    """A cascade of linear support vector machines, one for each convolution, in order.

        score = min_l ( w_l · s_l(x) + b_l )

    s_l: from the output of convolution l, the minimum, maximum and quartiles of each channel over all places, and the mean
        magnitude of each principal component of clean outputs over all places.
    An image is suspicious if every stage finds it so.  A stage passes on 99 % of its adversarial images, and the next stage is
    fitted to the images passed on.
    eps, steps: of PGD in Linf; the stages learn to tell its examples from clean images.
    correct: False refuses suspicious images.  True classifies them after a 3x3 mean filter.
    Half of the images fit the stages, the other half set the threshold.
    Raises ValueError for a network without convolutions, and if PGD wins nothing.
    """

    eps: float = 0.3
    steps: int = 10
    correct: bool = False

    kind: ClassVar[Kind] = "fitted"
    card: ClassVar[Card] = Card(
        paper="Li and Li 2017, arXiv:1612.07767",
        claim="ImageNet: above 90 % of the examples of L-BFGS are detected, and many classified correctly after the filter; no "
        "attacker knows of it",
        broken="Carlini and Wagner 2017, arXiv:1705.07263, with detector or filter in the loss",
        surrogates="percentiles that depend on all places nearly as high",
        needs="clean training images, for examples of PGD and a threshold",
        deviation="examples of PGD, theirs are of L-BFGS and evolution; linear machines; one threshold that refuses 5 % of "
        "clean images",
    )
    rules: ClassVar[Rules] = {"eps": POSITIVE, "steps": Whole(1, 100_000), "correct": flag}

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        detector = FilterDetector()
        if data is not None:
            known, fresh = data.split_off((len(data) + 1) // 2)
            with one_thread():
                clean, crafted = won_by(model, known, PGD(eps=self.eps, steps=self.steps), detector)
                detector.learn(model, clean, crafted)
                detector.fit(model, fresh)
        return Correcting(model, detector) if self.correct else Refusing(model, detector)


class FilterDetector(LayerDetector, Corrector):
    """stages: one for each of the first convolutions, in the order in which they run."""

    kinds = (nn.Conv2d,)

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()

    @torch.no_grad()
    def learn(self, network: nn.Module, clean: Tensor, crafted: Tensor) -> None:
        """Fit stage after stage to clean and adversarial images, until hardly any clean image is left."""
        check_both(clean, crafted, self)
        for number, output in enumerate(self.outputs_of(network, clean[:FIRST])):
            stage = Stage(output)
            normal, adversarial = (self._statistics(network, x, number, stage) for x in (clean, crafted))
            stage.fit(normal, adversarial)
            self.stages.append(stage)
            clean, crafted = clean[stage.decide(normal) > 0], crafted[stage.decide(adversarial) > 0]
            if len(clean) < FEWEST:
                return

    def _statistics(self, network: nn.Module, x: Tensor, number: int, stage: Stage) -> Tensor:
        return torch.cat(
            [stage.statistics(self.outputs_of(network, part)[number], percentiles) for part in torch.split(x, BATCH)]
        )

    def judge(self, outputs: Sequence[Tensor]) -> Tensor:
        of = partial(self.differentiable, percentiles)
        return torch.stack([stage(output, of) for stage, output in zip(self.stages, outputs, strict=False)]).amin(0)

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Percentiles that depend on all places with nearby values, where the exact ones depend on a single place."""
        return {"spread": spread_percentiles}

    def correct(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return *self.examine(network, x), network(mean_filter(x))


class Stage(nn.Module):
    """Statistics of one convolution's output (N, C, H, W), and a score for its adversarial side, (N,).

    center, components, spread: the P principal components of clean outputs that are more than rounding, (C,), (P, C), (P,).
        Channels of a convolution depend on one another where it has fewer inputs than outputs, and then P < C.
    mean, std, weight, bias: of the standardized statistics.
    """

    center: Tensor
    components: Tensor
    spread: Tensor
    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, output: Tensor) -> None:
        from sklearn.decomposition import PCA

        super().__init__()
        fitted = PCA().fit(output.permute(0, 2, 3, 1).flatten(0, 2).double().cpu().numpy())
        spread = np.sqrt(fitted.explained_variance_)
        real = spread > RESOLVED * spread.max()
        for name, value in {"center": fitted.mean_, "components": fitted.components_[real], "spread": spread[real]}.items():
            self.register_buffer(name, torch.from_numpy(value).to(output))

    def statistics(self, output: Tensor, of: Percentiles) -> Tensor:
        """(N, 5 C + P): percentiles by channel, as ``of`` has them, and mean magnitudes by principal component."""
        centered = output.flatten(2).transpose(1, 2) - self.center  # (N, H W, C)
        magnitudes = (centered @ self.components.T / self.spread).abs().mean(1)
        return torch.cat([of(output), magnitudes], dim=1)

    def fit(self, normal: Tensor, adversarial: Tensor) -> None:
        """Fit a linear machine to statistics, with a threshold that passes on 99 % of the adversarial ones."""
        from sklearn.svm import SVC

        check_both(normal, adversarial, "stage of a cascade")
        statistics = torch.cat([normal, adversarial]).double().cpu()
        mean, std = statistics.mean(0), statistics.std(0, correction=0)
        std = torch.where(std > 1e-9, std, 1.0)
        labels = np.repeat([0, 1], [len(normal), len(adversarial)])
        machine = SVC(kernel="linear", class_weight="balanced").fit(((statistics - mean) / std).numpy(), labels)
        weight, bias = torch.from_numpy(machine.coef_[0].copy()), torch.tensor(machine.intercept_[0])
        for name, value in {"mean": mean, "std": std, "weight": weight, "bias": bias}.items():
            self.register_buffer(name, value.to(normal))
        self.bias -= self.decide(adversarial).quantile(1 - KEPT)

    def decide(self, statistics: Tensor) -> Tensor:
        return (statistics - self.mean) / self.std @ self.weight + self.bias

    def forward(self, output: Tensor, of: Percentiles) -> Tensor:
        return self.decide(self.statistics(output, of))


def percentiles(output: Tensor) -> Tensor:
    """Minimum, quartiles and maximum of each channel, between the two nearest values: (N, C, H, W) → (N, 5 C)."""
    ordered = output.flatten(2).sort(dim=2).values
    last = ordered.shape[2] - 1
    found = []
    for share in SHARES:
        below = int(share * last)
        found.append(torch.lerp(ordered[..., below], ordered[..., min(below + 1, last)], share * last - below))
    return torch.cat(found, dim=1)


def spread_percentiles(output: Tensor) -> Tensor:
    """The mean of the values near each percentile, by a Gaussian of a tenth of the channel's standard deviation."""
    values = output.flatten(2)  # (N, C, H W)
    held = values.detach()
    width = WIDTH * held.std(dim=2, keepdim=True).clamp_min(1e-6)
    found = []
    for percentile in percentiles(output.detach()).chunk(len(SHARES), dim=1):
        weights = (-((held - percentile[..., None]) / width).square()).exp()
        found.append((weights * values).sum(2) / weights.sum(2))
    return torch.cat(found, dim=1)


def mean_filter(x: Tensor) -> Tensor:
    """The mean of 3x3 pixels, images mirrored at their borders without repeating the outermost pixel."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
