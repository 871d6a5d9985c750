"""Unified gradient regularization: training where the linearized loss is worst."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from torch import nn

from sanact.attacks.projections import Norm
from sanact.defenses.base import Card
from sanact.defenses.trained import Trained
from sanact.objectives import Linearized, Objective
from sanact.values import POSITIVE, OneOf, Rules


@dataclass(frozen=True, kw_only=True)
class UnifiedGradientRegularization(Trained):
    """A network of the same architecture, trained at points one step up the gradient from the images.

        min_θ E J(x, y) + eps ‖∇_x J(x, y)‖_q,   1/p + 1/q = 1

    eps: length of the step, in input units.  norm: p, of the step.  weights: see `Trained`.
    """

    eps: float
    norm: Norm = "L2"

    card: ClassVar[Card] = Card(
        paper="Lyu, Huang, Liang 2015, arXiv:1511.06385",
        claim="of networks without data augmentation the best on MNIST when published, and competitive on CIFAR-10; stabler on "
        "adversarial examples",
        broken="PGD beyond small budgets: the loss is linear nearby only",
        needs="weights that were trained with it: ours, or a file",
        deviation="MNIST-CNN in place of maxout networks, fine-tuned from undefended weights; the card of the weights has the "
        "recipe",
    )
    rules: ClassVar[Rules] = {"eps": POSITIVE, "norm": OneOf(get_args(Norm))}

    def objective(self, network: nn.Module) -> Objective:
        return Linearized(self.eps, self.norm)
