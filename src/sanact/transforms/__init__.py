"""Operators on the image, before the network."""

from sanact.transforms.base import Transform
from sanact.transforms.bit_depth import BitDepth
from sanact.transforms.pixel_defend import Purification
from sanact.transforms.smoothing import MedianSmoothing, NLMeansSmoothing

TRANSFORMS: dict[str, type[Transform]] = {
    "bit-depth": BitDepth,
    "median-smoothing": MedianSmoothing,
    "nl-means-smoothing": NLMeansSmoothing,
    "pixel-defend": Purification,
}

__all__ = ["TRANSFORMS", "BitDepth", "MedianSmoothing", "NLMeansSmoothing", "Purification", "Transform"]
