"""What an attacker differentiates in place of a part: backward pass differentiable approximation.

The forward pass is always the part's own.  Paper: Athalye et al. 2018, arXiv:1802.00420.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sanact.checks import Model, refuses
from sanact.parts import parts_of, straight_through
from sanact.preserve import preserved

WIDE, NARROW = 0.1, 0.003


def gradient_choices(model: Any) -> list[str]:
    """Ways to differentiate a defended model: "exact", "identity", and the surrogates of its parts, in this order.

    A model without parts has the exact gradient only.
    """
    named = dict.fromkeys(choice for part in parts_of(model) for choice in part.choices)
    plain = [choice for choice in ("exact", "identity") if choice in named]
    return [*plain, *(choice for choice in named if choice not in plain)] or ["exact"]


@contextmanager
def gradient(model: Any, choice: str) -> Iterator[None]:
    """Differentiate a defended model in this way for the block; its outputs stay the same.

    choice: one of `gradient_choices`, else ValueError.  A part that does not have this choice takes its first surrogate; a part
        without surrogates takes the identity.
    """
    if choice not in (choices := gradient_choices(model)):
        raise ValueError(f"gradient must be one of {', '.join(choices)}, got {choice!r}")
    before = {part: part.gradient for part in parts_of(model)}
    try:
        for part in before:
            part.gradient = choice if choice in part.choices else next(iter(part.surrogates), "identity")
        yield
    finally:
        for part, was in before.items():
            part.gradient = was


@contextmanager
def annealed(model: Any, choice: str, steps: int) -> Iterator[Model]:
    """The model with the `gradient` of a choice, whose gates close while an attack goes on.

    Over ``steps`` gradients their width falls from 0.1 to 0.003 of the largest magnitude, then begins again.  The width that
    works best for an attack is not known beforehand, but this passes it.
    """
    parts, passes = parts_of(model), itertools.count()
    before = [part.gate_width for part in parts]

    def closing(x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            share = next(passes) % steps / max(steps - 1, 1)
            for part in parts:
                part.gate_width = WIDE * (NARROW / WIDE) ** share
        logits: Tensor = model(x)
        return logits

    closing.refuses = refuses(model)  # type: ignore[attr-defined]
    try:
        with gradient(model, choice):
            yield closing
    finally:
        for part, was in zip(parts, before, strict=True):
            part.gate_width = was


@dataclass(frozen=True)
class Blocked:
    """Places that pass no gradient although they keep the shape.

    modules: those whose output has the shape of their input, and whose gradient is zero or missing.
    inner: if the model's own code changes the image so that no gradient reaches it, the first module whose input has the
    image's shape; else None.
    """

    modules: Sequence[nn.Module] = ()
    inner: nn.Module | None = None

    def __bool__(self) -> bool:
        return bool(self.modules) or self.inner is not None


def blocked(model: Any, x: Tensor) -> Blocked:
    """Places of a model, without declared stand-ins, that the identity may replace; found with images x, (N, C, H, W).

    Takes one pass, and a gradient for each module.  A model that fails, or that is only a callable, has no such places.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return Blocked()
    met: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    opened: list[Tensor] = []
    point = x.detach().clone()

    def before(module: nn.Module, given: tuple[Any, ...]) -> None:
        if given and _on_the_way(given[0]) and given[0].is_floating_point() and not given[0].requires_grad:
            opened.append(given[0].requires_grad_())  # so that places behind a blocked one are examined, too

    def after(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if given and _on_the_way(given[0]) and isinstance(output, Tensor) and module is not model:
            met.setdefault(module, (given[0], output))

    declared = {inside for part in parts_of(model) for inside in part.modules()}
    with ExitStack() as stack:
        for part in model.modules():
            if part not in declared:
                stack.callback(part.register_forward_pre_hook(before).remove)
                stack.callback(part.register_forward_hook(after).remove)
        stack.callback(lambda: [given.requires_grad_(False) for given in opened if given.is_leaf])
        stack.enter_context(preserved(model))
        stack.enter_context(torch.enable_grad())
        try:
            model(point)
        except Exception:  # a model may raise any error; the attack itself will report it
            return Blocked()
        same = [part for part, (given, output) in met.items() if given.shape == output.shape and not _passes(given, output)]
        inner = next((part for part, (given, _) in met.items() if given.shape == x.shape), None)
        if inner is None or met[inner][0] is point or _passes(point, met[inner][0]):
            return Blocked(same)
        return Blocked(same, inner)


def _on_the_way(value: Any) -> bool:
    """Whether it is a tensor of the pass itself, not of what the model computes under no_grad or by `torch.func` besides."""
    inside = isinstance(value, Tensor) and torch.is_grad_enabled()
    return inside and not torch._C._functorch.is_functorch_wrapped_tensor(value)


def _passes(start: Tensor, end: Tensor) -> bool:
    """Whether the gradient of ``end`` at ``start`` is anything but zero."""
    if not end.requires_grad:
        return False
    try:
        uneven = torch.linspace(1, 2, end.numel(), dtype=end.dtype, device=end.device).reshape(end.shape)
        (slope,) = torch.autograd.grad((uneven * end).sum(), start, retain_graph=True, allow_unused=True)
    except RuntimeError:  # `start` was changed in place, or is no part of a graph
        return True
    return slope is not None and bool((slope != 0).any())


@contextmanager
def through(model: nn.Module, places: Blocked) -> Iterator[None]:
    """Treat the blocked places as the identity in the backward pass; outputs stay the same."""
    images: list[Tensor] = []

    def enter(module: nn.Module, given: tuple[Any, ...]) -> None:
        images[:] = [given[0]]

    def inside(module: nn.Module, given: tuple[Any, ...]) -> Any:
        if images and _on_the_way(given[0]) and given[0].shape == images[0].shape:
            return (straight_through(images[0], given[0].detach()), *given[1:])
        return None

    def behind(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return straight_through(given[0], output.detach()) if _on_the_way(given[0]) else None

    with ExitStack() as stack:
        for part in places.modules:
            stack.callback(part.register_forward_hook(behind).remove)
        if places.inner is not None:
            stack.callback(model.register_forward_pre_hook(enter).remove)
            stack.callback(places.inner.register_forward_pre_hook(inside).remove)
        yield
