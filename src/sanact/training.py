"""Training a classifier: one plain loop, seeded, with a card that says how the weights came about."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sanact.data import Data
from sanact.progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stochastic gradient descent with Nesterov momentum on the cross-entropy.

    epochs, batch_size: whole numbers ≥ 1.  lr: step size > 0.  seed: of the order of the examples and of dropout.
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
                raise ValueError(f"{field} must be positive, got {getattr(self, field)} (Recipe)")


class Trained(NamedTuple):
    """What the training came to: accuracy on the validation data in percent, and the time in seconds."""

    accuracy: float
    seconds: float


def train(model: nn.Module, data: Data, *, validation: Data, recipe: Recipe | None = None, progress: bool = False) -> Trained:
    """Train ``model`` in place and leave it in evaluation mode.

    The global random state ends as it was found.
    """
    recipe = recipe or Recipe()
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum, nesterov=True)
    rng = np.random.default_rng(recipe.seed)
    steps = -(-len(data) // recipe.batch_size)
    start, score = time.monotonic(), float("nan")
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        progress_bar("training", recipe.epochs * steps, show=progress) as advance,
    ):
        torch.manual_seed(recipe.seed)
        for epoch in range(recipe.epochs):
            model.train()
            for batch in data.batches(recipe.batch_size, order=rng.permutation(len(data))):
                loss = F.cross_entropy(model(batch.x.to(device)), batch.y.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                advance()
            score = accuracy(model.eval(), validation)
            advance(0, f"training, epoch {epoch + 1}: {score:.2f} % on {len(validation)} held-out images")
    return Trained(score, time.monotonic() - start)


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, *, batch_size: int = 500) -> float:
    """Share of ``data`` that ``model`` classifies correctly, in percent."""
    device = next(model.parameters()).device
    hits = sum(int((model(b.x.to(device)).argmax(1).cpu() == b.y).sum()) for b in data.batches(batch_size))
    return 100 * hits / len(data)


def describe(recipe: Recipe) -> dict[str, str]:
    return {key: str(value) for key, value in asdict(recipe).items()}
