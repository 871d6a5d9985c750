"""Operators that clean one hidden activation; they know tensors, never a model."""

from sanact.sanitizers.base import Sanitizer, bypass
from sanact.sanitizers.mask import Mask
from sanact.sanitizers.median import MedianFilter
from sanact.sanitizers.nl_means import NonLocalMeans

SANITIZERS: dict[str, type[Sanitizer]] = {
    "mask": Mask,
    "median": MedianFilter,
    "nl-means": NonLocalMeans,
}

__all__ = ["SANITIZERS", "Mask", "MedianFilter", "NonLocalMeans", "Sanitizer", "bypass"]
