"""Networks besides the classifier; the card in their file of weights says their kind and size."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import TypeVar

from torch import nn

from sanact.models import load_weights, read_card
from sanact.spec import parse
from sanact.values import meant, shown

Network = TypeVar("Network", bound=nn.Module)


def load_described(
    name: str | Path, ours: Mapping[str, str], kinds: Mapping[str, type[Network]], *, what: str, missing: str, where: str = ""
) -> Network:
    """A network with weights, in evaluation mode.

    name: one of ``ours``, which maps names to our files of weights, or the user's file.  kinds: networks by the name in a card.
    what, where: for messages; missing: the message about a file without a card.
    Raises ValueError for another name, and for a file without a card or with weights that do not fit.
    """
    if isinstance(name, str) and name in ours:
        with as_file(files("sanact.models") / "weights" / ours[name]) as path:
            return _load(path, kinds, what, missing)
    if not isinstance(name, (str, Path)) or not Path(name).is_file():
        raise ValueError(f"{what} must be one of {', '.join(ours)}, or a file, got {shown(name)}{meant(name, ours)}{where}")
    return _load(Path(name), kinds, what, missing)


def _load(path: Path, kinds: Mapping[str, type[Network]], what: str, missing: str) -> Network:
    card = read_card(path)
    if "model" not in card:
        raise ValueError(f"'{path}' has no card that says {missing}")
    network = parse(what, kinds, card["model"])
    load_weights(network, path)
    return network.eval()
