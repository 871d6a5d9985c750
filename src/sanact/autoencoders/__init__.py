"""What MagNet makes of an image by autoencoders of clean ones, and our weights."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from sanact.autoencoders.pair import Autoencoder, Pair
from sanact.models import load_weights, read_card
from sanact.spec import parse
from sanact.values import meant, shown

WEIGHTS = {"mnist": "magnet_mnist.safetensors"}

__all__ = ["WEIGHTS", "Autoencoder", "Pair", "load_autoencoders"]


def load_autoencoders(name: str | Path) -> Pair:
    """Both autoencoders with weights, in evaluation mode; their size is what the card in the file says.

    name: of the data that ours were trained on, "mnist", or a file that ``python -m sanact.autoencoders.train`` wrote.
    Raises ValueError for another name, and for a file without such a card or with weights that do not fit.
    """
    if isinstance(name, str) and name in WEIGHTS:
        with as_file(files("sanact.models") / "weights" / WEIGHTS[name]) as path:
            return _load(path)
    if not isinstance(name, (str, Path)) or not Path(name).is_file():
        known = ", ".join(WEIGHTS)
        raise ValueError(f"autoencoders must be one of {known}, or a file, got {shown(name)}{meant(name, WEIGHTS)}")
    return _load(Path(name))


def _load(path: Path) -> Pair:
    card = read_card(path)
    if "model" not in card:
        raise ValueError(f"'{path}' has no card that says how large the autoencoders are; sanact.autoencoders.train writes one")
    pair = parse("autoencoders", {"magnet": Pair}, card["model"])
    load_weights(pair, path)
    return pair.eval()
