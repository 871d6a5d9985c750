"""AutoAttack beside the original, at the original's steps: what each leaves of the same images, seed by seed, and its time.

The original is taken where it is installed (github.com/fra31/auto-attack; it is in no package index); elsewhere its copy in
torchattacks.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn

from benchmarks.inputs import images
from benchmarks.measure import Job, Options, Race, Row
from sanact import AutoAttack
from sanact.models import load_model

# weights, and a budget that some examples withstand
NETWORKS = {"undefended": (None, 0.15), "trained on PGD's examples": ("mnist-pgd", 0.36)}
SEEDS = (0, 1)
SHARE = 2  # times as many images as the other sections take


def races(options: Options) -> list[Race]:
    batch = next(images(SHARE * options.examples).batches(SHARE * options.examples))
    work = {"steps": 5, "queries": 20} if options.quick else {"steps": 100, "queries": 5000}
    found = []
    for title, (weights, eps) in NETWORKS.items():
        model = load_model("mnist-cnn", weights=weights).requires_grad_(False)
        for seed in SEEDS[:1] if options.quick else SEEDS:
            ours = partial(_ours, AutoAttack(eps=eps, **work), model, seed)
            name, theirs = _theirs(model, eps, seed, **work)
            found.append(
                Race(
                    table="autoattack",
                    facts={"network": title, "eps": eps, "seed": seed, "examples": len(batch.x), **work},
                    column="library",
                    jobs={"sanact": Job(ours, (batch.x, batch.y)), name: Job(theirs, (batch.x, batch.y))},
                    rounds=1,
                    describe=partial(_judged, model, eps, batch.x, batch.y),
                )
            )
    return found


def _theirs(model: nn.Module, eps: float, seed: int, steps: int, queries: int) -> tuple[str, Any]:
    """The opponent by name, and its call, at so many steps and queries."""
    if find_spec("autoattack"):
        original = import_module("autoattack").AutoAttack(model, eps=eps, seed=seed, verbose=False, device="cpu")
        for part in (original.apgd, original.apgd_targeted, original.fab):
            part.n_iter = steps
        original.square.n_queries = queries
        return "original", lambda x, y: original.run_standard_evaluation(x, y, bs=len(x))
    copied = torchattacks.AutoAttack(model, eps=eps, seed=seed)
    *gradients, square = copied._autoattack.attacks
    for part in gradients:
        part.steps = steps
    square.n_queries = queries
    return "torchattacks", copied


def _ours(attack: AutoAttack, model: nn.Module, seed: int, x: Tensor, y: Tensor) -> Tensor:
    return attack(model, x, y, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def _judged(model: nn.Module, eps: float, x: Tensor, y: Tensor, name: str, adversarial: Tensor) -> Row:
    """One that left the ball or [0, 1] has won nothing."""
    inside = ((adversarial - x).abs() <= eps * (1 + 1e-4)).flatten(1).all(1)
    inside &= ((adversarial >= 0) & (adversarial <= 1)).flatten(1).all(1)
    right = torch.where(inside, model(adversarial).argmax(1), model(x).argmax(1)) == y
    return {"clean": int((model(x).argmax(1) == y).sum()), "left": int(right.sum())}
