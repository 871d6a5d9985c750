"""k-WTA networks: only the largest elements of each hidden activation are kept, in training, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sanact.defenses.base import Card
from sanact.defenses.trained import Trained
from sanact.objectives import Narrowing, Objective
from sanact.plan import SanitizedModel, sanitize
from sanact.sanitizers import KWTA
from sanact.values import Number, Rules

WIDE = 0.5  # share of winners when training starts: about as many as a ReLU leaves


@dataclass(frozen=True, kw_only=True)
class KWTANetwork(Trained):
    """A network of the same architecture with `KWTA` behind each hidden activation, trained with ever fewer winners.

    share: of the elements of an activation that win, in (0, 1).  weights: see `Trained`.
    """

    share: float = 0.1

    card: ClassVar[Card] = Card(
        paper="Xiao, Zhong, Zheng 2020, arXiv:1905.10510",
        claim="CIFAR-10 at 0.031, with adversarial training: 52.4 for DenseNet-121, 50.7 for ResNet-18",
        claimed={"cifar10": 52.4},
        broken="Tramèr et al. 2020, arXiv:2002.08347, with gradients estimated from differences of logits: 0.16 for ResNet-18; "
        "AutoAttack leaves 18.50, APGD and Square with restarts 7.40 for DenseNet-121 (RobustBench)",
        surrogates="the identity, gates that open gradually, a gate that never shuts",
        needs="weights that were trained with it: ours, or a file",
        deviation="behind ReLU and not in its place, which is the same wherever k elements are positive; on images, not on "
        "adversarial examples; fine-tuned from undefended weights, as the card of the weights says",
    )
    rules: ClassVar[Rules] = {"share": Number(0, 1, open_least=True, open_most=True)}

    def architecture(self, network: nn.Module, example: Tensor | None = None) -> nn.Module:
        return Narrow(sanitize(network, KWTA(self.share), example=example))

    def objective(self, network: nn.Module) -> Objective:
        return Narrowing(max(WIDE, self.share), self.share)


class Narrow(nn.Module):
    """A network trained with its sanitizers; without them it is no meaningful network to attack."""

    def __init__(self, sanitized: SanitizedModel) -> None:
        super().__init__()
        self.sanitized = sanitized  # a name that keeps plain networks from loading these weights
        self.training = sanitized.training
        for part in sanitized.sanitizers.values():
            part.removable = False

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.sanitized(x)
        return logits
