"""What an attacker differentiates in place of a sanitizer: backward pass differentiable approximation.

The forward pass is always the sanitizer's own.  Paper: Athalye et al. 2018, arXiv:1802.00420.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sanact.checks import Model
from sanact.sanitizers import sanitizers_of

WIDE, NARROW = 0.1, 0.003


def gradient_choices(model: Any) -> list[str]:
    """Ways to differentiate a defended model: "exact", "identity", and the names of its sanitizers' surrogates.

    A model without sanitizers has the exact gradient only.
    """
    sanitizers = sanitizers_of(model)
    named = dict.fromkeys(name for sanitizer in sanitizers for name in sanitizer.surrogates)
    return ["exact", "identity", *named] if sanitizers else ["exact"]


@contextmanager
def gradient(model: Any, choice: str) -> Iterator[None]:
    """Differentiate a defended model in one of these ways for a while; its outputs stay what they are.

    choice: of `gradient_choices`, else ValueError.  A sanitizer that has no surrogate of this name takes its first, and one
    that has none passes gradients as they are.
    """
    if choice not in (choices := gradient_choices(model)):
        raise ValueError(f"gradient must be one of {', '.join(choices)}, got {choice!r}")
    before = {sanitizer: sanitizer.gradient for sanitizer in sanitizers_of(model)}
    try:
        for sanitizer in before:
            own = ("exact", "identity", *sanitizer.surrogates)
            sanitizer.gradient = choice if choice in own else next(iter(sanitizer.surrogates), "identity")
        yield
    finally:
        for sanitizer, was in before.items():
            sanitizer.gradient = was


@contextmanager
def annealed(model: Any, choice: str, steps: int) -> Iterator[Model]:
    """The model with the `gradient` of a choice, its gates closing while it is differentiated ``steps`` times, and then again.

    Their width falls from 0.1 to 0.003 of the largest magnitude: on the way it passes the one that an attack works best with.
    """
    sanitizers, passes = sanitizers_of(model), itertools.count()
    before = [sanitizer.gate_width for sanitizer in sanitizers]

    def closing(x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            share = next(passes) % steps / max(steps - 1, 1)
            for sanitizer in sanitizers:
                sanitizer.gate_width = WIDE * (NARROW / WIDE) ** share
        logits: Tensor = model(x)
        return logits

    try:
        with gradient(model, choice):
            yield closing
    finally:
        for sanitizer, was in zip(sanitizers, before, strict=True):
            sanitizer.gate_width = was
