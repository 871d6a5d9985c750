"""Which layers to sanitize, and how strongly: each sanitizer's best plan against replayed examples, on validation images."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from math import inf

import torch
from torch import Tensor, nn

from sanact.device import pick_device
from sanact.evaluation.judge import crafted_examples
from sanact.experiments.setting import Setting
from sanact.files import replacing
from sanact.plan import list_layers, plan_to_dict, sanitize
from sanact.progress import progress_bar
from sanact.report.tables import Grid, grid, plan_text, results
from sanact.sanitizers import Mask, MedianFilter, NonLocalMeans, Sanitizer

OPTIONS: dict[str, list[Sanitizer]] = {
    "nl-means": [NonLocalMeans(h, window_size=3) for h in (0.25, 0.5, 1.0, 2.0, 4.0)],
    "median": [MedianFilter(3), MedianFilter(5), MedianFilter(7)],
    "mask": [
        *(Mask(tenths / 10, "max") for tenths in range(1, 7)),
        *(Mask(fifths / 5, "fixed") for fifths in range(1, 6)),
        *(Mask(halves / 2, "mean_std") for halves in range(4)),
    ],
}
DROP = 2.41  # points of clean accuracy that the paper's mask costs on MNIST

Choice = dict[str, Sanitizer]
Change = dict[str, Sanitizer | None]  # by layer; None takes its sanitizer away


def plans(setting: Setting) -> list[Grid]:
    """Climb to the plan whose smallest lead over the paper's figures is largest.

    From the undefended network, each step changes one layer, to another option or to none: the change that gains most, until
    none gains.  A plan that is still below the paper then has two layers changed at once, to the first pair that gains, and
    climbs on from there.  A plan that costs more than 2.41 points of clean accuracy loses three points for each one more.
    The table shows what was chosen, and the file `plans.txt` has it as the command line takes it.
    """
    data, attacks, source = setting.images("validation"), setting.attacks("validation"), setting.source
    undefended = setting.cells(data, [None], attacks)
    setting.run(undefended)
    images = [next(data.batches(len(data))).x, *(crafted_examples(cell, setting.out) for cell in undefended)]
    layers = [layer.name for layer in list_layers(setting.model()) if layer.hidden]
    chosen = {}
    for name, options in OPTIONS.items():
        scores = _scores(setting, images, torch.from_numpy(data.labels), source.paper[name][1:])
        chosen[name] = _climb(scores, layers, options, setting.progress)
    paths = setting.run(setting.cells(data, [None, *chosen.values()], attacks))
    with replacing(setting.out / "plans.txt") as temporary:
        temporary.write_text("".join(f"{plan_text(plan_to_dict(plan))}\n" for plan in chosen.values()), encoding="utf-8")
    return [grid(results(paths, l2=source.l2), "oblivious")]


def _climb(score: Callable[[Choice], float], layers: list[str], options: list[Sanitizer], show: bool) -> Choice:
    singles = list(itertools.product(layers, (None, *options)))
    pairs = [pair for pair in itertools.combinations(singles, 2) if pair[0][0] != pair[1][0]]
    random.Random(0).shuffle(pairs)
    best: Choice = {}
    highest = -inf

    def step(changes: Iterable[Change], *, first: bool) -> bool:
        """Take the change that gains most, or the first that gains; False if none does."""
        nonlocal best, highest
        start, before, title = best, highest, f"choosing {options[0].name}"
        plans = [plan for change in changes if (plan := _with(start, change, layers)) not in ({}, start)]
        with progress_bar(title, len(plans), show=show) as advance:
            for plan in plans:
                if first and highest > before:
                    break
                if (found := score(plan)) > highest:
                    best, highest = plan, found
                advance(1, f"{title}, best so far {highest:.2f}")
        return highest > before

    while step(({layer: option} for layer, option in singles), first=False) or (
        highest < 0 and step(map(dict, pairs), first=True)
    ):
        pass
    return best


def _with(plan: Choice, change: Change, layers: list[str]) -> Choice:
    changed = plan | change
    return {layer: sanitizer for layer in layers if (sanitizer := changed.get(layer)) is not None}


def _scores(setting: Setting, images: list[Tensor], y: Tensor, paper: tuple[float, ...]) -> Callable[[Choice], float]:
    """How a plan fares: its smallest lead over the paper, and a little of the mean; clean accuracy first."""
    model, device = setting.model(), pick_device(setting.device)

    @torch.no_grad()
    def accuracies(network: nn.Module) -> list[float]:
        network.to(device)
        return [
            100 * sum(int((network(part.to(device)).argmax(1).cpu() == label).sum()) for part, label in batches) / len(y)
            for batches in (
                zip(torch.split(x, setting.batch_size), torch.split(y, setting.batch_size), strict=True) for x in images
            )
        ]

    undefended = accuracies(model)[0]

    def score(plan: Choice) -> float:
        clean, *attacked = accuracies(sanitize(model, plan))
        leads = [accuracy - figure for accuracy, figure in zip(attacked, paper, strict=True)]
        return min(leads) + 0.05 * sum(leads) / len(leads) - 3 * max(0.0, undefended - DROP - clean)

    return score
