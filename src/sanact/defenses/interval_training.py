"""Interval bound propagation: a network trained so that its robustness can be proven cheaply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sanact.defenses.base import Card
from sanact.defenses.trained import Trained
from sanact.objectives import Boxed, Objective
from sanact.values import Number, Rules


@dataclass(frozen=True, kw_only=True)
class IntervalTraining(Trained):
    """A network of the same architecture, trained on the worst logits that interval bounds allow.

        min_θ E  κ J(z, y) + (1 - κ) J(ẑ, y)      ẑ: see `sanact.objectives.Boxed`

    eps: half the side of the box, in input units, (0, 1].  weights: see `Trained`.
    ``sanact certify`` computes what is proven.
    """

    eps: float = 0.1

    card: ClassVar[Card] = Card(
        paper="Gowal, Dvijotham, Stanforth, Bunel, Qin, Uesato, Arandjelovic, Mann, Kohli 2018, arXiv:1810.12715",
        claim="MNIST at 0.1: 97.77 certified, at 0.3: 91.95",
        broken="not, as far as it is certified: that is a proof, but for rounding",
        needs="weights that were trained with it: ours, or a file",
        deviation="a small network, fewer epochs, SGD, a schedule in shares of the steps; the weights' card has the recipe",
    )
    rules: ClassVar[Rules] = {"eps": Number(0, 1, open_least=True, words="be in (0, 1]")}

    def objective(self, network: nn.Module) -> Objective:
        return Boxed(self.eps)
