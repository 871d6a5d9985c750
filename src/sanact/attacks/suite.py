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
from sanact.attacks.losses import margin
from sanact.attacks.projections import Generators, generators_of, length
from sanact.checks import Model, check_inputs
from sanact.passes import counting


class Standing(NamedTuple):
    """The n examples that a stage has to win.

    x, y, eps, generator: as for an attack.  near: the best points so far, like x; at first x itself.
    """

    x: Tensor
    y: Tensor
    eps: Tensor
    generator: Generators
    near: Tensor

    def only(self, these: Tensor) -> Standing:
        """Only these examples, by index."""
        x, y, eps, near = (part[these] for part in (self.x, self.y, self.eps, self.near))
        return Standing(x, y, eps, generators_of(self.generator, these), near)


class Stage(NamedTuple):
    """One of a suite's attacks.

    run: makes adversarial examples, like x, of those still standing.  who: which of all N examples it takes, (N,); None is all.
    """

    name: str
    run: Callable[[Standing], Tensor]
    who: Tensor | None = None


class StageWarning(UserWarning):
    """A stage of a suite failed, so the suite is weaker than its name says."""


class Outcome(NamedTuple):
    """The result of a suite for N examples.

    examples: (N, …).  by: the stage that won each; "" where none did, "clean" where x was misclassified already.
    failed: for each example, the stages that ended in an error, by name, with the reason.
    """

    examples: Tensor
    by: list[str]
    failed: list[dict[str, str]]


class Record:
    """The progress of a suite on each of N examples.

    x: the images, (N, …); clean: the margin there, (N,).  near: the best points so far, like x; lead: the margin there, (N,).
    left: indices of the examples still standing.  last: the margin that the last stage reached, (N,), -inf where it has none.
    """

    def __init__(self, x: Tensor, clean: Tensor, won: Tensor) -> None:
        self.x, self.near = x, x.clone()
        self.clean = self.lead = self.last = clean.to(x)
        self.left = torch.nonzero(~won)[:, 0]

    def note(self, index: Tensor, found: Tensor, lead: Tensor, won: Tensor) -> None:
        """Record a stage's result for the examples ``index``: points (n, …), margins and whether it won, (n,)."""
        self.last = torch.full_like(self.last, -torch.inf)
        self.last[index] = lead.to(self.last)
        nearer = won | (self.last >= self.lead)[index]
        self.near[index[nearer]], self.lead = found[nearer], torch.maximum(self.lead, self.last)
        self.left = self.left[~torch.isin(self.left, index[won])]


@dataclass(frozen=True, kw_only=True)
class Suite(BudgetedAttack):
    """Attacks one after the other, the cheapest first.  Each gets only the examples that the ones before did not win.

    An example that is already misclassified is returned as it is.  Of one that no stage wins, the point of the largest margin
    is returned.
    A stage that fails does not end the suite.  `credited` tells what failed, and why; a plain call warns.
    """

    @abstractmethod
    def stages(self, model: Model, record: Record) -> Iterator[Stage]:
        """The attacks in the order in which they are tried; the record is updated between them."""

    def craft(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        outcome = self._run(model, x, y, eps, generator)
        for name, why in {name: why for failed in outcome.failed for name, why in failed.items()}.items():
            warnings.warn(f"the stage '{name}' failed, {why} ({self})", StageWarning, stacklevel=4)
        return outcome.examples

    def credited(
        self, model: Model, x: Tensor, y: Tensor, *, eps: Tensor | None = None, generator: Generators | None = None
    ) -> Outcome:
        """The examples, and for each the stage that won it and the stages that failed."""
        self._check(model, x, y, generator)
        with untouched(model):
            return self._run(model, *own_copies(x, y), self._budgets(x, eps), generator or torch.Generator().manual_seed(0))

    def _run(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Outcome:
        lead, won = self.look(model, x, y)
        record, whole = Record(x, lead, won), Standing(x, y, eps, generator, x)
        by, failed = ["clean" if at_once else "" for at_once in won.tolist()], [dict[str, str]() for _ in x]
        for name, run, who in self.stages(model, record):
            index = record.left if who is None else record.left[who[record.left]]
            if not len(record.left):
                break
            if not len(index):
                continue
            try:
                with counting(index, of=index):
                    standing = whole.only(index)._replace(near=record.near[index])
                    found = run(standing)
                    self._check_found(found, standing)
                    lead, won = self.look(model, found, standing.y)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # models raise errors of any kind, and the other stages are still worth running
                record.last = torch.full_like(record.last, -torch.inf)
                for i in index.tolist():
                    failed[i][name] = reason(error)
                continue
            record.note(index, found, lead, won)
            for i in index[won].tolist():
                by[i] = name
        return Outcome(record.near, by, failed)

    def _check_found(self, found: Tensor, standing: Standing) -> None:
        """Raise ValueError for a result that a stage may not return."""
        if found.shape != standing.x.shape:
            raise ValueError(f"it returned {tuple(found.shape)} for {tuple(standing.x.shape)}")
        check_inputs(found, standing.y, "returned by the stage")
        far = length(found - standing.x, self.norm) > standing.eps * (1 + 1e-4) + 1e-6
        if bool(far.any()):
            raise ValueError(f"it left the ball for {int(far.sum())} of {len(found)} examples")

    def looks(self, model: Model) -> int:
        """In how many passes an example is looked at; more than one where the model draws at random."""
        return 1

    def look(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The mean margin at x, and whether the goal is reached there in more than half of the passes, both (N,)."""
        passes = [self.logits(model, x, y) for _ in range(self.looks(model))]
        leads = torch.stack([margin(logits, y) for logits in passes])
        hits = torch.stack([(logits.argmax(1) == y) == self.targeted for logits in passes])
        return leads.mean(0), 2 * hits.sum(0) > len(passes)


def reason(error: Exception) -> str:
    """An error in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    kind = "" if isinstance(error, (ValueError, TypeError)) else f"{type(error).__name__}: "
    return (kind + text)[:300]
