"""Defensive distillation: a student trained on a teacher's soft labels, both at a high temperature."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from sanact.defenses.base import Card
from sanact.defenses.trained import Trained
from sanact.models import load_weights, read_card
from sanact.objectives import Objective, Tempered
from sanact.preserve import copied
from sanact.values import POSITIVE, Rules


@dataclass(frozen=True, kw_only=True)
class DefensiveDistillation(Trained):
    """A network of the same architecture, trained on the predictions of a teacher; see `Tempered`.

    temperature: T of both in training.  Afterwards it is 1, so logits are about T times as large, and softmax saturates.
    teacher: the file of its weights, needed only for training.  Training without one makes the teacher.
    weights: see `Trained`; those of a teacher are refused.
    """

    temperature: float = 100.0
    teacher: str = ""

    card: ClassVar[Card] = Card(
        paper="Papernot, McDaniel, Wu, Jha, Swami 2016, arXiv:1511.04508",
        claim="success of the Jacobian saliency map attack falls from 95.9 to 0.45 % on MNIST, from 87.9 to 5.1 % on CIFAR-10",
        claimed={"mnist": 99.55, "cifar10": 94.9},
        broken="Carlini, Wagner 2017, arXiv:1608.04644: all images, with a loss of logits, which does not vanish where softmax "
        "saturates",
        needs="weights that were trained with it: ours, or a file; for training, those of a teacher",
        deviation="both networks fine-tuned from undefended weights; the card of the weights has the recipe",
    )
    rules: ClassVar[Rules] = {"temperature": POSITIVE}

    def objective(self, network: nn.Module) -> Objective:
        return Tempered(self.temperature, self._taught_by(network) if self.teacher else None)

    def _taught_by(self, network: nn.Module) -> nn.Module:
        path = Path(self.teacher)
        claimed = json.loads(read_card(path).get("defense", "{}"))
        if path.is_file() and (claimed.get("name"), claimed.get("temperature")) != (self.name, self.temperature):
            raise ValueError(
                f"the teacher must have been trained with --defense {self.name}:temperature={self.temperature:.4g}, got "
                f"'{path}' ({self})"
            )
        teacher = copied(network).eval()
        load_weights(teacher, path)
        return teacher

    @property
    def trained_with(self) -> dict[str, Any]:
        return {"temperature": self.temperature}  # whoever the teacher was

    def _differs(self, path: Path) -> str:
        found = super()._differs(path)
        return found or ("" if json.loads(read_card(path)["defense"]).get("teacher") else "as a teacher, on labels")
