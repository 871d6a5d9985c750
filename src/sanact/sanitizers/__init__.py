"""Operators that clean one hidden activation.  They know tensors, never a model."""

from sanact.parts import bypass
from sanact.sanitizers.ash import ASH
from sanact.sanitizers.base import Sanitizer, sanitizers_of
from sanact.sanitizers.denoise import DenoisingBlock
from sanact.sanitizers.kwta import KWTA
from sanact.sanitizers.mask import Mask
from sanact.sanitizers.mean_sparse import MeanSparse
from sanact.sanitizers.median import MedianFilter
from sanact.sanitizers.nl_means import NonLocalMeans
from sanact.sanitizers.sap import SAP
from sanact.sanitizers.smooth_mask import SmoothMask
from sanact.sanitizers.soft_shrink import SoftShrink

SANITIZERS: dict[str, type[Sanitizer]] = {
    "mask": Mask,
    "median": MedianFilter,
    "nl-means": NonLocalMeans,
    "mean-sparse": MeanSparse,
    "k-wta": KWTA,
    "sap": SAP,
    "ash": ASH,
    "smooth-mask": SmoothMask,
    "soft-shrink": SoftShrink,
    "denoise": DenoisingBlock,
}

__all__ = [
    "ASH",
    "KWTA",
    "SANITIZERS",
    "SAP",
    "DenoisingBlock",
    "Mask",
    "MeanSparse",
    "MedianFilter",
    "NonLocalMeans",
    "Sanitizer",
    "SmoothMask",
    "SoftShrink",
    "bypass",
    "sanitizers_of",
]
