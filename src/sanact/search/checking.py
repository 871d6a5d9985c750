"""What a search is asked for, checked: its arguments, and that its objective can vary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import nn

from sanact.attacks import PGD
from sanact.data import Data
from sanact.device import pick_device
from sanact.engine import WORKERS
from sanact.evaluation.threat import KNOWLEDGE, Effort, usual_eps
from sanact.report.results import CLEAN
from sanact.search.asked import Scanning, Searching
from sanact.search.desk import Desk
from sanact.search.race import Hits
from sanact.values import SEED, Maybe, Number, OneOf, Whole, shown

LEAST = 10  # images to search on


def check_asked(asked: Scanning) -> None:
    """Raise ValueError or TypeError for an argument that cannot be."""
    searching = isinstance(asked, Searching)
    Whole(0 if searching else 1, 100)(asked.levels, "levels", "search" if searching else "sensitivity")
    if isinstance(asked, Searching):
        Maybe(Whole(1, 1_000_000))(asked.trials, "trials", "search")
        Maybe(Number(0, 10_000, open_least=True))(asked.hours, "hours", "search")
        OneOf(get_args(Effort))(asked.judge_effort, "judge_effort", "search")
    for name, kind in (("model", nn.Module), ("data", Data), ("calibration", Data | None)):
        if not isinstance(value := getattr(asked, name), kind):
            raise TypeError(f"{name} must be of type {getattr(kind, '__name__', kind)}, got {shown(value)} (search)")
    OneOf(tuple(KNOWLEDGE))(asked.objective, "objective", "search")
    OneOf(get_args(Effort))(asked.effort, "effort", "search")
    Number(0, 100)(asked.drop, "drop", "search")
    WORKERS(asked.workers, "workers", "search")
    SEED(asked.seed, "seed", "search")
    if len(asked.data) < LEAST:
        raise ValueError(f"a search needs at least {LEAST} images, got {len(asked.data)} (data '{asked.data.name}')")
    pick_device(asked.device)


def usual_attack(model: nn.Module, data: Data) -> PGD:
    """PGD in Linf at the usual budget, or the first of its halves that leaves the undefended model a third of its accuracy."""
    batch, eps = next(data.batches(min(100, len(data)))), usual_eps(data.name)
    clean = float((model(batch.x).argmax(1) == batch.y).float().mean())
    for _ in range(10):
        attack = PGD(eps=eps)
        if float((model(attack(model, batch.x, batch.y)).argmax(1) == batch.y).float().mean()) >= clean / 3:
            return attack
        eps /= 2
    return attack


def undefended_hits(desk: Desk) -> Hits:
    """The hits of the model as it is; ValueError where the objective is the same for whatever plan."""
    hits = desk.submit({}).result().hits
    if not hits[CLEAN].any():
        raise ValueError(f"the model has none of the {len(hits[CLEAN])} images right: there is nothing to defend (search)")
    for name, bits in hits.items():
        if name != CLEAN and (hits[CLEAN] <= bits).all():
            raise ValueError(f"the objective never varies: '{name}' changes no prediction; its budget must be larger (search)")
    return hits


def check_varies(undefended: Hits, found: Sequence[Hits]) -> None:
    """Raise ValueError where nothing withstands an attack, whatever the plan."""
    attacked = [name for name in undefended if name != CLEAN and any(name in hits for hits in found)]
    for name in attacked:
        if not undefended[name].any() and not any(hits[name].any() for hits in found if name in hits):
            plans = sum(name in hits for hits in found)
            raise ValueError(
                f"the objective never varies: no image withstands '{name}', of the undefended model and with {plans} plans; "
                "its budget must be smaller (search)"
            )
