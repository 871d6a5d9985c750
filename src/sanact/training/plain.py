"""A plain network of the same data, whose examples may transfer to others."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from sanact.data import Data
from sanact.models import load_weights
from sanact.models.plain import PlainCNN
from sanact.training.loop import train
from sanact.training.recipe import Recipe
from sanact.training.trained import save_trained

PASSES = 15_000  # of images through the plain network in training, at least


def plain_network(data: Data, *, seed: int = 0, kept: Path | None = None, progress: bool = False) -> nn.Module:
    """A small undefended network, fitted to training images in about a minute; its examples may transfer to others.

    data: training images.  At most 10,000 are used, or fewer large ones, so that the time stays the same; a twelfth of them
        is held out.
    kept: a file of weights, read if it exists and written if not.
    """
    (first,) = data[:1].batches(1)
    few = min(len(data), max(1000, 10_000 * 28 * 28 // first.x[0, 0].numel()))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PlainCNN(first.x.shape[1], len(data.classes))
    if kept and kept.exists():
        load_weights(model, kept)
        return model.eval()
    held_out, rest = data.sample(few, seed=seed).split_off(max(few // 12, 1), seed=seed)
    epochs = max(5, -(-PASSES // len(rest)))
    recipe = Recipe(epochs=epochs, lr=0.1, batch_size=64, schedule="one-cycle", weight_decay=5e-4, seed=seed)
    train(model, rest, validation=held_out, recipe=recipe, progress=progress)
    if kept:
        save_trained(model, kept, {"model": "a plain network, for examples that transfer", "data": data.name})
    return model
