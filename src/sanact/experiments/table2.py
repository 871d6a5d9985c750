"""Table 2: accuracy of the undefended and the sanitized network under FGSM, C&W and PGD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sanact.attacks import FGSM, PGD
from sanact.evaluation.threat import KNOWLEDGE, usual_eps
from sanact.experiments.setting import Figures, Setting
from sanact.plan import Plan, plan_from_dict
from sanact.report.results import CLEAN, Result, attack_title, results
from sanact.report.tables import Grid, grid

PlanDict = dict[str, dict[str, Any]]

# By data set and sanitizer: the plans that `sanact reproduce plans` chose on validation images.
PLANS: dict[str, dict[str, PlanDict]] = {
    "mnist": {
        "nl-means": {
            "conv1": {"name": "nl-means", "h": 4.0, "window_size": 3},
            "conv2": {"name": "nl-means", "h": 4.0, "window_size": 3},
            "conv4": {"name": "nl-means", "h": 1.0, "window_size": 3},
            "conv5": {"name": "nl-means", "h": 0.5, "window_size": 3},
        },
        "median": {
            "conv1": {"name": "median", "kernel_size": 3},
            "conv4": {"name": "median", "kernel_size": 3},
        },
        "mask": {
            "conv1": {"name": "mask", "strength": 0.3, "reading": "max"},
            "conv2": {"name": "mask", "strength": 0.4, "reading": "max"},
            "conv4": {"name": "mask", "strength": 0.4, "reading": "fixed"},
            "conv5": {"name": "mask", "strength": 0.6, "reading": "fixed"},
            "fc8": {"name": "mask", "strength": 0.0, "reading": "mean_std"},
        },
    },
    "cifar10": {
        "nl-means": {
            "conv1": {"name": "nl-means", "h": 0.5, "window_size": 3},
            "blocks.0.conv2": {"name": "nl-means", "h": 1.0, "window_size": 3},
            "blocks.1.conv2": {"name": "nl-means", "h": 0.25, "window_size": 3},
            "blocks.2.conv1": {"name": "nl-means", "h": 0.5, "window_size": 3},
            "blocks.3.conv2": {"name": "nl-means", "h": 1.0, "window_size": 3},
            "blocks.4.shortcut.0": {"name": "nl-means", "h": 1.0, "window_size": 3},
        },
        "median": {
            "blocks.3.conv2": {"name": "median", "kernel_size": 3},
            "blocks.7.conv2": {"name": "median", "kernel_size": 3},
        },
        "mask": {
            "blocks.0.conv1": {"name": "mask", "strength": 0.4, "reading": "fixed"},
            "blocks.2.shortcut.0": {"name": "mask", "strength": 0.3, "reading": "max"},
            "blocks.4.conv1": {"name": "mask", "strength": 0.4, "reading": "max"},
            "blocks.5.conv1": {"name": "mask", "strength": 0.4, "reading": "max"},
            "blocks.6.shortcut.0": {"name": "mask", "strength": 0.1, "reading": "max"},
            "blocks.7.conv1": {"name": "mask", "strength": 0.5, "reading": "max"},
            "blocks.7.conv2": {"name": "mask", "strength": 0.2, "reading": "max"},
        },
    },
    "tiny-imagenet": {
        "nl-means": {
            "blocks.0.conv1": {"name": "nl-means", "h": 0.5, "window_size": 3},
            "blocks.1.conv2": {"name": "nl-means", "h": 0.5, "window_size": 3},
            "blocks.2.conv1": {"name": "nl-means", "h": 0.5, "window_size": 3},
            "blocks.2.shortcut.0": {"name": "nl-means", "h": 0.5, "window_size": 3},
            "blocks.7.conv2": {"name": "nl-means", "h": 0.5, "window_size": 3},
        },
        "median": {"blocks.7.conv2": {"name": "median", "kernel_size": 7}},
        "mask": {
            "blocks.1.conv1": {"name": "mask", "strength": 0.2, "reading": "fixed"},
            "blocks.2.conv1": {"name": "mask", "strength": 0.1, "reading": "max"},
            "blocks.3.conv1": {"name": "mask", "strength": 1.5, "reading": "mean_std"},
            "blocks.5.conv2": {"name": "mask", "strength": 0.1, "reading": "max"},
            "blocks.6.shortcut.0": {"name": "mask", "strength": 0.6, "reading": "fixed"},
            "blocks.7.conv1": {"name": "mask", "strength": 0.5, "reading": "max"},
            "blocks.7.conv2": {"name": "mask", "strength": 0.0, "reading": "mean_std"},
        },
    },
}
# By data set: published relatives of the mask, on every hidden activation; the paper has no figures for them.
RELATIVES: dict[str, dict[str, PlanDict]] = {
    "mnist": {
        "mean-sparse": {"*": {"name": "mean-sparse", "alpha": 0.5}},
        "k-wta": {"*": {"name": "k-wta", "share": 0.1}},
    },
}


def defenses(data: str) -> list[Plan | None]:
    """None, the sanitizers of the paper with the plans chosen for this data set, and their relatives."""
    return [None, *map(plan_from_dict, (PLANS[data] | RELATIVES.get(data, {})).values())]


def table2(setting: Setting) -> list[Grid]:
    """The paper's table: under the adaptive attacker; white-box; oblivious, with the paper's figures; and at fixed budgets."""
    data, calibrated, source = setting.images("test"), setting.attacks("test"), setting.source
    sweep = [attack(eps=eps) for attack in (FGSM, PGD) for eps in source.sweep]
    clean = setting.images("validation")
    paths = setting.run(
        setting.cells(data, defenses(setting.data), [*calibrated, *sweep], setting.knowledge, calibration=clean)
    )
    found, l2 = results(paths, l2="usual"), usual_eps(setting.data, "L2")
    columns = [CLEAN, *(title for attack in calibrated for title in titles(attack.config, l2))]
    beside = beside_paper(found, source.paper, columns)
    swept = [attack_title(attack.config) for attack in sweep]
    crafted = [known for known in reversed(KNOWLEDGE) if known in setting.knowledge and known != "adaptive"]
    return [
        *([grid(found, "adaptive")] if "adaptive" in setting.knowledge else []),
        *(grid(beside if known == "oblivious" else found, known, columns) for known in crafted),
        *(grid(found, known, swept) for known in crafted),
    ]


def titles(attack: Mapping[str, Any], l2: float) -> list[str]:
    """The titles of an attack's columns; an attack without a budget has a second one, for what it leaves in the L2 ball."""
    return [attack_title(attack)] if "eps" in attack else [attack_title(attack), attack_title(attack, l2=l2)]


def beside_paper(found: list[Result], paper: Figures, columns: list[str]) -> list[Result]:
    """Add the paper's figures to the results of the columns clean, FGSM, C&W without bound, and PGD."""
    theirs = dict(zip((columns[0], columns[1], columns[2], columns[4]), ("clean", "fgsm", "cw", "pgd"), strict=True))
    return [replace(r, paper=paper.get(r.defense, {}).get(theirs.get(r.attack, ""))) for r in found]
