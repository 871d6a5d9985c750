"""Latent matching: drive a hidden activation onto that of an image of another class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sanact.attacks import PGD
from sanact.attacks.gradient import Search
from sanact.attacks.projections import Generators
from sanact.checks import Model
from sanact.sanitizers import sanitizers_of


@dataclass(frozen=True, kw_only=True)
class LatentMatching(PGD):
    """PGD on the distance of the last hidden activation to that of a guide, an image that the model puts into another class.

        maximize  -‖ a(x') - a(g) ‖² / ‖ a(g) ‖²

    a is what the last sanitizer passes on, or without one the input of the last linear layer or convolution.
    guides: images, (M, C, H, W); each example takes the one of another class that is nearest by a.
    Paper: Sabour et al. 2016, arXiv:1511.05122; against defenses, Tramèr et al. 2020, arXiv:2002.08347.
    Raises TypeError for a model without layers to look into.
    """

    guides: Tensor = field(repr=False, compare=False)

    def craft(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        with last_hidden(model) as seen:
            rivals = model(self.guides).argmax(1)
            shapes = seen[-1].flatten(1)
            model(x)
            far = torch.cdist(seen[-1].flatten(1), shapes)
            far[y[:, None] == rivals] = torch.inf
            search = Matching(self, model, x, y, eps, y, toward=False)
            search.seen, search.guides = seen, shapes[far.argmin(1)]
            return self.explore(search, generator)


class Matching(Search):
    """seen: the hidden activations of the last pass.  guides: what each example is driven to, (N, F)."""

    seen: list[Tensor]
    guides: Tensor

    def objective(self, logits: Tensor, index: Tensor) -> Tensor:
        here, there = self.seen[-1].flatten(1), self.guides[index]
        return -(here - there).square().sum(1) / there.square().sum(1).clamp_min(torch.finfo(there.dtype).tiny)


@contextmanager
def last_hidden(model: Any) -> Iterator[list[Tensor]]:
    """For the block, a list whose only element is the last hidden activation of the last pass."""
    seen: list[Tensor] = []

    def keep(activation: Tensor) -> None:
        seen[:] = [activation]

    sanitizers = sanitizers_of(model)
    layers = (
        [part for part in model.modules() if isinstance(part, (nn.Linear, nn.Conv2d))] if isinstance(model, nn.Module) else []
    )
    if sanitizers:
        handle = sanitizers[-1].register_forward_hook(lambda module, given, output: keep(output))
    elif layers:
        handle = layers[-1].register_forward_pre_hook(lambda module, given: keep(given[0]))
    else:
        raise TypeError(f"latent matching needs a model with layers to look into, got {type(model).__name__}")
    try:
        yield seen
    finally:
        handle.remove()
