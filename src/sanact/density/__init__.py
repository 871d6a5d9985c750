"""A density model of images: how likely an image is, PixelDefend's use of it, and our weights."""

from __future__ import annotations

from pathlib import Path

from sanact.density.p_value import p_values
from sanact.density.pixel_cnn import PixelCNN
from sanact.density.purification import purify
from sanact.models.described import load_described

WEIGHTS = {"mnist": "pixel_cnn_mnist.safetensors", "cifar10": "pixel_cnn_cifar10.safetensors"}

__all__ = ["WEIGHTS", "PixelCNN", "load_density", "p_values", "purify"]


def load_density(name: str | Path) -> PixelCNN:
    """A density model with weights, in evaluation mode; the card in the file says its size.

    name: of the data that ours were trained on, "mnist" or "cifar10", or a file written by ``python -m sanact.density.train``.
    Raises ValueError for another name, and for a file without such a card or with weights that do not fit.
    """
    missing = "how large the density model is; sanact.density.train writes one"
    return load_described(name, WEIGHTS, {"pixel-cnn": PixelCNN}, what="density", missing=missing, where=" (load_density)")
