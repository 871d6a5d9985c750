"""How likely an image is: a density model over its pixels, what PixelDefend does with it, and our weights."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from sanact.density.p_value import p_values
from sanact.density.pixel_cnn import PixelCNN
from sanact.density.purification import purify
from sanact.models import load_weights, read_card
from sanact.spec import parse
from sanact.values import meant, shown

WEIGHTS = {"mnist": "pixel_cnn_mnist.safetensors", "cifar10": "pixel_cnn_cifar10.safetensors"}

__all__ = ["WEIGHTS", "PixelCNN", "load_density", "p_values", "purify"]


def load_density(name: str | Path) -> PixelCNN:
    """A density model with weights, in evaluation mode; its size is what the card in the file says.

    name: of the data that ours were trained on, "mnist" or "cifar10", or a file that ``python -m sanact.density.train`` wrote.
    Raises ValueError for another name, and for a file without such a card or with weights that do not fit.
    """
    if isinstance(name, str) and name in WEIGHTS:
        with as_file(files("sanact.models") / "weights" / WEIGHTS[name]) as path:
            return _load(path)
    if not isinstance(name, (str, Path)) or not Path(name).is_file():
        known = ", ".join(WEIGHTS)
        raise ValueError(f"density must be one of {known}, or a file, got {shown(name)}{meant(name, WEIGHTS)} (load_density)")
    return _load(Path(name))


def _load(path: Path) -> PixelCNN:
    card = read_card(path)
    if "model" not in card:
        raise ValueError(f"'{path}' has no card that says how large the density model is; sanact.density.train writes one")
    model = parse("density model", {"pixel-cnn": PixelCNN}, card["model"])
    load_weights(model, path)
    return model.eval()
