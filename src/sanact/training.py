"""Training a classifier: one plain loop, seeded, with a card that says how the weights came about."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from sanact.attacks import Attack, BudgetedAttack
from sanact.data import Data, load_data
from sanact.device import pick_device
from sanact.files import replacing
from sanact.graph import input_shape
from sanact.models import build_model
from sanact.progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stochastic gradient descent with Nesterov momentum on the cross-entropy.

    epochs, batch_size: whole numbers ≥ 1.  lr: step size, > 0.  momentum: in [0, 1).  seed: of the fresh weights, the order of
    the examples, and dropout.
    The defaults are those of `train_models.py` in Carlini and Wagner's `nn_robust_attacks` (MNIST).
    Deviation: no time decay of the step size (1e-6 per step there).
    """

    epochs: int = 50
    lr: float = 0.01
    momentum: float = 0.9
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("epochs", "lr", "batch_size"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)} (recipe)")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum} (recipe)")


def train(
    model: nn.Module,
    data: Data,
    *,
    validation: Data,
    recipe: Recipe,
    attack: BudgetedAttack | None = None,
    progress: bool = False,
) -> float:
    """Train ``model`` in place and leave it in evaluation mode; returns its accuracy on ``validation`` in percent.

    attack: train on its examples in place of the images (Madry et al. 2018, arXiv:1706.06083), made against the model in
        evaluation mode; its budget grows from zero to the whole over the first third of the steps.
    The global random state ends as it was found.  Raises ValueError if the loss becomes NaN or infinite.
    """
    if not len(data) or not len(validation):
        raise ValueError(f"training and validation need images, got {len(data)} and {len(validation)} (data '{data.name}')")
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    rng = np.random.default_rng(recipe.seed)
    steps = -(-len(data) // recipe.batch_size)
    score, taken, draws = float("nan"), 0, torch.Generator().manual_seed(recipe.seed)
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        progress_bar("training", recipe.epochs * steps, show=progress) as advance,
    ):
        torch.manual_seed(recipe.seed)
        for epoch in range(1, recipe.epochs + 1):
            model.train()
            for batch in data.batches(recipe.batch_size, order=rng.permutation(len(data))):
                x, y = batch.x.to(device), batch.y.to(device)
                if attack is not None:
                    share = min(1.0, 3 * (taken := taken + 1) / (recipe.epochs * steps))
                    x = attack.for_replay()(model.eval(), x, y, eps=torch.full((len(x),), share * attack.eps), generator=draws)
                    model.train()
                loss = F.cross_entropy(model(x), y)
                if not loss.isfinite():
                    raise ValueError(f"the loss became {loss.item()} in epoch {epoch}; try an lr below {recipe.lr}")
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                advance()
            score = accuracy(model.eval(), validation)
            advance(0, f"training: {score:.2f} % of {len(validation)} held-out images after epoch {epoch}")
    return score


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, *, batch_size: int = 500) -> float:
    """Share of ``data`` that ``model`` classifies correctly, in percent."""
    device = next(model.parameters()).device
    hits = sum(int((model(b.x.to(device)).argmax(1).cpu() == b.y).sum()) for b in data.batches(batch_size))
    return 100 * hits / len(data)


def save_trained(model: nn.Module, path: Path | str, card: Mapping[str, Any]) -> None:
    """Write the weights as safetensors, the card in its header, and the card again beside it for people, as Markdown."""
    path = Path(path)
    with replacing(path) as temporary:
        state = {k: v.cpu().clone(memory_format=torch.contiguous_format) for k, v in model.state_dict().items()}  # also if tied
        save_file(state, temporary, {"card": json.dumps(card)})
    lines = [f"# {path.stem}", "", *(f"- **{key}**: {value}" for key, value in card.items()), ""]
    with replacing(path.with_suffix(".md")) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def train_from_scratch(
    name: str,
    data: str,
    out: Path | str,
    recipe: Recipe,
    *,
    validation: int | None = None,
    attack: Attack | None = None,
    device: str = "auto",
    command: str = "",
    progress: bool = False,
) -> dict[str, str]:
    """Train a network by name on a data set by name, save weights and card to ``out``, and return the card.

    validation: training images held out, with the class shares of the whole; None is a twelfth of them.  attack: see `train`.
    Raises ValueError before any work if ``out`` does not end in ``.safetensors``, by which `load_weights` knows the format.
    """
    if Path(out).suffix != ".safetensors":
        raise ValueError(f"out must be a file that ends in .safetensors, got '{out}'")
    if attack is not None and not isinstance(attack, BudgetedAttack):
        raise ValueError(f"training needs an attack with a budget, got {attack!r}")
    chosen = pick_device(device)
    everything = load_data(data, "train")
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = build_model(name, classes=len(everything.classes)).to(chosen)
    everything = load_data(data, "train", shape=input_shape(model))
    held_out, rest = everything.split_off(validation or max(len(everything) // 12, 1), seed=recipe.seed)
    test = load_data(data, "test", shape=input_shape(model))
    start = time.monotonic()
    score = train(model, rest, validation=held_out, recipe=recipe, attack=attack, progress=progress)
    minutes = (time.monotonic() - start) / 60
    card = {
        "model": f"{name}, {sum(p.numel() for p in model.parameters()):,} parameters",
        "data": f"{data}, {len(rest):,} images of its training split",
        "test accuracy": f"{accuracy(model, test):.2f} % of {len(test):,} images",
        "validation accuracy": f"{score:.2f} % of {len(held_out):,} training images held out",
        **({"trained on": f"examples of {attack!r}, its budget growing over the first third"} if attack else {}),
        "command": command,
        "recipe": ", ".join(f"{key} {value}" for key, value in asdict(recipe).items()),
        "device": f"{chosen}, {torch.get_num_threads()} threads, {minutes:.0f} minutes",
        "versions": f"sanact {version('sanact')}, torch {version('torch')}",
    }
    save_trained(model, out, card)
    return card
