"""The end of a network: the linear layer that makes its logits, and others in its place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sanact.graph import find_layers, trace


def head_of(network: nn.Module, example: Tensor | None = None) -> str:
    """The name of the linear layer that makes the logits; ValueError where it is not one alone, or none.

    example: an image, (1, C, H, W), for a network whose shape of images cannot be found out.
    """
    outputs = [layer for layer in find_layers(trace(network, example)) if layer.place is None]
    if len(outputs) != 1 or not isinstance(network.get_submodule(outputs[0].name), nn.Linear):
        came = ", ".join(f"{layer.name} ({layer.type})" for layer in outputs) or "none"
        raise ValueError(f"the logits must come from one linear layer, got {came} ({type(network).__name__})")
    return outputs[0].name


def with_outputs(network: nn.Module, name: str, count: int, seed: int = 0) -> nn.Module:
    """The network with a fresh linear layer of this name, of so many outputs."""
    before = network.get_submodule(name)
    assert isinstance(before, nn.Linear)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network.set_submodule(name, nn.Linear(before.in_features, count))
    return network.to(before.weight)
