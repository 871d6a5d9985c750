"""Latent matching: drive a hidden activation onto that of an image of another class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sanact.attacks import PGD
from sanact.attacks.base import untouched
from sanact.attacks.gradient import Search
from sanact.attacks.projections import Generators
from sanact.checks import Model, logits_of
from sanact.sanitizers import sanitizers_of


@dataclass(frozen=True, kw_only=True)
class LatentMatching(PGD):
    """PGD that moves the last hidden activation towards that of a guide, an image that the model puts into another class.

        maximize  -‖ a(x') - a(g) ‖² / ‖ a(g) ‖²

    a is the output of the last sanitizer to run or, without sanitizers, the input of the last linear layer or convolution.
    guides: images, (M, C, H, W); each example takes the guide of another class that is nearest in a.
    Paper: Sabour et al. 2016, arXiv:1511.05122; against defenses, Tramèr et al. 2020, arXiv:2002.08347.
    Raises TypeError for a model without accessible layers; `has_hidden` tells so in advance.
    """

    guides: Tensor = field(repr=False, compare=False)

    def craft(
        self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators, start: Tensor | None = None
    ) -> Tensor:
        with last_hidden(model) as seen:
            rivals, shapes = _look(model, self.guides, seen, self)
            _, hidden = _look(model, x, seen, self)
            far = torch.cdist(hidden, shapes)
            far[y[:, None] == rivals] = torch.inf
            search = Matching(self, model, x, y, eps, y, toward=False)
            search.seen, search.guides = seen, shapes[far.argmin(1)]
            self.explore(search, generator, start)
            return search.best


class Matching(Search):
    """seen: the hidden activations of the last pass.  guides: the target activation of each example, (N, F)."""

    seen: list[Tensor]
    guides: Tensor

    def objective(self, logits: Tensor, index: Tensor) -> Tensor:
        here, there = self.seen[-1].flatten(1), self.guides[index]
        return -(here - there).square().sum(1) / there.square().sum(1).clamp_min(torch.finfo(there.dtype).tiny)


def has_hidden(model: Any, x: Tensor) -> bool:
    """Whether latent matching works on the model: one pass over a few images (N, C, H, W) must show an activation of each."""
    try:
        with untouched(model), last_hidden(model) as seen:
            _look(model, x, seen, "latent matching")
    except TypeError:
        return False
    return True


def _look(model: Model, x: Tensor, seen: list[Tensor], where: object) -> tuple[Tensor, Tensor]:
    """The predicted classes, (N,), and the last hidden activations, (N, F)."""
    seen.clear()
    classes = logits_of(model, x, torch.zeros(len(x), dtype=torch.long, device=x.device), where).argmax(1)
    if not seen or len(seen[-1]) != len(x):
        came = f"one of {tuple(seen[-1].shape)} for {len(x)} images" if seen else "none: no layer of it ran"
        raise TypeError(f"latent matching needs a hidden activation of each image, got {came} ({where})")
    return classes, seen[-1].flatten(1)


@contextmanager
def last_hidden(model: Any) -> Iterator[list[Tensor]]:
    """For the block, a list whose only element is the last hidden activation of the last pass, once one has run."""
    seen: list[Tensor] = []

    def keep(activation: object = None) -> None:
        if isinstance(activation, Tensor):
            seen[:] = [activation]

    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    sanitizers = sanitizers_of(model)
    layers = [part for part in parts if isinstance(part, (nn.Linear, nn.Conv2d))]
    if not (sanitizers or layers):
        raise TypeError(f"latent matching needs a model with layers to look into, got {type(model).__name__}")
    with ExitStack() as hooks:  # on all of them: only a pass shows which run, and which runs last
        for part in sanitizers:
            hooks.callback(part.register_forward_hook(lambda module, given, output: keep(output)).remove)
        for layer in [] if sanitizers else layers:
            hooks.callback(layer.register_forward_pre_hook(lambda module, given: keep(*given[:1])).remove)
        yield seen
