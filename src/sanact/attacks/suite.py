"""Several attacks as one: the worst case per example."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sanact.attacks.base import BudgetedAttack, own_copies, untouched
from sanact.attacks.projections import Generators, generators_of, length
from sanact.checks import Model, check_inputs, logits_of

Stage = Callable[[Tensor, Tensor, Tensor, Generators], Tensor]  # x, y, eps, generator → adversarial examples


class StageWarning(UserWarning):
    """A stage of a suite failed, so that the suite is weaker than it says."""


class Outcome(NamedTuple):
    """What a suite made of N examples.

    examples: (N, …).  by: the stage that won each: "" where none did, "clean" where there was nothing to win.
    failed: for each, the stages that ended in an error, by name, with the reason.
    """

    examples: Tensor
    by: list[str]
    failed: list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Suite(BudgetedAttack):
    """Attacks one after the other, the cheapest first; only examples that those before left standing go on.

    An example that is misclassified as it is stays as it is; one that no stage wins is what the first stage made of it.
    A stage that fails does not end the suite: the others go on.  `credited` tells what failed, and why; a plain call warns.
    """

    @abstractmethod
    def stages(self, model: Model, x: Tensor) -> Iterator[tuple[str, Stage]]:
        """The attacks by name, in the order in which they are tried; x: the images, (N, C, H, W)."""

    def craft(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        outcome = self._run(model, x, y, eps, generator)
        for name, why in {name: why for failed in outcome.failed for name, why in failed.items()}.items():
            warnings.warn(f"the stage '{name}' failed, {why} ({self})", StageWarning, stacklevel=4)
        return outcome.examples

    def credited(
        self, model: Model, x: Tensor, y: Tensor, *, eps: Tensor | None = None, generator: Generators | None = None
    ) -> Outcome:
        """The examples, and for each the stage that won it and those that failed."""
        self._check(model, x, y, generator)
        with untouched(model):
            return self._run(model, *own_copies(x, y), self._budgets(x, eps), generator or torch.Generator().manual_seed(0))

    def _run(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Outcome:
        best, by = x.clone(), ["clean"] * len(x)
        failed: list[dict[str, str]] = [{} for _ in by]
        left, first = torch.nonzero(~self.won(model, x, y))[:, 0], True
        for name, stage in self.stages(model, x):
            if not len(left):
                break
            try:
                found = stage(x[left], y[left], eps[left], generators_of(generator, left))
                self._check_found(found, x[left], y[left], eps[left])
                won = self.won(model, found, y[left])
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # of as many kinds as there are models; what else wins is still worth knowing
                for i in left.tolist():
                    failed[i][name] = reason(error)
                continue
            keep, first = won | first, False
            best[left[keep]] = found[keep]
            for i in left[won].tolist():
                by[i] = name
            left = left[~won]
        for i in left.tolist():
            by[i] = ""
        return Outcome(best, by, failed)

    def _check_found(self, found: Tensor, x: Tensor, y: Tensor, eps: Tensor) -> None:
        """Raise ValueError for what a stage may not return."""
        if found.shape != x.shape:
            raise ValueError(f"it returned {tuple(found.shape)} for {tuple(x.shape)}")
        check_inputs(found, y, "returned by the stage")
        if bool((far := length(found - x, self.norm) > eps * (1 + 1e-4) + 1e-6).any()):
            raise ValueError(f"it left the ball for {int(far.sum())} of {len(x)} examples")

    def won(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Whether the goal is reached at x, (N,)."""
        return (logits_of(model, x, y, self).argmax(1) == y) == self.targeted


def reason(error: Exception) -> str:
    """An error in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    kind = "" if isinstance(error, (ValueError, TypeError)) else f"{type(error).__name__}: "
    return (kind + text)[:300]
