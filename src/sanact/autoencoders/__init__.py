"""MagNet's autoencoders of clean images, and our weights."""

from __future__ import annotations

from pathlib import Path

from sanact.autoencoders.pair import Autoencoder, Pair
from sanact.models.described import load_described

WEIGHTS = {"mnist": "magnet_mnist.safetensors"}

__all__ = ["WEIGHTS", "Autoencoder", "Pair", "load_autoencoders"]


def load_autoencoders(name: str | Path) -> Pair:
    """Both autoencoders with weights, in evaluation mode; the card in the file says their size.

    name: of the data that ours were trained on, "mnist", or a file written by ``python -m sanact.autoencoders.train``.
    Raises ValueError for another name, and for a file without such a card or with weights that do not fit.
    """
    missing = "how large the autoencoders are; sanact.autoencoders.train writes one"
    return load_described(name, WEIGHTS, {"magnet": Pair}, what="autoencoders", missing=missing)
