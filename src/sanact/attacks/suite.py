"""Several attacks as one: the worst case per example."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sanact.attacks.base import BudgetedAttack, copied, untouched
from sanact.attacks.projections import Generators, generators_of
from sanact.checks import Model, logits_of

Stage = Callable[[Tensor, Tensor, Tensor, Generators], Tensor]  # x, y, eps, generator → adversarial examples


@dataclass(frozen=True, kw_only=True)
class Suite(BudgetedAttack):
    """Attacks one after the other, the cheapest first; only examples that those before left standing go on.

    An example that is misclassified as it is stays as it is; one that no stage wins is what the first stage made of it.
    """

    @abstractmethod
    def stages(self, model: Model) -> Iterator[tuple[str, Stage]]:
        """The attacks by name, in the order in which they are tried."""

    def craft(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        return self._run(model, x, y, eps, generator)[0]

    def credited(
        self, model: Model, x: Tensor, y: Tensor, *, eps: Tensor | None = None, generator: Generators | None = None
    ) -> tuple[Tensor, list[str]]:
        """The examples, and for each the stage that won it: "" where none did, "clean" where there was nothing to win."""
        self._check(model, x, y, generator)
        with untouched(model):
            return self._run(model, *copied(x, y), self._budgets(x, eps), generator or torch.Generator().manual_seed(0))

    def _run(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> tuple[Tensor, list[str]]:
        best, by = x.clone(), ["clean"] * len(x)
        left = torch.nonzero(~self.won(model, x, y))[:, 0]
        for number, (name, stage) in enumerate(self.stages(model)):
            if not len(left):
                break
            found = stage(x[left], y[left], eps[left], generators_of(generator, left))
            won = self.won(model, found, y[left])
            keep = won | (number == 0)
            best[left[keep]] = found[keep]
            for i in left[won].tolist():
                by[i] = name
            left = left[~won]
        for i in left.tolist():
            by[i] = ""
        return best, by

    def won(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Whether the goal is reached at x, (N,)."""
        return (logits_of(model, x, y, self).argmax(1) == y) == self.targeted
