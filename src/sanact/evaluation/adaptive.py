"""The adaptive attacker: the worst case per example over what somebody who knows the defense would try."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from sanact.attacks import APGD, CW, Attack, BudgetedAttack, RayS, Square, Suite
from sanact.attacks.gradient import GradientAttack
from sanact.attacks.losses import LossName
from sanact.attacks.projections import l2_norm, per_example
from sanact.attacks.suite import Record, Stage, Standing
from sanact.checks import Model, refuses
from sanact.evaluation.acceptance import Acceptance
from sanact.evaluation.honesty import DRAWS, draws_at_random, draws_of, won
from sanact.evaluation.latent import LatentMatching, has_hidden
from sanact.evaluation.threat import Effort
from sanact.gradients import annealed, blocked, gradient, gradient_choices, through
from sanact.parts import Part, bypass, removable
from sanact.values import OneOf, Rules

Way = Callable[[], AbstractContextManager[None]]  # differentiates a model in some way for a block
Run = Callable[[Standing], Tensor]
Start = Literal["x", "near", "anywhere"]


class Work(NamedTuple):
    """short, steps: of APGD, in first attempts and in later ones.  targets: target classes per example.  rounds: restarts from
    the best point.  queries: of the attacks without gradients.
    """

    short: int
    steps: int
    targets: int
    rounds: int
    queries: int


WORK: dict[Effort, Work] = {
    "quick": Work(short=20, steps=30, targets=2, rounds=1, queries=100),
    "standard": Work(short=20, steps=60, targets=3, rounds=6, queries=1000),
    "thorough": Work(short=50, steps=200, targets=9, rounds=12, queries=5000),
}
LOSSES: tuple[LossName, ...] = ("margin", "ce")  # for examples that are replayed
BEST = 2  # number of ways per example that get a long attack
PREFERENCE = 0.1  # a way is preferred to the one before if it gets this much closer, as a share of the way to the goal
REACH = 0.2  # share of the way to the goal within which continuing from the best point pays


@dataclass(frozen=True, kw_only=True)
class Adaptive(Suite):
    """The worst case for each example over everything that an attacker who knows the defense would try.

    effort: "quick", "standard" or "thorough"; see `WORK`.
    guides: images for `LatentMatching`, (M, C, H, W), of any classes; None leaves it out.
    source: another network for the same data, whose examples are also tried; None leaves it out.
    The attacks that win most for their cost come first.  Each stage attacks only the examples that are still standing:

    - a few steps from x with each way to differentiate the model (`sanact.gradients`); the way that gets an example closest to
      the goal is used for it from then on
    - gates that close; then each of the likeliest classes as a target; if the model can refuse, another class and acceptance
      as two goals, whichever class it is, then each of the likeliest
    - for examples near the goal, several rounds: small steps from the best point in every way, many steps from new starts,
      targets and other losses
    - examples of the undefended model, and of the source, replayed
    - for examples far from the goal, other losses and ways
    - examples of the model with one part bypassed, and latent matching
    - in L2, Carlini and Wagner's attack
    - Square, and in Linf RayS, which sees decisions only; both give up on examples that their first queries hardly move

    If an operation passes no gradient although it keeps the shape, one more way treats it as the identity.
    The undefended model is the defended one with all its parts bypassed.  A model without parts is attacked as it is.
    For randomized models, losses, gradients and successes are averaged over 10 draws, which include those that the models
    average themselves.  Attacks by gradients then do not stop at the first success, which may be chance.
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

    def looks(self, model: Model) -> int:
        return draws_of(model)

    def look(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """As in any suite; but what a random model lost must be lost in most of 10 other passes, too: stages try it often."""
        lead, hit = super().look(model, x, y)
        if draws_at_random(model) and bool(hit.any()):
            these = torch.nonzero(hit)[:, 0]
            hit[these] = won(model, x[these], y[these], passes=DRAWS)
        return lead, hit

    def stages(self, model: Model, record: Record) -> Iterator[Stage]:
        campaign = Campaign(self, model, record)
        yield from campaign.first_attempts()
        yield from campaign.acceptance()
        yield from campaign.refinements()
        yield from campaign.replays()
        yield from campaign.whatever_else()
        yield from campaign.queries()


class Campaign:
    """The stages of an adaptive attacker against one model.

    ways: to differentiate the model, by name.  order: for each example, indices of the ways, (ways, N), beginning with the one
    that got closest to the goal; known after the first attempts.  gates: indices of the ways with gates that open gradually.
    """

    def __init__(self, attacker: Adaptive, model: Model, record: Record) -> None:
        self.attacker, self.model, self.record = attacker, model, record
        self.work, self.ways = WORK[attacker.effort], _ways(model, record.x)
        self.gates = [place for place, name in enumerate(self.ways) if name.endswith("sigmoid")]
        self.order = torch.arange(len(self.ways), device=record.x.device)[:, None].expand(-1, len(record.x))
        self.refined = torch.zeros(len(record.x), dtype=torch.bool, device=record.x.device)  # examples near enough to refine
        self.parts = removable(model)
        self.ball: dict[str, Any] = {"eps": attacker.eps, "norm": attacker.norm}
        self.draws = draws_of(model)
        self.early_stop = not draws_at_random(model)  # with randomness, a narrow win may be chance
        self.replayed = [self.apgd(loss, self.work.short, early_stop=False) for loss in LOSSES]

    def first_attempts(self) -> Iterator[Stage]:
        """A few steps from x in each way; then gates that close, and targets, in the best way."""
        reached: list[Tensor] = []
        for name, way in self.ways.items():
            yield Stage(f"apgd margin {name}, short", _run(self.model, self.apgd(steps=self.work.short), way, start="x"))
            reached.append(self.record.last - len(reached) * PREFERENCE * self.record.clean.abs())
        self.order = torch.stack(reached).argsort(dim=0, descending=True, stable=True)
        yield from self.closing(0)
        yield from self.through("apgd targeted-dlr {}", self.targeted)

    def acceptance(self) -> Iterator[Stage]:
        """If the model can refuse: another class and acceptance at once, whichever class it is, then one after the other."""
        if refuses(self.model):
            for targets in (0, 2 * self.work.targets):
                both = Acceptance(**self.ball, steps=2 * self.work.steps, draws=self.draws, targets=targets)
                for rank in range(min(BEST, len(self.ways))):
                    name = "acceptance targeted {}" if targets else "acceptance {}"
                    yield from self.through(name, both, rank=rank, start="x")

    def refinements(self) -> Iterator[Stage]:
        """Rounds for examples near the goal, ever fewer: small steps from the best point, then many steps from new starts."""
        long = self.apgd(steps=2 * self.work.steps)
        for number in range(self.work.rounds):
            near = self.near(REACH / (number + 1))
            self.refined |= near
            for rank in range(len(self.ways)):
                steps = self.work.short if rank else self.work.steps
                fine = self.apgd(steps=steps, step_size=self.attacker.eps / 2)
                yield from self.through("apgd margin {}, on", fine, near, rank=rank, start="near")
            rank = number % min(BEST, len(self.ways))
            yield from self.through("apgd margin {}", long, near, rank=rank)
            if number % 4 < 2:
                loss: LossName = "dlr" if number % 2 else "ce"
                yield from self.through(f"apgd {loss} {{}}", self.apgd(loss), near, rank=rank)
            else:
                yield from self.through("apgd targeted-dlr {}, on", self.targeted, near, rank=rank, start="near")
            yield from self.closing((number + 1) % max(len(self.gates), 1), near)

    def replays(self) -> Iterator[Stage]:
        """Examples of the undefended model, and of the source."""
        for attack in self.replayed if self.parts else []:
            yield Stage(f"transfer {attack.loss}", _run(self.model, attack, start="x", bypassed=self.parts))
        if self.attacker.source is not None:
            for attack in self.replayed:
                yield Stage(f"transfer from the source {attack.loss}", _run(self.attacker.source, attack, start="x"))

    def whatever_else(self) -> Iterator[Stage]:
        """The least successful attempts, on all examples still standing: other losses, ways and activations."""
        far = ~self.refined
        for loss in LOSSES:
            yield from self.through(f"apgd {loss} {{}}", self.apgd(loss), far)
        for rank in range(1, len(self.ways)):
            yield from self.through("apgd margin {}, on", self.apgd(steps=self.work.short), far, rank=rank, start="near")
        for one in self.parts if len(self.parts) > 1 else []:
            yield from self.through(f"transfer without {one.where}", self.replayed[0], start="near", bypassed=[one])
        guides = self.attacker.guides
        if guides is not None and has_hidden(self.model, guides[:1]):
            latent = LatentMatching(**self.ball, steps=self.work.short, draws=self.draws, guides=guides)
            yield from self.through("latent {}", latent)
        if self.attacker.norm == "L2":
            cw = CW(search_steps=5, steps=self.work.steps, step_size=self.attacker.eps / 20, initial_c=1.0)
            yield from self.through("cw {}", cw)

    def queries(self) -> Iterator[Stage]:
        """Attacks without gradients."""
        yield Stage("square", _run(self.model, Square(**self.ball, queries=self.work.queries, abort_early=True)))
        if self.attacker.norm == "Linf":
            rays = RayS(eps=self.attacker.eps, queries=self.work.queries // 2, abort_early=True)
            yield Stage("rays", _run(self.model, rays))

    def through(self, name: str, attack: Attack, among: Tensor | None = None, *, rank: int = 0, **more: Any) -> Iterator[Stage]:
        """A stage for each way, on the examples that have it at this rank.  among: which of the N examples to take."""
        for place, (choice, way) in enumerate(self.ways.items()):
            who = self.order[rank] == place
            yield Stage(name.format(choice), _run(self.model, attack, way, **more), who if among is None else who & among)

    def closing(self, rank: int, among: Tensor | None = None) -> Iterator[Stage]:
        """The same with closing gates, which are ranked among themselves."""
        ranks = torch.stack([(self.order == gate).int().argmax(0) for gate in self.gates]) if self.gates else self.order[:0]
        for place, gate in enumerate(self.gates):
            choice, who = list(self.ways)[gate], ranks.argsort(dim=0)[rank] == place
            run = _closing(self.model, self.apgd(steps=2 * self.work.steps), choice)
            yield Stage(f"apgd margin {choice}, closing", run, who if among is None else who & among)

    def near(self, share: float) -> Tensor:
        """Examples whose best point is within this share of the way from the margin at x to the goal, (N,)."""
        return self.record.lead >= -share * self.record.clean.abs()

    def apgd(self, loss: LossName = "margin", steps: int | None = None, **more: Any) -> APGD:
        given = {"draws": self.draws, "early_stop": self.early_stop} | more
        return APGD(**self.ball, loss=loss, steps=steps or self.work.steps, **given)

    @property
    def targeted(self) -> APGD:
        return self.apgd("targeted-dlr", max(self.work.steps // 2, 1), targets=self.work.targets)


def by_strength(model: Model) -> list[str]:
    """The `gradient_choices`, the strongest first; the exact one, which is weakest for hard parts, comes last."""
    choices = gradient_choices(model)
    plain = [choice for choice in ("identity", "exact") if choice in choices]
    return [choice for choice in choices if choice not in plain] + plain


def _ways(model: Model, x: Tensor) -> dict[str, Way]:
    """Ways to differentiate the model, by name, the strongest first.

    If places pass no gradient, the identity in their place comes first, then all others.
    """
    ordered = by_strength(model)
    ways: dict[str, Way] = {choice: partial(gradient, model, choice) for choice in ordered}
    if isinstance(model, nn.Module) and (places := blocked(model, x[:2])):
        return {"straight through": partial(_both, ways[ordered[0]], partial(through, model, places))} | ways
    return ways


@contextmanager
def _both(one: Way, other: Way) -> Iterator[None]:
    with one(), other():
        yield


def _run(
    model: Model, attack: Attack, way: Way = nullcontext, *, start: Start = "anywhere", bypassed: Iterable[Part] = ()
) -> Run:
    """An attack as a stage; start: where an attack by gradients begins."""

    def run(standing: Standing) -> Tensor:
        x, y, eps, generator, near = standing
        with way(), bypass(bypassed):
            if isinstance(attack, GradientAttack) and start != "anywhere":
                return attack(model, x, y, eps=eps, generator=generator, start=x if start == "x" else near)
            if isinstance(attack, BudgetedAttack):
                return attack(model, x, y, eps=eps, generator=generator)
            found = attack(model, x, y, generator=generator)
            return torch.where(per_example(l2_norm(found - x) <= eps, x), found, x)

    return run


def _closing(model: Model, attack: APGD, choice: str) -> Run:
    def run(standing: Standing) -> Tensor:
        with annealed(model, choice, attack.steps * attack.draws) as closing:
            return _run(closing, attack)(standing)

    return run
