"""The linear layer that makes a network's logits, and replacing it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sanact.graph import find_layers, trace


def head_of(network: nn.Module, example: Tensor | None = None) -> tuple[str, nn.Linear]:
    """The linear layer that makes the logits, with its name; ValueError if there is not exactly one.

    example: an image, (1, C, H, W), for a network whose input shape cannot be found out.
    """
    outputs = [layer for layer in find_layers(trace(network, example)) if layer.place is None]
    head = network.get_submodule(outputs[0].name) if len(outputs) == 1 else None
    if not isinstance(head, nn.Linear):
        came = ", ".join(f"{layer.name} ({layer.type})" for layer in outputs) or "none"
        raise ValueError(f"the logits must come from one linear layer, got {came} ({type(network).__name__})")
    return outputs[0].name, head


def with_head(network: nn.Module, name: str, outputs: int, seed: int = 0) -> nn.Module:
    """The network with a fresh linear layer of this many outputs in place of the one with this name."""
    before = network.get_submodule(name)
    assert isinstance(before, nn.Linear)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network.set_submodule(name, nn.Linear(before.in_features, outputs))
    return network.to(before.weight)
