"""Did the attack fail, rather than the defense succeed?  Checks with thresholds, and the verdict that follows from them.

Sources: Athalye et al. 2018, arXiv:1802.00420; Carlini et al. 2019, arXiv:1902.06705; Croce and Hein 2020, arXiv:2003.01690;
Pintor et al. 2022, arXiv:2106.09947.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn

from sanact.attacks import APGD, FGSM, Attack, BudgetedAttack, Square, Suite
from sanact.attacks.base import untouched
from sanact.attacks.gradient import GradientAttack
from sanact.attacks.projections import diameter, length, random_start
from sanact.checks import Model, fooled, refuses
from sanact.evaluation.adaptive import Adaptive, by_strength
from sanact.evaluation.honesty import again, answer, answers, apart, draws_at_random, draws_of, fresh_copy, lead, slopes, won
from sanact.gradients import annealed, gradient, gradient_choices
from sanact.parts import Part, bypass, removable

EXAMPLES = 50  # correctly classified ones, for the checks that attack again
PATIENT = 25  # of these, for what an adaptive attacker with more patience would try
WATCHED = 3  # of these, attacked one by one to see the points that the attack visits
VANISHING = 1e-6
SHARE = 0.02  # of these: one may be chance
DISAGREE = {"random directions": 0.5, "its own steps": 0.4}  # honest networks in half precision reach 0.37 and 0.29
LATER = 200  # steps of what the next effort would try


Rival = Callable[[Tensor, Tensor], Tensor]  # x, y → examples
Figure = Callable[[], float]
Once = Callable[[str, Figure], float]


def now(name: str, compute: Figure) -> float:
    return compute()


class Check(NamedTuple):
    """A figure that makes a robust accuracy suspect if it is above its threshold."""

    name: str
    figure: float
    threshold: float

    @property
    def failed(self) -> bool:
        return not self.figure <= self.threshold  # NaN fails


def verdict(checks: Iterable[Check], *, bound: bool = False) -> str:
    """ "suspect: " and the failed checks; else "reliable", or "upper bound" for an effort too small to be relied on."""
    failed = [f"{check.name} ({check.figure:.3g})" for check in checks if check.failed]
    if failed:
        return "suspect: " + ", ".join(failed)
    return "upper bound" if bound else "reliable"


def diagnose(
    attack: Attack, model: nn.Module, x: Tensor, y: Tensor, *, by: Sequence[str] | None = None, once: Once = now
) -> Iterator[Check]:
    """Check an attack on ``model`` for the known ways in which attacks fail, on a few examples (N, C, H, W), (N,).

    by: what won each example when the attack was run on them, as in `rows.SCHEMA`; None runs it.
    once: called with the name of each slow check and the function that computes its figure; `Journal.once` computes each once.
    The undefended model is this one with its parts bypassed.  The checks come one by one, cheap ones first:

    - outputs differ: largest difference of two passes over the same images, relative to the largest logit.  Parts that say
      that they are random begin their draws again.
    - answers depend on the batch: the same difference, between an image alone, in its batch, in another order,
      and in batches of other sizes.
    - answers depend on whether gradients are recorded: the same difference, between an attack's passes and all others.
    - answers depend on earlier queries: the same difference, between a model that has answered other queries and a fresh copy.
    - gradients in the forward pass: calls of autograd during prediction, by a model that optimizes or purifies.
    - vanishing gradient: share of examples whose margin has too small a gradient, at the input or at a part: a change as
      large as the activation would move the logits by less than a millionth of the largest.
    - gradient against finite differences: median relative difference of the two slopes of the margin, along random directions
      and along the gradient's own sign, at the images and at points around them.  The adaptive attacker has other gradients
      through the parts, so for it the parts are bypassed.
    - silent success: share on which the attack met an adversarial example but returned a harmless one.  Not checked for
      random models, where this happens by chance.
    - beaten by: share that something else wins but the attack does not: random noise, one step, twice the steps, the margin
      loss, gradients averaged over random draws, examples crafted on the undefended model, another gradient through the
      parts, queries without gradients.  A random model is beaten where it errs in more than half of 10 draws.
      For the adaptive attacker it is what the next effort would try: more steps through each gradient, gates that close
      slowly, and each gradient towards each of the likeliest classes.  Not for the effort "quick", which claims an upper bound.
    - won by queries: for a suite, the share that only queries won.
    - larger budget: accuracy gained at twice the budget.  Neither this nor the next check is made for a user's attack that
      takes no eps.
    - no bound: accuracy above chance at a budget of half the input range (all of it if the model can refuse), or under an
      attack without a budget.
    """
    fresh = fresh_copy(model)
    with untouched(model):
        logits = answer(model, x)
    right = [i for i, same in enumerate((logits.argmax(1) == y).tolist()) if same and not (by and by[i] == "clean")][:EXAMPLES]
    if not right:
        yield Check("no example is classified correctly", 1.0, 0.0)
        return
    x, y = x[right], y[right]
    yield (differ := Check("outputs differ", _difference(model, x), 1e-4))
    if not differ.failed:  # a model with undeclared randomness fails the following checks in any case
        yield from (
            Check(f"answers depend on {what}", figure, 1e-3) for what, figure in answers(model, fresh, x, _noise_size(attack))
        )
    yield Check("gradients in the forward pass", _autograd_calls(model, x[:1]), 0)
    yield from (
        Check(f"vanishing gradient at {place}", share, 0.0) for place, share in _vanishing_gradients(model, x, y).items()
    )
    if not differ.failed:
        own = removable(model) if isinstance(attack, Adaptive) else []
        with bypass(own):
            found = list(slopes(model, x, y, _noise_size(attack)))
        yield from (Check(f"gradient against finite differences, {way}", figure, DISAGREE[way]) for way, figure in found)
    by = [by[i] for i in right] if by else _won_by(attack, model, x, y)
    if isinstance(attack, Suite):
        blind = sum(name in ("square", "rays") for name in by) / len(x)
        yield Check("won by queries without gradients alone", blind, max(SHARE, 1 / len(x)))
    if isinstance(attack, Adaptive):
        x, y, by = x[:PATIENT], y[:PATIENT], by[:PATIENT]
    standing, share = torch.tensor([not name for name in by], device=x.device), max(SHARE, 1 / len(x))
    for name, figure in _rivals(attack, model, x, y, standing):
        yield Check(name, once(name, figure), share)
    if not isinstance(attack, Suite) and not draws_at_random(model):
        silent = partial(_silent, attack, model, x[:WATCHED], y[:WATCHED])
        yield Check("silent success", once("silent success", silent), 0.0)
    for name, figure in _budgets(attack, model, x, y, float(standing.float().mean()), 1 / logits.shape[1]):
        yield Check(name, once(name, figure), share)


def _noise_size(attack: Attack) -> float:
    """The distance in Linf from an image that the attack may reach."""
    norm, eps = attack.budget
    return min(eps, 0.1) if eps is not None and norm == "Linf" else 0.1


def _won_by(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> list[str]:
    if isinstance(attack, Suite):
        return attack.credited(model, x, y).by
    with untouched(model):
        return [attack.name if fell else "" for fell in won(model, attack(model, x, y), y).tolist()]


def _rivals(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, standing: Tensor) -> Iterator[tuple[str, Figure]]:
    """The share of all examples that each rival wins among those still standing."""

    def share(rival: Rival) -> Figure:
        def measured() -> float:
            if not standing.any():
                return 0.0
            with untouched(model):
                found = rival(x[standing], y[standing])
                return float(won(model, found, y[standing]).sum()) / len(x)

        return measured

    yield from ((f"beaten by {name}", share(rival)) for name, rival in _others(attack, model))


def _others(attack: Attack, model: nn.Module) -> Iterator[tuple[str, Rival]]:
    """The rival attacks."""

    if not isinstance(attack, BudgetedAttack):
        return
    norm, eps = attack.norm, attack.eps
    yield "random noise", lambda x, y: _noise(model, x, y, eps, norm)
    if isinstance(attack, Adaptive):
        if attack.effort != "quick":
            yield from _next_effort(attack, model)
        return
    if not isinstance(attack, FGSM):
        yield "one step", lambda x, y: FGSM(eps=eps, norm=norm)(model, x, y)
    if isinstance(steps := getattr(attack, "steps", None), int):
        patient = replace(cast(Any, attack), steps=2 * steps)
        yield "twice the steps", lambda x, y: patient(model, x, y)
    if getattr(attack, "loss", "margin") != "margin":
        yield "the margin loss", lambda x, y: replace(cast(Any, attack), loss="margin")(model, x, y)
    if isinstance(attack, GradientAttack) and attack.draws < (draws := draws_of(model)):
        averaged = replace(attack, draws=draws, early_stop=False)
        yield f"the mean of {draws} draws", lambda x, y: averaged(model, x, y)
    if parts := removable(model):
        yield "replay", _through(attack.for_replay(), model, gradient_choices(model)[0], parts)
    for choice in gradient_choices(model)[1:]:
        yield f"the {choice} gradient", _through(attack, model, choice)
    if not isinstance(attack, Square):
        yield "queries without gradients", lambda x, y: Square(eps=eps, norm=norm, queries=200)(model, x, y)


def _next_effort(attack: Adaptive, model: nn.Module) -> Iterator[tuple[str, Rival]]:
    """What a more patient adaptive attacker would try on the examples still standing."""
    ball: dict[str, Any] = {"eps": attack.eps, "norm": attack.norm}
    if draws_at_random(model):
        ball |= {"draws": 2 * draws_of(model), "early_stop": False}
    strongest, *others = by_strength(model)
    targeted = APGD(**ball, loss="targeted-dlr", targets=3, steps=LATER // 4)
    yield f"targets through the {strongest} gradient", _through(targeted, model, strongest)
    for choice in (strongest, *others):
        more = APGD(**ball, loss="margin", steps=LATER // 2 if choice == strongest else LATER // 4)
        yield f"{more.steps} steps through the {choice} gradient", _through(more, model, choice)
        if choice.endswith("sigmoid"):
            yield f"gates that close, {choice}", _closing(APGD(**ball, loss="margin", steps=LATER), model, choice)


def _closing(attack: APGD, model: nn.Module, choice: str) -> Rival:
    def run(x: Tensor, y: Tensor) -> Tensor:
        with annealed(model, choice, attack.steps) as closing:
            return attack(closing, x, y)

    return run


def _through(attack: Attack, model: nn.Module, choice: str, bypassed: Sequence[Part] = ()) -> Rival:
    def run(x: Tensor, y: Tensor) -> Tensor:
        with gradient(model, choice), bypass(bypassed):
            return attack(model, x, y)

    return run


def _noise(model: Model, x: Tensor, y: Tensor, eps: float, norm: Any, draws: int = 100) -> Tensor:
    """The first of 100 random points of the ball that is misclassified."""
    generator, best = torch.Generator().manual_seed(0), x.clone()
    left = torch.arange(len(x), device=x.device)
    for _ in range(draws):
        candidate = random_start(x, torch.full((len(x),), eps).to(x), norm, generator)
        best[left] = candidate[left]
        left = left[~won(model, best[left], y[left])]
        if not len(left):
            break
    return best


def _difference(model: nn.Module, x: Tensor) -> float:
    with untouched(model):
        first, second = again(model, x), again(model, x)
        return apart(second, first)


def _autograd_calls(model: nn.Module, x: Tensor) -> int:
    with (
        untouched(model),
        patch.object(torch.autograd, "grad", wraps=torch.autograd.grad) as grad,
        patch.object(torch.autograd, "backward", wraps=torch.autograd.backward) as backward,
    ):
        answer(model, x)
    return grad.call_count + backward.call_count


def _vanishing_gradients(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """By place, the share of examples on which max |∇margin| · max |a| is at most a millionth of max |logit|."""
    seen: dict[str, Tensor] = {}

    def keep(part: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(inputs[0], Tensor):
            seen.setdefault(str(part.where), inputs[0])

    handles = [part.register_forward_pre_hook(keep) for part in removable(model)]
    try:
        with untouched(model), torch.enable_grad():
            x = x.clone().requires_grad_()
            places = {"the input": x}
            logits = answer(model, x)
            loss = lead(model, logits, y).sum()
            places |= {f"'{name}'": a for name, a in seen.items()}
            if not loss.requires_grad:
                return dict.fromkeys(places, 1.0)
            gradients = torch.autograd.grad(loss, list(places.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    least = VANISHING * logits.detach().abs().amax(1)

    def share(a: Tensor, g: Tensor) -> float:
        bound = least.repeat_interleave(len(a) // len(least))  # a part may see several variants of each image
        return float((length(g, "Linf") * length(a.detach(), "Linf") <= bound).float().mean())

    return {place: 1.0 if g is None else share(a, g) for (place, a), g in zip(places.items(), gradients, strict=True)}


def _silent(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of examples for which the attack visited an adversarial point inside its ball but returned a harmless one."""
    norm, eps = attack.budget
    met = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for i in range(len(x)):
        one, label = x[i : i + 1], y[i : i + 1]

        def watched(points: Tensor, one: Tensor = one, label: Tensor = label, i: int = i) -> Tensor:
            logits = answer(model, points)
            with torch.no_grad():
                inside = length(points.detach() - one, norm) <= (eps or math.inf) * (1 + 1e-6)
                met[i] |= bool((fooled(model, logits, label.expand(len(logits))) & inside).any())
            return logits

        with untouched(model):
            watched.refuses = refuses(model)  # type: ignore[attr-defined]
            found = attack(watched, one, label)
            met[i] &= not bool(won(model, found, label))
    return float(met.float().mean())


def _budgets(
    attack: Attack, model: nn.Module, x: Tensor, y: Tensor, accuracy: float, chance: float
) -> Iterator[tuple[str, Figure]]:
    """Accuracy at twice the budget, and at a budget that can make any image gray."""

    def gained(eps: float, over: float) -> Figure:
        def measured() -> float:
            effort = {"effort": "quick"} if isinstance(attack, Adaptive) else {}
            larger = replace(cast(Any, attack), eps=eps, **effort)
            with untouched(model):
                return float((~won(model, larger(model, x, y), y)).float().mean()) - over

        return measured

    if isinstance(attack, BudgetedAttack) and not attack.scalable:
        return
    if isinstance(attack, BudgetedAttack):
        boundless = diameter(x, attack.norm) / (1 if refuses(model) else 2)  # refusing a gray image is right
        if 2 * attack.eps <= boundless:
            yield "larger budget", gained(2 * attack.eps, accuracy)
        yield "no bound", gained(max(boundless, attack.eps), chance)
    else:
        yield "no bound", lambda: accuracy - chance
