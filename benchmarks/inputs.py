"""What is attacked and sanitized: MNIST-CNN, test images, and the hidden activations it has on them."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.data import Data, load_data
from sanact.data.loading import FOLDER
from sanact.models import load_model


def network(*, frozen: bool = True) -> nn.Module:
    """MNIST-CNN with our weights.  frozen: no library computes gradients of the weights."""
    return load_model("mnist-cnn").requires_grad_(not frozen)


def images(examples: int, split: str = "test") -> Data:
    """MNIST images where SANACT_DATA has them, else the bundled digits, repeated as often as needed."""
    name = "mnist" if (Path(os.environ.get(FOLDER, "")) / "mnist").is_dir() else "digits"
    data = load_data(name, split)
    if examples <= len(data):
        return data.sample(examples)
    batch = next(data.batches(len(data)))
    places = torch.arange(examples) % len(data)
    return Data.from_tensors(batch.x[places], batch.y[places], name=name)


def victims(examples: int) -> tuple[Tensor, Tensor]:
    """Images that the network classifies correctly, and their labels."""
    batch = next(images(2 * examples).batches(2 * examples))
    with torch.no_grad():
        right = torch.nonzero(network()(batch.x).argmax(1) == batch.y)[:examples, 0]
    return batch.x[right], batch.y[right]


@torch.no_grad()
def activations(examples: int) -> dict[str, Tensor]:
    """Of conv1, (N, 32, 26, 26), and conv5, (N, 64, 8, 8), after the nonlinearity; in the memory format torch gives them."""
    model = network()
    seen: dict[str, Tensor] = {}
    for name in ("conv1", "conv5"):
        layer = model.get_submodule(name)
        layer.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: F.relu(output)}))
    model(next(images(examples).batches(examples)).x)
    return seen
