"""Sanitize the hidden activations of a CNN, attack it, and judge honestly what the defense bought."""

from sanact.attacks import ATTACKS, BIM, CW, FGSM, ILCM, MIM, PGD, Attack, RayS
from sanact.plan import SanitizedModel, calibrate, list_layers, load, sanitize
from sanact.sanitizers import SANITIZERS, Mask, MedianFilter, NonLocalMeans, Sanitizer, bypass

__all__ = [
    "ATTACKS",
    "BIM",
    "CW",
    "FGSM",
    "ILCM",
    "MIM",
    "PGD",
    "SANITIZERS",
    "Attack",
    "Mask",
    "MedianFilter",
    "NonLocalMeans",
    "RayS",
    "SanitizedModel",
    "Sanitizer",
    "bypass",
    "calibrate",
    "list_layers",
    "load",
    "sanitize",
]
