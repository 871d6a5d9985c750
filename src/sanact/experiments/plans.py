"""Which layers to sanitize, and how strongly: each sanitizer's best plan against replayed examples, on validation images."""

from __future__ import annotations

import itertools
from math import inf
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from sanact.data import Data
from sanact.device import pick_device
from sanact.evaluation.judge import crafted_examples
from sanact.experiments.setting import Setting
from sanact.files import replacing
from sanact.plan import plan_to_dict, sanitize
from sanact.progress import progress_bar
from sanact.report.tables import Grid, grid, plan_text, results
from sanact.sanitizers import Mask, MedianFilter, NonLocalMeans, Sanitizer
from sanact.training import accuracy

OPTIONS: dict[str, list[Sanitizer]] = {
    "nl-means": [NonLocalMeans(h, window_size=3) for h in (0.25, 0.5, 1.0, 2.0, 4.0)],
    "median": [MedianFilter(3), MedianFilter(5), MedianFilter(7)],
    "mask": [
        *(Mask(tenths / 10, "max") for tenths in range(1, 7)),
        *(Mask(fifths / 5, "fixed") for fifths in range(1, 6)),
        *(Mask(halves / 2, "mean_std") for halves in range(4)),
    ],
}

Choice = dict[str, Sanitizer]  # by layer


class Score(Protocol):
    def __call__(self, plan: Choice, beat: float = -inf) -> float:
        """How good a plan is; one that is no better than ``beat`` need not be looked at to the end, and has -inf."""


def plans(setting: Setting) -> list[Grid]:
    """Climb to the plan whose smallest lead over the paper's figures is largest.

    Each option is first tried on each layer alone.  From the best of these, every change of one layer, to another option or to
    none, is tried, the best first, and each that gains is kept; and so again, until a whole round gains nothing.
    A plan that costs more clean accuracy than the paper's mask loses three points for each point more.
    The table shows what was chosen, and the file `plans.txt` has it as the command line takes it.  Beside it, every plan that
    was tried, with its score: a search that was interrupted goes on from there.
    """
    data, attacks = setting.images("validation"), setting.attacks("validation")
    undefended = setting.cells(data, [None], attacks)
    setting.run(undefended)
    images = [next(data.batches(len(data))).x, *(crafted_examples(cell, setting.out) for cell in undefended)]
    layers = _activations(setting.model())
    chosen = {}
    for name, options in OPTIONS.items():
        score = _scores(setting, images, torch.from_numpy(data.labels), name)
        known = setting.out / f"tried-{name}-{undefended[-1].slug}.txt"
        chosen[name] = _climb(_remembered(score, known), layers, options, setting.progress)
    paths = setting.run(setting.cells(data, [None, *chosen.values()], attacks))
    with replacing(setting.out / "plans.txt") as temporary:
        temporary.write_text("".join(f"{plan_text(plan_to_dict(plan))}\n" for plan in chosen.values()), encoding="utf-8")
    return [grid(results(paths, l2="usual"), "oblivious")]


def _activations(model: nn.Module) -> list[str]:
    """A layer for each hidden activation; where several end in one, as beside a shortcut, a plan can name but one of them."""
    return list(sanitize(model, Mask()).sanitizers)


def _climb(score: Score, layers: list[str], options: list[Sanitizer], show: bool) -> Choice:
    title, singles = f"choosing {options[0].name}", list(itertools.product(layers, options))
    ranked: list[tuple[float, str, Sanitizer | None]] = []
    with progress_bar(title, len(singles), show=show) as advance:
        for layer, option in singles:
            ranked.append((score({layer: option}), layer, option))
            advance()
    ranked.sort(key=lambda change: -change[0])
    best: Choice = {}
    highest = -inf
    ranked += [(-inf, layer, None) for layer in layers]
    gained = True
    while gained:
        gained = False
        with progress_bar(title, len(ranked), show=show) as advance:
            for _, where, new in ranked:
                changed = {**best, where: new}
                plan = {layer: part for layer in layers if (part := changed.get(layer)) is not None}
                if plan not in ({}, best) and (value := score(plan, highest)) > highest:
                    best, highest, gained = plan, value, True
                advance(1, f"{title}, best so far {highest:.2f}")
    return best


def _remembered(score: Score, path: Path) -> Score:
    """The same, with what it found in a file, a line a plan, so that no plan is scored twice, while ``beat`` only grows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = {plan: float(value) for value, _, plan in (line.partition(" ") for line in lines if line.endswith(";"))}

    def remembered(plan: Choice, beat: float = -inf) -> float:
        text = f"{plan_text(plan_to_dict(plan))};"
        if text not in found:
            found[text] = score(plan, beat)
            if found[text] > -inf:
                with path.open("a", encoding="utf-8") as file:
                    file.write(f"\n{found[text]:.4f} {text}")  # the break first: it ends a line that was cut off
        return found[text]

    return remembered


def _scores(setting: Setting, images: list[Tensor], y: Tensor, name: str) -> Score:
    """How a plan fares: its smallest lead over what it aims at, and a little of the mean; clean accuracy first.

    images: legitimate, and adversarial as FGSM, C&W and PGD make them, (N, C, H, W) each.
    """
    model = setting.model().to(pick_device(setting.device))
    clean, *adversarial = (Data.from_tensors(x, y) for x in images)
    undefended = accuracy(model, clean, batch_size=setting.batch_size)
    aims = setting.source.aims(name, undefended)

    def score(plan: Choice, beat: float = -inf) -> float:
        network = sanitize(model, plan)
        fine = 3 * max(0.0, undefended - setting.source.drop - accuracy(network, clean, batch_size=setting.batch_size))
        leads = [100 - aim for aim in aims]  # at most
        for which in reversed(range(len(aims))):  # PGD, which most plans fall to, first
            leads[which] = accuracy(network, adversarial[which], batch_size=setting.batch_size) - aims[which]
            most = min(leads) + 0.05 * sum(leads) / len(leads) - fine
            if most <= beat:
                return -inf
        return most

    return score
