"""Images and one-step adversarial examples in one batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.attacks import FGSM
from sanact.identity import fingerprint
from sanact.objectives.base import Objective, Step


@dataclass(frozen=True)
class Mixed(Objective):
    """The cross-entropy of a batch whose first half is replaced by adversarial examples.

        ( Σ_clean J(x, y) + w Σ_adversarial J(x', y) ) / ( m - k + w k ),   k = ⌊m / 2⌋ of m

    attack: towards the least likely class, if it is targeted.  weight: w > 0.
    varied: draw each example's budget as |N(0, eps / 2)|, again if above eps, instead of eps.
    sources: networks in evaluation mode, by name.  Each batch crafts its examples on one of them, or on the trained network,
        drawn at random.  None: always on the trained network.
    Papers: Kurakin et al. 2017, arXiv:1611.01236; with sources Tramèr et al. 2018, arXiv:1705.07204.
    Deviation: FGSM leaves images that are already misclassified as they are.
    """

    attack: FGSM
    weight: float = 1.0
    varied: bool = False
    sources: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        half = len(step.x) // 2
        x = torch.cat([self._examples(step, half), step.x[half:]])
        logits = step.forward(x)
        losses = F.cross_entropy(logits, step.y, label_smoothing=step.label_smoothing, reduction="none")
        weights = torch.ones_like(losses)
        weights[:half] = self.weight
        return (weights * losses).sum() / weights.sum(), logits

    def _examples(self, step: Step, count: int) -> Tensor:
        """Adversarial examples of the first images of a batch."""
        x, y, eps = step.x[:count], step.y[:count], self._budgets(count, step.draws)
        networks = [*self.sources.values(), step.model.eval()]
        model = networks[int(torch.randint(len(networks), (), generator=step.draws))].to(x.device)
        if self.attack.targeted and count:
            with torch.no_grad():
                y = model(x).argmin(1)
        examples = self.attack(model, x, y, eps=eps, generator=step.draws)
        step.model.train()
        return examples

    def _budgets(self, count: int, draws: torch.Generator) -> Tensor:
        if not self.varied:
            return torch.full((count,), self.attack.eps, dtype=torch.float64)
        sizes = torch.randn(count, generator=draws).abs()
        while bool((beyond := sizes > 2).any()):
            sizes[beyond] = torch.randn(int(beyond.sum()), generator=draws).abs()
        return self.attack.eps * sizes / 2

    @property
    def identity(self) -> Any:
        return ["mixed", self.attack.config, self.weight, self.varied, [fingerprint(one) for one in self.sources.values()]]

    @property
    def note(self) -> str:
        made_on = f", made on {' or '.join(self.sources)} or the network itself" if self.sources else ""
        towards = " towards the least likely class" if self.attack.targeted else ""
        budget = f"budgets up to {self.attack.eps:.4g}" if self.varied else f"eps {self.attack.eps:.4g}"
        return f"half images, half examples of FGSM{towards}, {budget}, of weight {self.weight:.4g}{made_on}"
