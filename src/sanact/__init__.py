"""Sanitize the hidden activations of a CNN, attack it, and judge honestly what the defense bought."""

from sanact.activations import Recording, distances, record
from sanact.attacks import APGD, ATTACKS, BIM, CW, FAB, FGSM, ILCM, MIM, PGD, Attack, AutoAttack, RayS, Square
from sanact.defenses import FeatureSqueezing, PGDAdversarialTraining, PixelDefend, defend
from sanact.parts import stand_in
from sanact.plan import SanitizedModel, calibrate, list_layers, load, sanitize
from sanact.sanitizers import ASH, KWTA, SANITIZERS, SAP, Mask, MeanSparse, MedianFilter, NonLocalMeans, Sanitizer, bypass
from sanact.search import search, sensitivity

__all__ = [
    "APGD",
    "ASH",
    "ATTACKS",
    "BIM",
    "CW",
    "FAB",
    "FGSM",
    "FeatureSqueezing",
    "ILCM",
    "KWTA",
    "MIM",
    "PGD",
    "PGDAdversarialTraining",
    "PixelDefend",
    "SANITIZERS",
    "SAP",
    "Attack",
    "AutoAttack",
    "Mask",
    "MeanSparse",
    "MedianFilter",
    "NonLocalMeans",
    "RayS",
    "Recording",
    "SanitizedModel",
    "Sanitizer",
    "Square",
    "bypass",
    "calibrate",
    "defend",
    "distances",
    "list_layers",
    "load",
    "record",
    "sanitize",
    "search",
    "sensitivity",
    "stand_in",
]
