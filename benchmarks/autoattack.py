"""AutoAttack beside that of torchattacks, as both come: what each leaves of the same images, seed by seed."""

from __future__ import annotations

from functools import partial

import torch
import torchattacks
from torch import Tensor, nn

from benchmarks.inputs import images
from benchmarks.measure import Job, Options, Race, Row
from sanact import AutoAttack
from sanact.models import load_model

# weights, and a budget that some examples withstand
NETWORKS = {"undefended": (None, 0.18), "trained on PGD's examples": ("mnist-pgd", 0.38)}
SEEDS = (0, 1)
SHARE = 10  # times as many images as the other sections take


def races(options: Options) -> list[Race]:
    batch = next(images(SHARE * options.examples).batches(SHARE * options.examples))
    short = {"steps": 5, "queries": 20} if options.quick else {}
    found = []
    for title, (weights, eps) in NETWORKS.items():
        model = load_model("mnist-cnn", weights=weights).requires_grad_(False)
        for seed in SEEDS[:1] if options.quick else SEEDS:
            ours = partial(_ours, AutoAttack(eps=eps, **short), model, seed)
            theirs = torchattacks.AutoAttack(model, eps=eps, seed=seed)
            found.append(
                Race(
                    table="autoattack",
                    facts={"network": title, "eps": eps, "seed": seed, "examples": len(batch.x)},
                    column="library",
                    jobs={"sanact": Job(ours, (batch.x, batch.y)), "torchattacks": Job(theirs, (batch.x, batch.y))},
                    rounds=1,
                    describe=partial(_judged, model, eps, batch.x, batch.y),
                )
            )
    return found


def _ours(attack: AutoAttack, model: nn.Module, seed: int, x: Tensor, y: Tensor) -> Tensor:
    return attack(model, x, y, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def _judged(model: nn.Module, eps: float, x: Tensor, y: Tensor, name: str, adversarial: Tensor) -> Row:
    """One that left the ball or [0, 1] has won nothing."""
    inside = ((adversarial - x).abs() <= eps * (1 + 1e-4)).flatten(1).all(1)
    inside &= ((adversarial >= 0) & (adversarial <= 1)).flatten(1).all(1)
    right = torch.where(inside, model(adversarial).argmax(1), model(x).argmax(1)) == y
    return {"clean": int((model(x).argmax(1) == y).sum()), "left": int(right.sum())}
