"""Sanitize the hidden activations of a CNN, attack it, and judge honestly what the defense bought."""

from sanact.attacks import APGD, ATTACKS, BIM, CW, FAB, FGSM, ILCM, MIM, PGD, Attack, AutoAttack, Square
from sanact.plan import SanitizedModel, calibrate, list_layers, load, sanitize
from sanact.sanitizers import SANITIZERS, Mask, MedianFilter, NonLocalMeans, Sanitizer, bypass

__all__ = [
    "APGD",
    "ATTACKS",
    "BIM",
    "CW",
    "FAB",
    "FGSM",
    "ILCM",
    "MIM",
    "PGD",
    "SANITIZERS",
    "Attack",
    "AutoAttack",
    "Mask",
    "MedianFilter",
    "NonLocalMeans",
    "SanitizedModel",
    "Sanitizer",
    "Square",
    "bypass",
    "calibrate",
    "list_layers",
    "load",
    "sanitize",
]
