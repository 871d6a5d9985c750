"""Attacks: frozen dataclasses that, called with a model, images and labels, return adversarial examples."""

from sanact.attacks.base import Attack, BudgetedAttack
from sanact.attacks.bim import BIM
from sanact.attacks.cw import CW
from sanact.attacks.fgsm import FGSM
from sanact.attacks.gradient import GradientAttack
from sanact.attacks.ilcm import ILCM
from sanact.attacks.mim import MIM
from sanact.attacks.pgd import PGD
from sanact.attacks.rays import RayS
from sanact.attacks.suite import Suite

ATTACKS: dict[str, type[Attack]] = {
    "fgsm": FGSM,
    "bim": BIM,
    "ilcm": ILCM,
    "mim": MIM,
    "pgd": PGD,
    "cw": CW,
    "rays": RayS,
}

__all__ = ["ATTACKS", "BIM", "CW", "FGSM", "ILCM", "MIM", "PGD", "Attack", "BudgetedAttack", "GradientAttack", "RayS", "Suite"]
