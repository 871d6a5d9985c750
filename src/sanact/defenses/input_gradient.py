"""Input gradient regularization: a loss that hardly changes with the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sanact.defenses.base import Card
from sanact.defenses.trained import Trained
from sanact.objectives import GradientPenalty, Objective
from sanact.values import POSITIVE, Rules


@dataclass(frozen=True, kw_only=True)
class InputGradientRegularization(Trained):
    """A network of the same architecture, trained with a penalty on the gradient of its loss at the image.

        min_θ E J(x, y) + strength/2 ‖∇_x J(x, y)‖²₂

    weights: see `Trained`.
    """

    strength: float

    card: ClassVar[Card] = Card(
        paper="Ross, Doshi-Velez 2018, arXiv:1711.09404",
        claim="on MNIST, notMNIST and SVHN, more robust to FGSM and its iterated form than defensive distillation",
        broken="PGD with more steps and at usual budgets; a small gain stays",
        needs="weights that were trained with it: ours, or a file",
        deviation="MNIST-CNN and SGD in place of their network and Adam; the card of the weights has the recipe",
    )
    rules: ClassVar[Rules] = {"strength": POSITIVE}

    def objective(self, network: nn.Module) -> Objective:
        return GradientPenalty(self.strength)
