"""Figures 3, 4 and 5: the sanitizers next to PGD-based adversarial training, PixelDefend and feature squeezing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from sanact.attacks import Attack
from sanact.data import Data
from sanact.defenses import Defense, FeatureSqueezing, PGDAdversarialTraining, PixelDefend, Sanitizing
from sanact.evaluation.cell import Cell
from sanact.evaluation.threat import KNOWLEDGE, usual_eps
from sanact.experiments.setting import Figures, Setting
from sanact.experiments.table2 import PLANS, titles
from sanact.plan import plan_from_dict
from sanact.report.results import CLEAN, Result, attack_title, results
from sanact.report.tables import Grid, grid

DATA = {"fig3": "mnist", "fig4": "cifar10", "fig5": "tiny-imagenet"}
ON_ITSELF = ("none", "pgd-at")  # defenses whose figures in the paper are white-box
PATIENT = 100  # images for the adaptive attacker, at most
SLOW = ("pixel-defend", "region-voting", "smoothing")  # defenses with a slow pass
SLOW_MANY, SLOW_FEW = 200, 20  # images for these: to replay, and to attack
NAMES = {
    "none": "none",
    "mask": "mask",
    "median": "median",
    "nl-means": "non-local means",
    "pgd-at": "PGD training",
    "pixel-defend": "PixelDefend",
    "feature-squeezing": "feature squeezing",
}
# The figures that the paper's text gives for figure 3; those for figures 4 and 5 are lost.
PAPER: dict[str, Figures] = {
    "mnist": {
        "pgd-at": {"fgsm": 87.62, "cw": 3.86, "pgd": 89.60},
        "pixel-defend": {"fgsm": 73.40, "cw": 85.49, "pgd": 75.74},
        "feature-squeezing": {"fgsm": 28.42, "cw": 75.25, "pgd": 25.39},
    }
}
TRAINED = {"mnist": 0.3, "cifar10": 8 / 255, "tiny-imagenet": 4 / 255}  # eps of adversarial training
REACH = {  # for PixelDefend: eps, and the density model; CIFAR-10's is also used for 64x64 images
    "mnist": (0.3, "mnist"),
    "cifar10": (16 / 255, "cifar10"),
    "tiny-imagenet": (16 / 255, "cifar10"),
}
BITS = {"mnist": 1, "cifar10": 4, "tiny-imagenet": 5}  # as in Xu et al. 2018 for these sets and ImageNet


def defenses(data: str) -> list[Defense | None]:
    """None, the sanitizers with the plans of Table 2, and the three defenses that the paper compares them with."""
    return [
        None,
        *(Sanitizing(plan=plan_from_dict(PLANS[data][name])) for name in ("mask", "median", "nl-means")),
        PGDAdversarialTraining(eps=TRAINED[data]),
        PixelDefend(eps=REACH[data][0], density=REACH[data][1]),
        FeatureSqueezing(bits=BITS[data]),
    ]


def comparison(setting: Setting) -> list[Grid]:
    """Each attack oblivious or white-box as in the paper, white-box, and the adaptive attacker at each budget.

    For defenses with a slow pass, white-box C&W, which takes the most passes, is left out, and the adaptive attacker is run at
    PGD's budget alone.
    """
    found = results(setting.run(faced(setting, defenses(setting.data))), l2="usual")
    attacks, paper = setting.attacks("test"), setting.source.paper | PAPER.get(setting.data, {})
    beside = [_beside(result, attacks, paper) for result in found]
    columns = [CLEAN, *(title for attack in attacks for title in titles(attack.config, usual_eps(setting.data, "L2")))]
    known = [one for one in reversed(KNOWLEDGE) if one in setting.knowledge]
    return [grid(beside, one, columns if one != "adaptive" else ()) for one in known]


def faced(
    setting: Setting,
    defenses: Iterable[Defense | None],
    adaptive: Sequence[Attack] | None = None,
    clean: Data | None = None,
) -> Iterator[Cell]:
    """The cells of each defense: replayed and white-box FGSM, C&W and PGD, and the adaptive attacker.

    adaptive: attacks whose balls the adaptive attacker gets; None takes those of the three attacks.
    clean: what defenses learn from; None takes as many validation images as are judged.
    Defenses with a slow pass get fewer images and attacks, see `comparison`.
    """
    whole, clean = setting.images("test"), clean or setting.images("validation")
    fgsm, cw, pgd = setting.attacks("test")
    for defense in defenses:
        slow = defense is not None and defense.name in SLOW
        for known in setting.knowledge:
            if defense is None and known == "oblivious" and "white-box" in setting.knowledge:
                continue  # it would be the same cell
            few = known == "adaptive" or (slow and known == "white-box")
            count = (SLOW_FEW if few else SLOW_MANY) if slow else (PATIENT if few else len(whole))
            images = whole.at_most(count, seed=setting.seed)
            attacks = {"white-box": [fgsm, pgd], "adaptive": [pgd]}.get(known, [fgsm, cw, pgd]) if slow else [fgsm, cw, pgd]
            if known == "adaptive" and adaptive is not None:
                attacks = list(adaptive[:1] if slow else adaptive)
            yield from setting.cells(images, [defense], attacks, [known], calibration=clean)


def _beside(result: Result, attacks: list[Attack], paper: Figures) -> Result:
    """The result with the paper's figure, which is of replayed examples, or of its own for an adversarially trained network."""
    measured = "white-box" if result.defense in ON_ITSELF else "oblivious"
    names = {attack_title(attack.config): attack.name for attack in attacks} | {CLEAN: CLEAN}
    if result.knowledge not in (measured, "") or result.attack not in names:
        return result
    return replace(result, paper=paper.get(result.defense, {}).get(names[result.attack]))
