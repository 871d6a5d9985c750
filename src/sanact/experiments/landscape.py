"""The landscape: every defense under the same judge, with what its paper claims and what is left of it."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sanact.attacks import PGD, Attack
from sanact.data import Data
from sanact.defenses import DEFENSES, Defense, Sanitizing, Trained
from sanact.evaluation.threat import KNOWLEDGE
from sanact.experiments.comparison import faced
from sanact.experiments.setting import Setting
from sanact.experiments.table2 import PLANS
from sanact.files import write_text
from sanact.plan import plan_from_dict
from sanact.preserve import preserved
from sanact.report.landscape import FACTS, read_facts
from sanact.report.results import plan_text, results
from sanact.report.tables import Grid, grid

BUDGETS = {"mnist": (0.15, 0.3), "cifar10": (2 / 255, 8 / 255), "tiny-imagenet": (1 / 255, 4 / 255)}  # of the adaptive attacker
COLOUR: dict[str, dict[str, Any]] = {  # for these no weights are shipped yet
    "naive-at": {"eps": 16 / 255},
    "ensemble-at": {"eps": 16 / 255},
    "unified-gradient": {"eps": 0.5},
    "input-gradient": {"strength": 10},
}
# By data set and defense: arguments without a default, or whose default is meant for another data set.
GIVEN: dict[str, dict[str, dict[str, Any]]] = {
    "mnist": {
        "pgd-at": {"eps": 0.3},
        "naive-at": {"eps": 0.3},
        "ensemble-at": {"eps": 0.3},
        "unified-gradient": {"eps": 1.5},
        "input-gradient": {"strength": 10},
        "feature-squeezing": {"bits": 1},
    },
    "cifar10": {
        "pgd-at": {"eps": 8 / 255},
        **COLOUR,
        "pixel-defend": {"eps": 16 / 255, "density": "cifar10"},
        "feature-squeezing": {"bits": 4},
        "lid": {"eps": 8 / 255},
        "region-voting": {"eps": 0.02},
        "deep-cloak": {"eps": 8 / 255},
        "filter-statistics": {"eps": 8 / 255},
        "odds": {"noise": 0.03},
    },
    "tiny-imagenet": {
        "pgd-at": {"eps": 4 / 255},
        **COLOUR,
        "pixel-defend": {"eps": 16 / 255, "density": "cifar10"},
        "feature-squeezing": {"bits": 5},
        "lid": {"eps": 4 / 255},
        "region-voting": {"eps": 0.02},
        "deep-cloak": {"eps": 4 / 255},
        "filter-statistics": {"eps": 4 / 255},
        "odds": {"noise": 0.03},
    },
}
MORE: dict[str, dict[str, dict[str, Any]]] = {
    "mnist": {"thermometer": {"eps": 0.3, "steps": 5}}
}  # a second row, trained differently
LEARNT = 1000  # clean images that defenses learn from, however few are judged
REPEATS, TIMED = 5, 20  # timing of a defense: passes, and images in each


def defenses(data: str) -> Iterator[Defense]:
    """The sanitizers with the plans of Table 2, then all in DEFENSES; those that can refuse or answer come twice."""
    for plan in PLANS[data].values():
        yield Sanitizing(plan=plan_from_dict(plan))
    for name, kind in DEFENSES.items():
        usual = kind(**GIVEN[data].get(name, {}))
        yield usual
        if more := MORE.get(data, {}).get(name):
            yield replace(usual, **more)
        for other in ("detect", "correct"):
            if usual.config.get(other) is False:
                yield replace(usual, **{other: True})


def landscape(setting: Setting) -> list[Grid]:
    """Each defense under FGSM, C&W and PGD, replayed and white-box, and the adaptive attacker at two budgets and in L2.

    Facts that are not in rows go to landscape-DATA.json: paper, claim, kind, overhead, hours of training.  A defense that
    cannot be made for this network, for example without weights, is left out, and the same file says why.
    """
    model, path = setting.model(), setting.out / FACTS.format(setting.data)
    clean = replace(setting, examples=LEARNT).images("validation")
    facts: dict[str, Any] = read_facts(path) if path.is_file() else {}
    made: list[Defense | None] = [None]
    left_out: dict[str, str] = {}
    for defense in defenses(setting.data):
        key = plan_text(defense.config)
        try:
            known = facts.get(key) or _facts(defense, model, clean)
        except ValueError as error:
            left_out[key] = str(error)
            continue
        facts[key] = known
        made.append(defense)
    facts["left out"] = left_out
    write_text(path, json.dumps(facts, indent=2) + "\n")
    adaptive: list[Attack] = [*(PGD(eps=eps) for eps in BUDGETS[setting.data]), setting.source.cw]
    found = results(setting.run(faced(setting, made, adaptive, clean)), l2="usual")
    return [grid(found, one) for one in reversed(KNOWLEDGE) if one in setting.knowledge]


def _facts(defense: Defense, model: nn.Module, clean: Data) -> dict[str, Any]:
    """The facts about a defense that are not in its rows."""
    defended = defense(model, clean if defense.needs_data else None)
    x = next(clean.batches(TIMED)).x
    return {
        "name": defense.name,
        "paper": cited(defense.card.paper),
        "claim": defense.card.claim,
        "claimed": dict(defense.card.claimed),
        "kind": defense.kind,
        "overhead": overhead(model, defended, x),
        "training": defense.training if isinstance(defense, Trained) else "",
    }


def overhead(model: nn.Module, defended: nn.Module, x: Tensor) -> float:
    """The duration of a pass relative to the undefended model's; medians of interleaved passes."""
    took: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(REPEATS):
        for which, network in enumerate((model, defended)):
            with preserved(network), torch.no_grad():
                start = time.perf_counter()
                network(x)
                took[which].append(time.perf_counter() - start)
    return statistics.median(took[1]) / statistics.median(took[0])


def cited(paper: str) -> str:
    """First author and year: ``Song 2018``."""
    found = re.match(r"([^\s,]+).*?((?:19|20)\d\d)", paper)
    return f"{found[1]} {found[2]}" if found else paper
