"""The adaptive attacker: the worst case per example over what somebody who knows the defense would try."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from sanact.attacks import APGD, CW, PGD, Attack, BudgetedAttack, RayS, Square, Suite
from sanact.attacks.losses import LossName
from sanact.attacks.projections import Generators, l2_norm, per_example
from sanact.attacks.suite import Stage
from sanact.checks import Model
from sanact.evaluation.latent import LatentMatching, has_hidden
from sanact.gradients import annealed, blocked, gradient, gradient_choices, through
from sanact.parts import parts_of
from sanact.sanitizers import Sanitizer, bypass, sanitizers_of
from sanact.values import OneOf, Rules

Effort = Literal["quick", "standard", "thorough"]
Way = Callable[[], AbstractContextManager[None]]  # to differentiate a model for a while


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
    source: another network of the same data, whose examples are tried, too; None leaves it out.
    In this order: examples of the undefended model, and of the source, replayed; PGD through each gradient
    (`sanact.gradients`) in a few steps; PGD and APGD through each, with all steps, restarts and losses; unless quick, APGD
    through gates that close; examples of the model with one sanitizer bypassed; latent matching; in L2, Carlini and Wagner's;
    Square; in Linf, RayS, which sees decisions only.
    Where a place of the network lets no gradient through although the shape stays the same, one more gradient takes it for the
    identity.
    The undefended model is the defended one with all its sanitizers bypassed; a model that has none is attacked as it is.
    Randomized models have losses, gradients and successes averaged over 10 draws.
    Sources: Tramèr et al. 2020, arXiv:2002.08347; Carlini et al. 2019, arXiv:1902.06705.
    """

    effort: Effort = "standard"
    guides: Tensor | None = field(default=None, repr=False, compare=False)
    source: nn.Module | None = field(default=None, repr=False, compare=False)

    rules: ClassVar[Rules] = {**Suite.rules, "effort": OneOf(get_args(Effort))}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(not self.targeted, "targeted", "False")

    @property
    def name(self) -> str:
        return "adaptive"

    @property
    def config(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("guides", "source")}
        return {"name": self.name} | own

    def stages(self, model: Model, x: Tensor) -> Iterator[tuple[str, Stage]]:
        work, ways = WORK[self.effort], _ways(model, x)
        ball: dict[str, Any] = {"eps": self.eps, "norm": self.norm}
        sanitizers, draws = sanitizers_of(model), DRAWS if any(part.randomized for part in parts_of(model)) else 1

        def pgd(loss: LossName, *, early_stop: bool = True, steps: int = work.steps, restarts: int = work.restarts) -> PGD:
            return PGD(**ball, loss=loss, steps=steps, restarts=restarts, early_stop=early_stop, draws=draws)

        def apgd(loss: LossName) -> APGD:
            return APGD(**ball, loss=loss, steps=work.apgd, draws=draws)

        if sanitizers:
            for loss in work.losses:
                yield f"transfer {loss}", _stage(model, pgd(loss, early_stop=False), bypassed=sanitizers)
        if self.source is not None:
            for loss in work.losses:
                yield f"transfer from the source {loss}", _stage(self.source, pgd(loss, early_stop=False))
        for name, way in ways.items():
            yield f"pgd margin {name}, short", _stage(model, pgd("margin", steps=max(work.steps // 3, 10), restarts=1), way)
        for name, way in ways.items():
            for loss in work.losses:
                yield f"pgd {loss} {name}", _stage(model, pgd(loss), way)
                yield f"apgd {loss} {name}", _stage(model, apgd(loss), way)
        strongest = next(iter(ways))
        yield f"apgd targeted-dlr {strongest}", _stage(model, apgd("targeted-dlr"), ways[strongest])
        for choice in ways if self.effort != "quick" else ():
            if choice.endswith("sigmoid"):
                yield f"apgd margin {choice}, annealed", _annealed(model, apgd("margin"), choice)
        for one in sanitizers if len(sanitizers) > 1 else []:
            attack = pgd("margin", early_stop=False)
            yield f"transfer without {one.where}", _stage(model, attack, ways[strongest], bypassed=[one])
        if self.guides is not None and has_hidden(model, self.guides[:1]):
            latent = LatentMatching(**ball, steps=work.steps, restarts=work.restarts, draws=draws, guides=self.guides)
            for name in dict.fromkeys([strongest, *reversed(ways)][:2]):  # the first and the last
                yield f"latent {name}", _stage(model, latent, ways[name])
        for name, way in ways.items() if self.norm == "L2" else ():
            cw = CW(search_steps=5, steps=work.steps, step_size=self.eps / 20, initial_c=1.0)
            yield f"cw {name}", _stage(model, cw, way)
        yield "square", _stage(model, Square(**ball, queries=work.queries))
        if self.norm == "Linf":
            yield "rays", _stage(model, RayS(eps=self.eps, queries=work.queries))


def _ways(model: Model, x: Tensor) -> dict[str, Way]:
    """Ways to differentiate the model, by name, the strongest first.

    Where a place lets no gradient through, the identity in its place; surrogates; the identity in place of every part; and the
    exact gradient, which of a hard sanitizer sees least.
    """
    choices = gradient_choices(model)
    plain = [choice for choice in ("identity", "exact") if choice in choices]
    ordered = [choice for choice in choices if choice not in plain] + plain
    ways: dict[str, Way] = {choice: partial(gradient, model, choice) for choice in ordered}
    if isinstance(model, nn.Module) and (places := blocked(model, x[:2])):
        return {"straight through": partial(_both, ways[ordered[0]], partial(through, model, places))} | ways
    return ways


@contextmanager
def _both(one: Way, other: Way) -> Iterator[None]:
    with one(), other():
        yield


def _stage(model: Model, attack: Attack, way: Way = nullcontext, bypassed: Iterable[Sanitizer] = ()) -> Stage:
    def run(x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        with way(), bypass(bypassed):
            if isinstance(attack, BudgetedAttack):
                return attack(model, x, y, eps=eps, generator=generator)
            found = attack(model, x, y, generator=generator)
            return torch.where(per_example(l2_norm(found - x) <= eps, x), found, x)

    return run


def _annealed(model: Model, attack: APGD, choice: str) -> Stage:
    def run(x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        with annealed(model, choice, attack.steps * attack.draws) as closing:
            return attack(closing, x, y, eps=eps, generator=generator)

    return run
