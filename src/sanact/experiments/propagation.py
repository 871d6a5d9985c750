"""The effect of an adversarial example inside the network: the paper's figures 1, 6 and 7, and an attacker who knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sanact.activations import DISTANCES, Recording, distances, record
from sanact.attacks import PGD
from sanact.data import Data
from sanact.evaluation.cell import Cell
from sanact.evaluation.crafted import crafted_examples
from sanact.evaluation.threat import Knowledge, usual_eps
from sanact.experiments.setting import Setting
from sanact.experiments.table2 import PLANS
from sanact.plan import Plan, plan_from_dict, plan_to_dict, sanitize
from sanact.report.inside import INPUT, Strip, as_maps, write_arrays, write_strips
from sanact.report.results import results
from sanact.report.tables import Grid, grid

AGAINST: tuple[Knowledge, ...] = ("adaptive", "oblivious")  # against a sanitized network; oblivious is always included


def fig1(setting: Setting) -> list[Grid]:
    """The hidden activations of a legitimate and an adversarial image of the first class, layer by layer, undefended."""
    return _strips(setting, "fig1", None)


def fig6(setting: Setting) -> list[Grid]:
    """The same on the network with the mask sanitizer."""
    return _strips(setting, "fig6", plan_from_dict(PLANS[setting.data]["mask"]))


def fig7(setting: Setting) -> list[Grid]:
    """The distance of adversarial from legitimate images, layer by layer, before and after sanitizing; and accuracies."""
    data = setting.images("test")
    clean, plans = _images(data), PLANS[setting.data]
    columns: dict[str, list[Any]] = {name: [] for name in ("index", "defense", "examples", "layer", *DISTANCES)}
    paths = []
    for name, plan in ({"none": None} | plans).items():
        defense = plan_from_dict(plan) if plan else None
        cells = _cells(setting, data, defense)
        paths += setting.run(cells, keep=len(data))
        network = _network(setting, defense)
        legitimate = _recorded(network, clean)
        for examples, images in _attacked(setting, cells, clean).items():
            recording = _recorded(network, images)
            away = {kind: distances(legitimate, recording, kind) for kind in DISTANCES}
            for layer in legitimate.after:
                columns["index"] += data.index.tolist()
                for column, word in (("defense", name), ("examples", examples), ("layer", layer)):
                    columns[column] += [word] * len(data)
                for kind in DISTANCES:
                    columns[kind] += away[kind][layer].tolist()
    write_arrays(setting.out / f"fig7-{setting.data}.npz", columns, _facts(setting, data) | {"plans": plans})
    found = results(paths)
    return [grid(found, known) for known in AGAINST if known in (*setting.knowledge, AGAINST[-1])]


def _strips(setting: Setting, name: str, defense: Plan | None) -> list[Grid]:
    test = setting.images("test")
    data = test[np.flatnonzero(test.labels == test.labels.min())[:1]]
    cells = _cells(setting, data, defense)
    setting.run(cells, keep=1)
    network, clean = _network(setting, defense), _images(data)
    legitimate = _recorded(network, clean)
    strips = []
    for title, images in {"legitimate": clean, **_attacked(setting, cells, clean)}.items():
        recording = _recorded(network, images)
        away = {layer: float(value[0]) for layer, value in distances(legitimate, recording).items()}
        with torch.no_grad():
            prediction = data.classes[int(network(images).argmax())]
        strips.append(Strip(title, prediction, _maps(recording, legitimate), away))
    facts = _facts(setting, data) | {"plan": plan_to_dict(defense) if defense else None}
    write_strips(setting.out / f"{name}-{setting.data}.npz", strips, facts)
    return []


def _cells(setting: Setting, data: Data, defense: Plan | None) -> list[Cell]:
    """PGD on the undefended network; or its examples replayed on the sanitized one, and the adaptive attacker's."""
    known: list[Knowledge] = [known for known in reversed(AGAINST) if known in (*setting.knowledge, AGAINST[-1])]
    return setting.cells(data, [defense], [PGD(eps=usual_eps(setting.data))], known if defense else ["white-box"])


def _attacked(setting: Setting, cells: list[Cell], clean: Tensor) -> dict[str, Tensor]:
    """The images after these attacks, by what the attacker knows; and after noise as long as PGD's perturbation."""
    found: dict[str, Tensor] = {cell.knowledge: crafted_examples(cell, setting.out) for cell in cells}
    noisy = noise_like(clean, found[cells[0].knowledge], torch.Generator().manual_seed(setting.seed))
    return {**found, "noise": noisy}


def noise_like(x: Tensor, adversarial: Tensor, generator: torch.Generator) -> Tensor:
    """Images as far from x in L2 as the adversarial ones, in a random direction: x + t s, clipped to [0, 1].

    x, adversarial: (N, C, H, W) in [0, 1].  s: random signs.  t: found by bisection.  If even both extremes of [0, 1] are not
    far enough, the farthest point is taken.
    """
    signs = torch.randint(2, x.shape, generator=generator) * 2.0 - 1
    wanted = (adversarial - x).flatten(1).norm(dim=1)
    low, high = torch.zeros(len(x), 1, 1, 1), torch.ones(len(x), 1, 1, 1)
    for _ in range(30):
        middle = (low + high) / 2
        short = ((x + middle * signs).clamp(0, 1) - x).flatten(1).norm(dim=1) < wanted
        low, high = torch.where(short[:, None, None, None], middle, low), torch.where(short[:, None, None, None], high, middle)
    return (x + low * signs).clamp(0, 1)


def _network(setting: Setting, defense: Plan | None) -> nn.Module:
    return sanitize(setting.model(), defense) if defense else setting.model()


def _recorded(network: nn.Module, x: Tensor) -> Recording:
    """A recording with the images themselves as the first layer, and with pooling layers, which the paper draws."""
    recording, images = record(network, x, pooling=True), {INPUT: x.numpy()}
    return Recording(images | {**recording.before}, images | {**recording.after})


def _maps(recording: Recording, legitimate: Recording) -> dict[str, np.ndarray[Any, Any]]:
    """One feature map per layer, the one most active on the legitimate image; vectors are made as square as possible.

    A colour image keeps all its channels, (H, W, 3).
    """
    maps = {}
    for layer, (activation,) in recording.after.items():
        if layer == INPUT and len(activation) == 3:
            maps[layer] = activation.transpose(1, 2, 0)
            continue
        strongest = np.square(as_maps(legitimate.after[layer][0])).sum((1, 2)).argmax()
        maps[layer] = as_maps(activation)[strongest]
    return maps


def _facts(setting: Setting, data: Data) -> dict[str, Any]:
    return {
        "data": {"name": data.name, "split": data.split, **data.marks, "index": data.index.tolist()},
        "model": setting.source.model,
        "attack": PGD(eps=usual_eps(setting.data)).for_replay().config,
        "effort": setting.effort,
        "seed": setting.seed,
    }


def _images(data: Data) -> Tensor:
    return next(data.batches(len(data))).x
