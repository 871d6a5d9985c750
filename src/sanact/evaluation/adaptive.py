"""The adaptive attacker: the worst case per example over what somebody who knows the defense would try."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from sanact.attacks import CW, PGD, Attack, BudgetedAttack, Suite
from sanact.attacks.losses import LossName
from sanact.attacks.projections import Generators, l2_norm
from sanact.attacks.suite import Stage
from sanact.checks import Model
from sanact.gradients import gradient, gradient_choices
from sanact.sanitizers import Sanitizer, bypass

Effort = Literal["quick", "standard", "thorough"]


class Work(NamedTuple):
    """steps, restarts: of PGD for each gradient and loss.  apgd: steps of APGD.  queries: of those without gradients."""

    steps: int
    restarts: int
    apgd: int
    queries: int


WORK: dict[Effort, Work] = {
    "quick": Work(steps=20, restarts=1, apgd=20, queries=100),
    "standard": Work(steps=60, restarts=2, apgd=100, queries=1000),
    "thorough": Work(steps=200, restarts=5, apgd=500, queries=5000),
}
LOSSES: tuple[LossName, ...] = ("margin", "ce")


@dataclass(frozen=True, kw_only=True)
class Adaptive(Suite):
    """Whatever an attacker who knows the defense would try, the cheapest first; each only on what is still standing.

    effort: "quick", "standard" or "thorough"; see `WORK`.
    In this order: examples of the undefended model replayed; PGD through each gradient (`sanact.gradients`) in a few steps;
    with all steps, restarts and losses; examples of the model with one sanitizer bypassed; in L2, Carlini and Wagner's.
    The undefended model is the defended one with all its sanitizers bypassed; a model that has none is attacked as it is.
    Sources: Tramèr et al. 2020, arXiv:2002.08347; Carlini et al. 2019, arXiv:1902.06705.
    """

    effort: Effort = "standard"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.effort in WORK, "effort", f"one of {', '.join(get_args(Effort))}")
        self.require(not self.targeted, "targeted", "False")

    @property
    def name(self) -> str:
        return "adaptive"

    def stages(self, model: Model) -> Iterator[tuple[str, Stage]]:
        work, choices = WORK[self.effort], _strongest_first(gradient_choices(model))
        sanitizers = [part for part in model.modules() if isinstance(part, Sanitizer)] if isinstance(model, nn.Module) else []
        if sanitizers:
            for loss in LOSSES:
                yield f"transfer {loss}", self._stage(model, self._pgd(loss, replay=True), bypassed=sanitizers)
        for choice in choices:
            yield f"pgd margin {choice}, short", self._stage(model, self._pgd("margin", short=True), choice)
        for choice in choices:
            for loss in LOSSES:
                yield f"pgd {loss} {choice}", self._stage(model, self._pgd(loss), choice)
        if len(sanitizers) > 1:
            for one in sanitizers:
                attack = self._pgd("margin", replay=True)
                yield f"transfer without {one.where}", self._stage(model, attack, choices[0], bypassed=[one])
        if self.norm == "L2":
            for choice in choices:
                cw = CW(search_steps=5, steps=work.steps, step_size=0.1, initial_c=1.0)
                yield f"cw {choice}", self._stage(model, cw, choice)

    def _pgd(self, loss: LossName, *, short: bool = False, replay: bool = False) -> PGD:
        work = WORK[self.effort]
        steps, restarts = (max(work.steps // 3, 10), 1) if short else (work.steps, work.restarts)
        return PGD(eps=self.eps, norm=self.norm, loss=loss, steps=steps, restarts=restarts, early_stop=not replay)

    @staticmethod
    def _stage(model: Model, attack: Attack, choice: str = "exact", bypassed: Iterable[Sanitizer] = ()) -> Stage:
        def run(x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
            with gradient(model, choice), bypass(bypassed):
                if isinstance(attack, BudgetedAttack):
                    return attack(model, x, y, eps=eps, generator=generator)
                found = attack(model, x, y, generator=generator)
                return torch.where((l2_norm(found - x) <= eps).reshape(-1, 1, 1, 1), found, x)

        return run


def _strongest_first(choices: list[str]) -> list[str]:
    """Surrogates, then identity, then the exact gradient: of a hard sanitizer it sees least."""
    return choices[2:] + choices[1::-1]
