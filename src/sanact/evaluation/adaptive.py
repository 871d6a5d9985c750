"""The adaptive attacker: the worst case per example over what somebody who knows the defense would try."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from sanact.attacks import APGD, CW, PGD, Attack, BudgetedAttack, RayS, Square, Suite
from sanact.attacks.losses import LossName
from sanact.attacks.projections import Generators, l2_norm, per_example
from sanact.attacks.suite import Stage
from sanact.checks import Model
from sanact.evaluation.latent import LatentMatching
from sanact.gradients import annealed, gradient, gradient_choices
from sanact.sanitizers import Sanitizer, bypass, sanitizers_of
from sanact.values import OneOf, Rules

Effort = Literal["quick", "standard", "thorough"]


class Work(NamedTuple):
    """losses, steps, restarts: of PGD for each gradient.  apgd: steps of APGD.  queries: of those without gradients."""

    losses: tuple[LossName, ...]
    steps: int
    restarts: int
    apgd: int
    queries: int


ALL: tuple[LossName, ...] = ("margin", "ce", "dlr")
WORK: dict[Effort, Work] = {
    "quick": Work(("margin",), steps=20, restarts=1, apgd=20, queries=100),
    "standard": Work(ALL, steps=60, restarts=2, apgd=100, queries=1000),
    "thorough": Work(ALL, steps=200, restarts=5, apgd=500, queries=5000),
}
DRAWS = 10  # of a randomized model


@dataclass(frozen=True, kw_only=True)
class Adaptive(Suite):
    """Whatever an attacker who knows the defense would try, the cheapest first; each only on what is still standing.

    effort: "quick", "standard" or "thorough"; see `WORK`.
    guides: images for `LatentMatching`, (M, C, H, W), whatever their classes; None leaves it out.
    In this order: examples of the undefended model replayed; PGD through each gradient (`sanact.gradients`) in a few steps;
    PGD and APGD through each, with all steps, restarts and losses; unless quick, APGD through gates that close; examples of
    the model with one sanitizer bypassed; latent matching; in L2, Carlini and Wagner's; Square; in Linf, RayS, which sees
    decisions only.
    The undefended model is the defended one with all its sanitizers bypassed; a model that has none is attacked as it is.
    Randomized models have losses, gradients and successes averaged over 10 draws.
    Sources: Tramèr et al. 2020, arXiv:2002.08347; Carlini et al. 2019, arXiv:1902.06705.
    """

    effort: Effort = "standard"
    guides: Tensor | None = field(default=None, repr=False, compare=False)

    rules: ClassVar[Rules] = {**Suite.rules, "effort": OneOf(get_args(Effort))}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(not self.targeted, "targeted", "False")

    @property
    def name(self) -> str:
        return "adaptive"

    @property
    def config(self) -> dict[str, Any]:
        return {key: value for key, value in super().config.items() if key != "guides"}

    def stages(self, model: Model) -> Iterator[tuple[str, Stage]]:
        work, choices = WORK[self.effort], _strongest_first(gradient_choices(model))
        ball: dict[str, Any] = {"eps": self.eps, "norm": self.norm}
        sanitizers = sanitizers_of(model)
        draws = DRAWS if any(part.randomized for part in sanitizers) else 1

        def pgd(loss: LossName, *, early_stop: bool = True, steps: int = work.steps, restarts: int = work.restarts) -> PGD:
            return PGD(**ball, loss=loss, steps=steps, restarts=restarts, early_stop=early_stop, draws=draws)

        if sanitizers:
            for loss in work.losses:
                yield f"transfer {loss}", self._stage(model, pgd(loss, early_stop=False), bypassed=sanitizers)
        for choice in choices:
            yield (
                f"pgd margin {choice}, short",
                self._stage(model, pgd("margin", steps=max(work.steps // 3, 10), restarts=1), choice),
            )
        for choice in choices:
            for loss in work.losses:
                yield f"pgd {loss} {choice}", self._stage(model, pgd(loss), choice)
                apgd = APGD(**ball, loss=loss, steps=work.apgd, draws=draws)
                yield f"apgd {loss} {choice}", self._stage(model, apgd, choice)
        targeted = APGD(**ball, loss="targeted-dlr", steps=work.apgd, draws=draws)
        yield f"apgd targeted-dlr {choices[0]}", self._stage(model, targeted, choices[0])
        for choice in choices if self.effort != "quick" else []:
            if choice.endswith("sigmoid"):
                apgd = APGD(**ball, loss="margin", steps=work.apgd, draws=draws)
                yield (
                    f"apgd margin {choice}, annealed",
                    self._annealed(model, apgd, choice),
                )
        for one in sanitizers if len(sanitizers) > 1 else []:
            attack = pgd("margin", early_stop=False)
            yield f"transfer without {one.where}", self._stage(model, attack, choices[0], bypassed=[one])
        if self.guides is not None:
            latent = LatentMatching(**ball, steps=work.steps, restarts=work.restarts, draws=draws, guides=self.guides)
            for choice in choices[:: max(len(choices) - 1, 1)]:  # the first and the last
                yield f"latent {choice}", self._stage(model, latent, choice)
        for choice in choices if self.norm == "L2" else []:
            cw = CW(search_steps=5, steps=work.steps, step_size=self.eps / 20, initial_c=1.0)
            yield f"cw {choice}", self._stage(model, cw, choice)
        yield "square", self._stage(model, Square(**ball, queries=work.queries))
        if self.norm == "Linf":
            yield "rays", self._stage(model, RayS(eps=self.eps, queries=work.queries))

    @staticmethod
    def _stage(model: Model, attack: Attack, choice: str = "exact", bypassed: Iterable[Sanitizer] = ()) -> Stage:
        def run(x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
            with gradient(model, choice), bypass(bypassed):
                if isinstance(attack, BudgetedAttack):
                    return attack(model, x, y, eps=eps, generator=generator)
                found = attack(model, x, y, generator=generator)
                return torch.where(per_example(l2_norm(found - x) <= eps, x), found, x)

        return run

    @staticmethod
    def _annealed(model: Model, attack: APGD, choice: str) -> Stage:
        def run(x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
            with annealed(model, choice, attack.steps * attack.draws) as closing:
                return attack(closing, x, y, eps=eps, generator=generator)

        return run


def _strongest_first(choices: list[str]) -> list[str]:
    """Surrogates, then identity, then the exact gradient: of a hard sanitizer it sees least."""
    return choices[2:] + choices[1::-1]
