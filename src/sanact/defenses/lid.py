"""Local intrinsic dimensionality: refuse images whose activations have a high one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sanact.attacks import PGD
from sanact.data import Data
from sanact.defenses.base import Card, Defense, Kind
from sanact.defenses.detector import Refusing
from sanact.defenses.layers import LayerDetector, check_both, won_by
from sanact.device import one_thread
from sanact.values import POSITIVE, Rules, Whole


@dataclass(frozen=True, kw_only=True)
class LocalIntrinsicDimensionality(Defense):
    """A detector by logistic regression on the local intrinsic dimensionality (LID) at each layer.

        LID_l(x) = -( 1/k Σ_i log( r_i / r_k ) )⁻¹       refused where  w · LID(x) + b  is above a threshold

    r_1 ≤ … ≤ r_k: distances of the layer's output for x to its nearest neighbours among those of clean images.
    neighbours: k, 2 to ``reference``.  reference: number of these clean images; they are the same for every image.
    eps, steps: of PGD in Linf; the regression tells its examples from clean images, with and without equally large noise.
    Half of the images outside the reference fit the regression, and the other half set the threshold.
    Raises ValueError for more neighbours than reference, too few images, and if PGD wins nothing.
    """

    neighbours: int = 20
    reference: int = 100
    eps: float = 0.3
    steps: int = 10

    kind: ClassVar[Kind] = "fitted"
    card: ClassVar[Card] = Card(
        paper="Ma, Li, Wang, Erfani, Wijewickrema, Schoenebeck, Song, Houle, Bailey 2018, arXiv:1801.02613",
        claim="AUROC above 95 % on MNIST, CIFAR-10 and SVHN, of attackers who do not know of it",
        broken="Athalye et al. 2018, arXiv:1802.00420, by examples of high confidence; 5 % are left at 0.031 on CIFAR-10",
        needs="clean training images: neighbours, examples of PGD, and a threshold",
        deviation="the neighbours come from one fixed batch, theirs from the batch that an image is in; outputs of "
        "convolutions and linear layers only; features are standardized; one attack fits the regression for all",
    )
    rules: ClassVar[Rules] = {
        "neighbours": Whole(2, 10_000),
        "reference": Whole(2, 10_000),
        "eps": POSITIVE,
        "steps": Whole(1, 100_000),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours > self.reference:
            raise ValueError(
                f"neighbours must be at most reference, the images that they are among, {self.reference}, "
                f"got {self.neighbours} ({self})"
            )

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        detector = LIDDetector(self.neighbours)
        if data is not None:
            if len(data) < 2 * self.reference:
                raise ValueError(f"it needs twice as many images as reference, {self.reference}, got {len(data)} ({self})")
            among, others = data.split_off(self.reference)
            known, fresh = others.split_off(len(others) // 2)
            with one_thread():
                detector.learn(model, among, known, PGD(eps=self.eps, steps=self.steps))
                detector.fit(model, fresh)
        return Refusing(model, detector)


class LIDDetector(LayerDetector):
    """The score is the decision function of the regression: log odds of being adversarial.

    reference_0, …: outputs of the layers for the reference, (B, F) each.  mean, std, weight: of the features, (layers,).
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, neighbours: int) -> None:
        super().__init__()
        self.neighbours, self.layers = neighbours, 0

    @torch.no_grad()
    def learn(self, network: nn.Module, among: Data, data: Data, attack: PGD) -> None:
        """Keep the outputs for the images ``among``, and fit the regression to the data and its examples.

        The features come from clean and noisy images, which both count as normal, and from adversarial ones.
        """
        clean, crafted = won_by(network, data, attack, self)
        for number, output in enumerate(self.outputs_of(network, next(among.batches(len(among))).x.to(clean))):
            self.register_buffer(f"reference_{number}", output.flatten(1))
            self.layers = number + 1
        length = (crafted - clean).flatten(1).norm(dim=1)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
        noise *= (length / noise.flatten(1).norm(dim=1)).reshape(-1, *[1] * (clean.ndim - 1))
        normal = torch.cat([clean, (clean + noise).clamp(0, 1)])
        features = [self.dimensions(self.outputs_of(network, x)) for x in (normal, crafted)]
        self.regress(*features)

    def regress(self, normal: Tensor, adversarial: Tensor) -> None:
        """Fit the regression to features, (N, layers) and (M, layers).  Raises ValueError where either is empty."""
        from sklearn.linear_model import LogisticRegression

        check_both(normal, adversarial, self)
        features = torch.cat([normal, adversarial]).double().cpu()
        mean, std = features.mean(0), features.std(0, correction=0).clamp_min(1e-12)
        labels = np.repeat([0, 1], [len(normal), len(adversarial)])
        fitted = LogisticRegression(class_weight="balanced").fit(((features - mean) / std).numpy(), labels)
        for name, value in {"mean": mean, "std": std, "weight": fitted.coef_[0], "bias": fitted.intercept_[0]}.items():
            self.register_buffer(name, torch.as_tensor(value).to(normal))

    def dimensions(self, outputs: Sequence[Tensor]) -> Tensor:
        """LID at each layer, (N, layers)."""
        references = [self.get_buffer(f"reference_{number}") for number in range(self.layers)]
        return torch.stack(
            [lid(a.flatten(1), among, self.neighbours) for a, among in zip(outputs, references, strict=True)], dim=1
        )

    def judge(self, outputs: Sequence[Tensor]) -> Tensor:
        return ((self.dimensions(outputs) - self.mean) / self.std) @ self.weight + self.bias


def lid(a: Tensor, among: Tensor, neighbours: int) -> Tensor:
    """The maximum likelihood estimate of local intrinsic dimensionality, from one matrix of distances.

        LID = -( 1/k Σ_i log( r_i / r_k ) )⁻¹

    a: (N, F).  among: (B, F), of which the k nearest count.  Returns (N,).
    Distances too small for the dtype to resolve, relative to the norms of their ends, count as the smallest resolved one.
    Raises ValueError for k above B.
    Paper: Amsaleg et al. 2015, doi:10.1145/2783258.2783405.
    """
    if neighbours > len(among):
        raise ValueError(f"neighbours must be at most the {len(among)} points that they are among, got {neighbours} (lid)")
    lengths = a.square().sum(1)[:, None] + among.square().sum(1)  # (N, B)
    least = (torch.finfo(a.dtype).eps * lengths).detach().clamp_min(torch.finfo(a.dtype).tiny)
    squares = (lengths - 2 * a @ among.T).maximum(least)
    nearest = squares.topk(neighbours, dim=1, largest=False, sorted=True).values  # (N, k)
    mean = (nearest / nearest[:, -1:]).log().mean(1) / 2
    return -1 / mean.clamp_max(-1e-6)
