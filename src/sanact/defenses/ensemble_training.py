"""Ensemble adversarial training: one-step examples crafted on fixed networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from sanact.attacks import FGSM
from sanact.defenses.base import Card
from sanact.defenses.trained import Trained
from sanact.models import load_model
from sanact.objectives import Mixed, Objective
from sanact.values import POSITIVE, Rules


@dataclass(frozen=True, kw_only=True)
class EnsembleAdversarialTraining(Trained):
    """A network of the same architecture, trained on images and on FGSM examples of other networks or its own; see `Mixed`.

    eps: of the examples, in input units.
    sources: other networks for the same data, joined by plus signs: MODEL for our weights, or MODEL@FILE, as in
        "mnist-cnn+my/net.py:net@net.safetensors"; needed only for training.
    weights: see `Trained`.
    """

    eps: float
    sources: str = ""

    card: ClassVar[Card] = Card(
        paper="Tramèr, Kurakin, Papernot, Goodfellow, Boneh, McDaniel 2018, arXiv:1705.07204",
        claim="robust to examples that transfer from other networks; not to PGD on the network itself",
        broken="not in the threat model of its authors; PGD on the network itself breaks it",
        needs="weights that were trained with it: ours, or a file; for training, other networks of the same data",
        deviation="sources of the same architecture, and fine-tuning from undefended weights; half of a batch are examples, "
        "where theirs has each image and its example; the card of the weights has the recipe",
    )
    rules: ClassVar[Rules] = {"eps": POSITIVE}

    def objective(self, network: nn.Module) -> Objective:
        names = [name.strip() for name in self.sources.split("+") if name.strip()]
        if not names:
            raise ValueError(f"its examples are made on other networks: give sources=MODEL@FILE+…, got none ({self})")
        return Mixed(FGSM(eps=self.eps), sources={name: _source(name) for name in names})

    @property
    def trained_with(self) -> dict[str, Any]:
        return {"eps": self.eps}  # whatever the sources were


def _source(name: str) -> nn.Module:
    model, _, weights = name.partition("@")
    return load_model(model, weights=weights or None)
