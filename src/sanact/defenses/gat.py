"""GAT: one detector per class, trained against adversarial examples of all other classes, to refuse or to classify."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.attacks import PGD
from sanact.data import Data
from sanact.defenses.base import Card, Kind
from sanact.defenses.detector import Detector, Refusing
from sanact.defenses.trained import Trained
from sanact.objectives import Objective, Step
from sanact.preserve import copied
from sanact.values import POSITIVE, OneOf, Rules, Whole


@dataclass(frozen=True, kw_only=True)
class GAT(Trained):
    """Detectors d_k that tell images of class k from adversarial examples of the others.

        min_θ E_{(x, y)}  softplus( -d_y(x) ) + E_{k ≠ y} max_{‖δ‖∞ ≤ eps} softplus( d_k(x + δ) )

    variant: "generative" classifies by the largest d_k; "integrated" lets the undefended network classify.  Both refuse images
        that the detector of the predicted class finds less likely than all but 5 % of clean images.
    eps: budget of the training examples, in input units.  steps: of PGD in training.  weights: see `Trained`.
    """

    eps: float = 0.3
    steps: int = 5
    variant: str = "generative"

    card: ClassVar[Card] = Card(
        paper="Yin, Kolouri, Rohde 2020, arXiv:1905.11475",
        claim="MNIST at 0.3 and CIFAR-10 at 8/255 in Linf: detects and classifies better than adversarial training does, under "
        "attackers who know of it",
        broken="Tramèr et al. 2020, arXiv:2002.08347: CIFAR-10 at 8/255 with 5 % false alarms, 14.1 % integrated and 36.0 % "
        "generative, by examples of every class in turn that are misclassified first and then made likely",
        needs="weights that were trained with it: ours, or a file; clean images to set the threshold on",
        deviation="the detectors are the outputs of one network, where the paper has a network each; one other class an image "
        "and step; ours are fine-tuned from weights trained on PGD's examples, with 5 steps",
    )
    rules: ClassVar[Rules] = {
        "eps": POSITIVE,
        "steps": Whole(1, 100_000),
        "variant": OneOf(("generative", "integrated")),
    }

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """trained, to classify; fitted, where the undefended network does."""
        return "trained" if self.variant == "generative" else "fitted"

    @property
    def needs_data(self) -> bool:
        return True

    @property
    def trained_with(self) -> dict[str, Any]:
        return {"eps": self.eps}  # both variants have the same detectors

    def objective(self, network: nn.Module) -> Objective:
        return OneAgainstTheRest(PGD(eps=self.eps, steps=self.steps, targeted=True, early_stop=False))

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        detectors = super().defend(copied(model), data, example)
        generative = self.variant == "generative"
        network, refusal = (detectors, Unlikely()) if generative else (model, Unlikely(detectors))
        if data is not None:
            refusal.fit(network, data)
        return Refusing(network, refusal)


class Unlikely(Detector):
    """Refuses images that the detector of the predicted class finds unlikely.

    detectors: x → (N, K); None if the network's own logits are the detectors.
    """

    def __init__(self, detectors: nn.Module | None = None) -> None:
        super().__init__()
        self.detectors = detectors

    def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        likely: Tensor = logits if self.detectors is None else self.detectors(x)
        return -likely.gather(1, logits.argmax(1, keepdim=True))[:, 0]


@dataclass(frozen=True)
class OneAgainstTheRest(Objective):
    """The loss of an image's own class detector on the image, and of another class's detector on an example made for it.

    attack: targeted; its budget grows from zero to its full size over a third of the steps.
    """

    attack: PGD

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        logits = step.forward(step.x)
        classes = logits.shape[1]
        other = (step.y + torch.randint(1, classes, step.y.shape, generator=step.draws).to(step.y)) % classes

        def towards(x: Tensor) -> Tensor:
            """Two logits, the second one from the other class's detector."""
            likely = step.model(x).gather(1, other[:, None])
            return torch.cat([torch.zeros_like(likely), likely], 1)

        eps = torch.full((len(step.x),), step.grown * self.attack.eps)
        step.model.eval()
        examples = self.attack(towards, step.x, torch.ones_like(step.y), eps=eps, generator=step.draws)
        step.model.train()
        found = step.forward(examples).gather(1, other[:, None])
        loss = F.softplus(-logits.gather(1, step.y[:, None])).mean() + F.softplus(found).mean()
        return loss, logits

    @property
    def identity(self) -> Any:
        return ["gat", self.attack.config]

    @property
    def note(self) -> str:
        return f"images for the detector of their class, examples of {self.attack!r} for that of another"
