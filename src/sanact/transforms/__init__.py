"""Operators on the image, before the network."""

from sanact.transforms.base import Transform
from sanact.transforms.bit_depth import BitDepth
from sanact.transforms.crop_rescale import CropRescale
from sanact.transforms.jpeg import JPEG
from sanact.transforms.pixel_defend import Purification
from sanact.transforms.quilting import Quilting
from sanact.transforms.reformer import Reformer
from sanact.transforms.resize_pad import RandomResizePad
from sanact.transforms.smoothing import MedianSmoothing, NLMeansSmoothing
from sanact.transforms.sparse_fourier import SparseFourier
from sanact.transforms.thermometer import ThermometerEncoding
from sanact.transforms.total_variation import TVMinimization

TRANSFORMS: dict[str, type[Transform]] = {
    "bit-depth": BitDepth,
    "median-smoothing": MedianSmoothing,
    "nl-means-smoothing": NLMeansSmoothing,
    "pixel-defend": Purification,
    "reformer": Reformer,
    "random-resize-pad": RandomResizePad,
    "jpeg": JPEG,
    "tv-minimization": TVMinimization,
    "quilting": Quilting,
    "crop-rescale": CropRescale,
    "sparse-fourier": SparseFourier,
    "thermometer": ThermometerEncoding,
}

__all__ = [
    "JPEG",
    "TRANSFORMS",
    "BitDepth",
    "CropRescale",
    "MedianSmoothing",
    "NLMeansSmoothing",
    "Purification",
    "Quilting",
    "RandomResizePad",
    "Reformer",
    "SparseFourier",
    "ThermometerEncoding",
    "TVMinimization",
    "Transform",
]
