"""Attacks: frozen dataclasses.  Called with a model, images and labels, they return adversarial examples."""

from sanact.attacks.apgd import APGD
from sanact.attacks.autoattack import AutoAttack
from sanact.attacks.base import Attack, BudgetedAttack
from sanact.attacks.bim import BIM
from sanact.attacks.cw import CW
from sanact.attacks.fab import FAB
from sanact.attacks.fgsm import FGSM
from sanact.attacks.gradient import GradientAttack
from sanact.attacks.ilcm import ILCM
from sanact.attacks.mim import MIM
from sanact.attacks.own import as_attack, own_attack
from sanact.attacks.pgd import PGD
from sanact.attacks.rays import RayS
from sanact.attacks.square import Square
from sanact.attacks.suite import Suite

REVISION = 2  # part of every result's key; raised when an attack finds other examples than before

ATTACKS: dict[str, type[Attack]] = {
    "fgsm": FGSM,
    "bim": BIM,
    "ilcm": ILCM,
    "mim": MIM,
    "pgd": PGD,
    "cw": CW,
    "apgd": APGD,
    "square": Square,
    "fab": FAB,
    "rays": RayS,
    "autoattack": AutoAttack,
}

__all__ = [
    "APGD",
    "ATTACKS",
    "REVISION",
    "BIM",
    "CW",
    "FAB",
    "FGSM",
    "ILCM",
    "MIM",
    "PGD",
    "Attack",
    "AutoAttack",
    "BudgetedAttack",
    "GradientAttack",
    "RayS",
    "Square",
    "Suite",
    "as_attack",
    "own_attack",
]
