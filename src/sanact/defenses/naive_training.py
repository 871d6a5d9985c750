"""Naive adversarial training: half of each batch are one-step examples crafted on the network itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sanact.attacks import FGSM
from sanact.defenses.base import Card
from sanact.defenses.trained import Trained
from sanact.objectives import Mixed, Objective
from sanact.values import POSITIVE, Rules, flag


@dataclass(frozen=True, kw_only=True)
class NaiveAdversarialTraining(Trained):
    """A network of the same architecture, trained on images and on one-step examples; see `Mixed`.

    eps: the largest budget of these examples, in input units; each draws its own.
    weight: of an example, where an image has 1.
    targeted: step towards the least likely class, not away from the label, because a network can learn to read the label from
        the step.
    weights: see `Trained`.
    """

    eps: float
    weight: float = 0.3
    targeted: bool = True

    card: ClassVar[Card] = Card(
        paper="Kurakin, Goodfellow, Bengio 2017, arXiv:1611.01236",
        claim="on ImageNet, robust to one-step attacks; not to iterative ones, by their own account",
        broken="Tramèr et al. 2018, arXiv:1705.07204: it learns to hide its gradient; one step from a random point, or made on "
        "another network, gets through, and so does PGD",
        needs="weights that were trained with it: ours, or a file",
        deviation="MNIST-CNN in place of Inception v3, fine-tuned from undefended weights; the card of the weights has the "
        "recipe",
    )
    rules: ClassVar[Rules] = {"eps": POSITIVE, "weight": POSITIVE, "targeted": flag}

    def objective(self, network: nn.Module) -> Objective:
        return Mixed(FGSM(eps=self.eps, targeted=self.targeted), weight=self.weight, varied=True)
