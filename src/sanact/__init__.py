"""Sanitize the hidden activations of a CNN, attack it, and judge honestly what the defense bought."""

from sanact.attacks import ATTACKS, BIM, CW, FGSM, ILCM, MIM, PGD, Attack
from sanact.plan import SanitizedModel, calibrate, list_layers, load, sanitize
from sanact.sanitizers import ASH, KWTA, SANITIZERS, SAP, Mask, MeanSparse, MedianFilter, NonLocalMeans, Sanitizer, bypass

__all__ = [
    "ASH",
    "ATTACKS",
    "BIM",
    "CW",
    "FGSM",
    "ILCM",
    "KWTA",
    "MIM",
    "PGD",
    "SANITIZERS",
    "SAP",
    "Attack",
    "Mask",
    "MeanSparse",
    "MedianFilter",
    "NonLocalMeans",
    "SanitizedModel",
    "Sanitizer",
    "bypass",
    "calibrate",
    "list_layers",
    "load",
    "sanitize",
]
