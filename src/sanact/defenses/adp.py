"""ADP: an ensemble whose members are trained to disagree on the classes other than the true one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.defenses.base import Card
from sanact.defenses.head import head_of, with_head
from sanact.defenses.trained import Trained
from sanact.objectives import Objective, Step
from sanact.preserve import copied
from sanact.values import NOT_NEGATIVE, Rules, Whole

RIDGE = 1e-6  # keeps the determinant of equal members above zero


class Ensemble(nn.Module):
    """Several networks as one: x in [0, 1] → the logarithm of the mean of their probabilities, (N, K).

    In training mode it returns the members' own logits, (N, M, K).
    """

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.stack([member(x) for member in self.members], 1)  # (N, M, K)
        return logits if self.training else mean_of(logits)


def mean_of(logits: Tensor) -> Tensor:
    """log mean_m softmax z_m: (N, M, K) → (N, K)."""
    return logits.log_softmax(2).logsumexp(1) - math.log(logits.shape[1])


@dataclass(frozen=True, kw_only=True)
class ADP(Trained):
    """An ensemble whose members are trained together and driven to disagree.

        F(x) = mean_m p_m(x)        min_θ E  Σ_m J(p_m, y) - alpha H(F) - beta log det( M̃ᵀ M̃ + 1e-6 I )

    M̃ has a column for each member: its probabilities of the classes other than y, divided by their norm.  H is the entropy.
    members: of the undefended network's architecture, ≥ 2.  alpha, beta: ≥ 0.  weights: see `Trained`.
    Raises ValueError for an ensemble of one, and for a network without a linear layer that makes its logits.
    """

    members: int = 3
    alpha: float = 2.0
    beta: float = 0.5

    card: ClassVar[Card] = Card(
        paper="Pang, Xu, Du, Chen, Zhu 2019, arXiv:1901.08846",
        claim="CIFAR-10, three ResNet-20: about 48 % under ten steps of PGD at 0.01, whose author knows of it",
        broken="Tramèr et al. 2020, arXiv:2002.08347: next to nothing is left at 0.01 after enough steps",
        needs="weights that were trained with it: ours, or a file",
        deviation="members start from the same weights but for the layer that makes their logits; what disagreement is worth "
        "grows over a third of the steps; ours are fine-tuned from undefended weights",
    )
    rules: ClassVar[Rules] = {"members": Whole(2, 100), "alpha": NOT_NEGATIVE, "beta": NOT_NEGATIVE}

    def architecture(self, network: nn.Module, example: Tensor | None = None) -> nn.Module:
        name, head = head_of(network, example)
        members = [with_head(copied(network), name, head.out_features, seed) for seed in range(self.members)]
        return Ensemble(members).train(network.training)

    def objective(self, network: nn.Module) -> Objective:
        return DiversityPromoting(self.alpha, self.beta)


@dataclass(frozen=True)
class DiversityPromoting(Objective):
    """The cross-entropy of each member of an `Ensemble`, minus a reward for their disagreement; see `ADP`.

    The reward grows from zero to its full size over a third of the steps; at full size from the start, members would disagree
    on all classes.
    """

    alpha: float
    beta: float

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        logits = step.forward(step.x)  # (N, M, K)
        members, together = logits.shape[1], mean_of(logits)
        labels = step.y.repeat_interleave(members)
        loss = members * F.cross_entropy(logits.flatten(0, 1), labels, label_smoothing=step.label_smoothing)
        entropy = -(together.exp() * together).sum(1).mean()
        worth = self.alpha * entropy + self.beta * diversity(logits.softmax(2), step.y).mean()
        return loss - step.grown * worth, together

    @property
    def identity(self) -> Any:
        return ["adp", self.alpha, self.beta]

    @property
    def note(self) -> str:
        return (
            f"images, less {self.alpha:g} times the entropy of the mean and {self.beta:g} times the log-determinant of ADP, "
            "which grow over the first third"
        )


def diversity(p: Tensor, y: Tensor) -> Tensor:
    """log det( M̃ᵀ M̃ + 1e-6 I ) of each example: p (N, M, K), y (N,) → (N,)."""
    others = torch.ones_like(p, dtype=torch.bool).scatter(2, y[:, None, None].expand(-1, p.shape[1], 1), False)
    columns = F.normalize(p[others].reshape(*p.shape[:2], -1), dim=2)  # (N, M, K - 1)
    gram = columns @ columns.mT + RIDGE * torch.eye(p.shape[1]).to(p)
    volume: Tensor = torch.linalg.slogdet(gram).logabsdet
    return volume
