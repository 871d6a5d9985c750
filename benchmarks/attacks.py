"""Each attack beside the same attack of foolbox, torchattacks, ART and adv_lib: same budget, steps, batch and network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from math import inf
from types import ModuleType
from typing import Any

import foolbox
import torch
import torchattacks
from art.attacks import evasion as art
from art.estimators.classification import PyTorchClassifier
from foolbox import attacks as fb
from torch import Tensor, nn

from benchmarks.inputs import network, victims
from benchmarks.measure import Job, Options, Race, Row
from sanact import APGD, BIM, CW, FGSM, ILCM, MIM, PGD, Attack, AutoAttack
from sanact.attacks.projections import l2_norm

LINF, L2 = 0.15, 2.0  # budgets on MNIST that some examples withstand
TARGETS = 9  # classes that the targeted attacks aim at, one after the other
LADDER = (5, 10, 25, 50, 100)  # steps at which success is compared
WHOLE_BATCH = 1_000_000  # ART splits what it is given

Craft = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Contest:
    """libraries: model, steps → the attack of each library, as its documentation calls it, ours first.

    steps: in all, those of every search included.  eps: None has no budget.  share: of the examples, where a step costs much.
    """

    steps: int
    libraries: Callable[[nn.Module, int], dict[str, Craft]]
    norm: str = "Linf"
    eps: float | None = LINF
    share: float = 1.0
    frozen: bool = True


def fgsm(model: nn.Module, steps: int) -> dict[str, Craft]:
    return {
        **ours(model, FGSM(eps=LINF)),
        "foolbox": on_foolbox(model, fb.LinfFastGradientAttack(), LINF),
        "torchattacks": torchattacks.FGSM(model, eps=LINF),
        "ART": on_art(model, art.FastGradientMethod, eps=LINF),
    }


def bim(model: nn.Module, steps: int) -> dict[str, Craft]:
    size = LINF / steps
    return {
        **ours(model, BIM(eps=LINF, steps=steps, step_size=size)),
        "foolbox": on_foolbox(model, fb.LinfBasicIterativeAttack(steps=steps, abs_stepsize=size), LINF),
        "torchattacks": torchattacks.BIM(model, eps=LINF, alpha=size, steps=steps),
        "ART": on_art(model, art.BasicIterativeMethod, eps=LINF, eps_step=size, max_iter=steps, verbose=False),
    }


def ilcm(model: nn.Module, steps: int) -> dict[str, Craft]:
    size = LINF / steps
    least_likely = torchattacks.BIM(model, eps=LINF, alpha=size, steps=steps)
    least_likely.set_mode_targeted_least_likely(quiet=True)
    return {**ours(model, ILCM(eps=LINF, steps=steps, step_size=size)), "torchattacks": least_likely}


def mim(model: nn.Module, steps: int) -> dict[str, Craft]:
    size = LINF / steps
    momentum = fb.LinfMomentumIterativeFastGradientMethod(steps=steps, abs_stepsize=size)
    return {
        **ours(model, MIM(eps=LINF, steps=steps, step_size=size)),
        "foolbox": on_foolbox(model, momentum, LINF),
        "torchattacks": torchattacks.MIFGSM(model, eps=LINF, alpha=size, steps=steps, decay=1.0),
        "ART": on_art(model, art.MomentumIterativeMethod, eps=LINF, eps_step=size, max_iter=steps, verbose=False),
    }


def pgd(model: nn.Module, steps: int) -> dict[str, Craft]:
    size = 2.5 * LINF / steps
    setting = {"eps": LINF, "eps_step": size, "max_iter": steps, "num_random_init": 1, "verbose": False}
    return {
        **ours(model, PGD(eps=LINF, steps=steps, step_size=size)),
        "foolbox": on_foolbox(model, fb.LinfProjectedGradientDescentAttack(steps=steps, abs_stepsize=size), LINF),
        "torchattacks": torchattacks.PGD(model, eps=LINF, alpha=size, steps=steps),
        "ART": on_art(model, art.ProjectedGradientDescent, **setting),
    }


def pgd_l2(model: nn.Module, steps: int) -> dict[str, Craft]:
    size = 2.5 * L2 / steps
    setting = {"norm": 2, "eps": L2, "eps_step": size, "max_iter": steps, "num_random_init": 1, "verbose": False}
    return {
        **ours(model, PGD(eps=L2, norm="L2", steps=steps, step_size=size)),
        "foolbox": on_foolbox(model, fb.L2ProjectedGradientDescentAttack(steps=steps, abs_stepsize=size), L2),
        "torchattacks": torchattacks.PGDL2(model, eps=L2, alpha=size, steps=steps),
        "ART": on_art(model, art.ProjectedGradientDescent, **setting),
    }


def cw_fixed(model: nn.Module, steps: int) -> dict[str, Craft]:
    """One run of Adam with c = 1: all that torchattacks does."""
    setting = {"binary_search_steps": 1, "max_iter": steps, "initial_const": 1.0, "learning_rate": 0.01, "verbose": False}
    return {
        "sanact": partial(CW(search_steps=1, steps=steps, initial_c=1.0, abort_early=False), model),
        "foolbox": on_foolbox(model, _foolbox_cw(1, steps, abort_early=False), None),
        "torchattacks": torchattacks.CW(model, c=1, steps=steps, lr=0.01),
        "ART": on_art(model, art.CarliniL2Method, **setting),
    }


def cw_search(model: nn.Module, steps: int) -> dict[str, Craft]:
    """Two runs, the second with another c for each example; without and with aborting runs that get nowhere."""
    runs, steps = 2, steps // 2
    return {
        "sanact": partial(CW(search_steps=runs, steps=steps, initial_c=1.0, abort_early=False), model),
        "sanact, stopping early": partial(CW(search_steps=runs, steps=steps, initial_c=1.0), model),
        "foolbox": on_foolbox(model, _foolbox_cw(runs, steps, abort_early=False), None),
        "foolbox, stopping early": on_foolbox(model, _foolbox_cw(runs, steps, abort_early=True), None),
    }


def apgd(model: nn.Module, steps: int) -> dict[str, Craft]:
    return {
        **ours(model, APGD(eps=LINF, steps=steps)),
        "torchattacks": torchattacks.APGD(model, eps=LINF, steps=steps),
        "adv_lib": on_adv_lib(model, "apgd", n_iter=steps, loss_function="ce", best_loss=True),
        "adv_lib, stopping early": on_adv_lib(model, "apgd", n_iter=steps, loss_function="ce"),
    }


def apgd_t(model: nn.Module, steps: int) -> dict[str, Craft]:
    steps //= TARGETS
    return {
        **ours(model, APGD(eps=LINF, steps=steps, loss="targeted-dlr", targets=TARGETS)),
        "torchattacks": torchattacks.APGDT(model, eps=LINF, steps=steps, n_classes=TARGETS + 1),
        "adv_lib, stopping early": on_adv_lib(model, "apgd_targeted", n_iter=steps, num_targets=TARGETS),
    }


def autoattack(model: nn.Module, steps: int) -> dict[str, Craft]:
    """Of the steps, 100 are APGD's, 900 targeted APGD's and FAB's each, and 5,000 Square's queries."""
    steps, queries = max(steps // 69, 1), 50 * steps // 69
    theirs = torchattacks.AutoAttack(model, eps=LINF)
    *gradients, square = theirs._autoattack.attacks
    for part in gradients:
        part.steps = steps
    square.n_queries = queries
    return {
        "sanact, stopping early": partial(AutoAttack(eps=LINF, steps=steps, queries=queries), model),
        "torchattacks": theirs,
    }


CONTESTS: dict[str, Contest] = {
    "FGSM": Contest(1, fgsm),
    "BIM": Contest(10, bim),
    "ILCM": Contest(10, ilcm),
    "MIM": Contest(10, mim),
    "PGD Linf": Contest(40, pgd),
    "PGD Linf, weights not frozen": Contest(40, pgd, frozen=False),
    "PGD L2": Contest(40, pgd_l2, norm="L2", eps=L2),
    "APGD Linf": Contest(100, apgd, share=0.3),
    "APGD Linf, targeted": Contest(100 * TARGETS, apgd_t, share=0.1),
    "AutoAttack Linf": Contest(6900, autoattack, share=0.1),
    "C&W L2, c = 1": Contest(200, cw_fixed, norm="L2", eps=None, share=0.1),
    "C&W L2, c searched": Contest(1000, cw_search, norm="L2", eps=None, share=0.1),
}


def races(options: Options) -> list[Race]:
    x, y = victims(options.examples)
    ladder = [
        _race("success", title, Contest(steps, libraries, share=0.3), x, y, options)
        for title, libraries in {"PGD Linf": pgd, "APGD Linf": apgd}.items()
        for steps in (LADDER[:2] if options.quick else LADDER)
    ]
    return [*(_race("attacks", title, contest, x, y, options) for title, contest in CONTESTS.items()), *ladder]


def _race(table: str, title: str, contest: Contest, x: Tensor, y: Tensor, options: Options) -> Race:
    model = network(frozen=contest.frozen)
    steps = max(contest.steps // 10, 2) if options.quick and contest.steps > max(LADDER) // 10 else contest.steps
    count = max(round(contest.share * len(x)), 2)
    x, y = x[:count], y[:count]
    return Race(
        table=table,
        facts={"attack": title, "examples": len(x), "steps": steps},
        column="library",
        jobs={name: Job(_counted(model, craft), (x, y)) for name, craft in contest.libraries(model, steps).items()},
        rounds=options.rounds if contest.eps is not None else min(options.rounds, 3),
        describe=lambda name, result: _judged(model, contest, x, y, *result),
    )


def ours(model: nn.Module, attack: Attack) -> dict[str, Craft]:
    return {"sanact": partial(attack.for_replay(), model), "sanact, stopping early": partial(attack, model)}


def on_foolbox(model: nn.Module, attack: Any, eps: float | None) -> Craft:
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")

    def craft(x: Tensor, y: Tensor) -> Tensor:
        clipped: Tensor = attack(bounded, x, foolbox.Misclassification(y), epsilons=eps)[1]
        return clipped

    return craft


def on_art(model: nn.Module, attack: Any, **setting: Any) -> Craft:
    classifier = PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=(1, 28, 28), nb_classes=10, clip_values=(0, 1), device_type="cpu"
    )
    made = attack(classifier, batch_size=WHOLE_BATCH, **setting)
    return lambda x, y: torch.from_numpy(made.generate(x.numpy(), y.numpy()))


def on_adv_lib(model: nn.Module, attack: str, **setting: Any) -> Craft:
    sys.modules.setdefault("visdom", ModuleType("visdom"))  # adv_lib imports it to plot; it does not build any more
    found = getattr(import_module("adv_lib.attacks.auto_pgd"), attack)
    return lambda x, y: found(model, x, y, eps=LINF, norm=inf, **setting)


def _foolbox_cw(runs: int, steps: int, *, abort_early: bool) -> Any:
    return fb.L2CarliniWagnerAttack(
        binary_search_steps=runs, steps=steps, stepsize=0.01, initial_const=1.0, abort_early=abort_early
    )


def _counted(model: nn.Module, craft: Craft) -> Callable[[Tensor, Tensor], tuple[Tensor, Row]]:
    """The attack, and how many forward and backward passes an example cost: nobody gains by doing less."""

    def run(x: Tensor, y: Tensor) -> tuple[Tensor, Row]:
        passes = {"forward": 0, "backward": 0}

        def count_backward(gradient: Tensor) -> None:
            passes["backward"] += len(gradient)

        def count_forward(module: nn.Module, inputs: Any, logits: Tensor) -> None:
            passes["forward"] += len(logits)
            if logits.requires_grad:
                logits.register_hook(count_backward)

        handle = model.register_forward_hook(count_forward)
        try:
            adversarial = craft(x, y)
        finally:
            handle.remove()
        return adversarial, {kind: count / len(x) for kind, count in passes.items()}

    return run


@torch.no_grad()
def _judged(model: nn.Module, contest: Contest, x: Tensor, y: Tensor, adversarial: Tensor, passes: Row) -> Row:
    """Predicted again: misclassified, inside [0, 1] and the budget, and not the black image foolbox returns for a failure."""
    delta = adversarial - x
    size = delta.flatten(1).abs().amax(1) if contest.norm == "Linf" else l2_norm(delta)
    won = (model(adversarial).argmax(1) != y) & adversarial.flatten(1).any(1)
    won &= ((adversarial >= 0) & (adversarial <= 1)).flatten(1).all(1)
    if contest.eps is not None:
        return {**passes, "won": int((won & (size <= contest.eps * (1 + 1e-4))).sum())}
    l2 = [float(s) if w else None for s, w in zip(size, won, strict=True)]
    return {**passes, "won": int(won.sum()), "l2": l2}
