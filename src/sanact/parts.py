"""Modules that an attacker may differentiate through something else: the base of sanitizers and transforms, and a stand-in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn


class Part(nn.Module):
    """A module whose gradient an attacker may choose.

    where: its place in the network, for messages.
    kind: what messages call it.
    bypassed: return the input; see `bypass`.
    removable: whether it can be bypassed.  Without its removable parts, a network is the undefended one.
    randomized: whether it draws random numbers; see `rewind`.
    averaged: how many draws one answer is the mean of.
    gradient: what the backward pass differentiates, one of `choices`; see `sanact.gradients`.
    gate_width: how gradually a surrogate's gate opens, as a share of the largest magnitude; see `sanact.gradients.annealed`.
    faithful: names of surrogates with the same output as the part itself; only their gradient differs.
    Where autograd cannot differentiate the part, the backward pass raises an error; it never returns a silent zero.
    """

    kind: ClassVar[str] = "part"
    where: str = ""
    bypassed: bool = False
    removable: bool = True
    randomized: bool = False
    averaged: int = 1
    gradient: str = "exact"
    gate_width: float = 0.03
    faithful: frozenset[str] = frozenset()

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Smooth functions that an attacker may differentiate instead, by name."""
        return {}

    @property
    def choices(self) -> tuple[str, ...]:
        """The gradients that an attacker can choose from."""
        return ("exact", "identity", *self.surrogates)

    def rewind(self) -> None:
        """Begin the random draws again, as a new copy would.  A part that draws none does nothing."""

    @property
    def needs_data(self) -> bool:
        """Whether it must see clean data before it is used."""
        return False

    @property
    def untrained(self) -> bool:
        """Whether its strengths should be learned but still have their initial values, which nobody chose."""
        return False

    @property
    def monotone(self) -> bool:
        """Whether each output rises (or stays) where the input rises; then a box maps to the box between two outputs."""
        return False

    def bounds(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """A box that holds the output for any input between low and high; ValueError where no bounds are known."""
        if self.bypassed or self.monotone:
            return self(low), self(high)
        raise ValueError(f"no bounds are known of {self}")

    def calibrate(self, clean: Iterable[Tensor]) -> None:
        """Learn from clean data: batches of what `forward` takes.  Does nothing for a part that needs no data."""

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make this part again, and its name."""
        return {"name": self.name} | {name: self._argument(name) for name in _arguments(type(self))}

    def _argument(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise TypeError(
                f"every argument of __init__ must be an attribute of the same name, '{name}' is not ({type(self).__name__})"
            ) from None

    @property
    def name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value!r}" for key, value in self.config.items() if key != "name")

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'" + (f" on '{self.where}'" if self.where else "")

    def differentiable(self, function: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
        """``function`` applied to a, with the chosen gradient."""
        if not (torch.is_grad_enabled() and a.requires_grad):
            return function(a)
        if self.gradient == "exact":
            clean = function(a)
            return clean if clean.requires_grad else _NoGradient.apply(a, clean, str(self))
        stand_in = a if self.gradient == "identity" else self.surrogates[self.gradient](a)
        if self.gradient in self.faithful:
            return stand_in
        with torch.no_grad():
            clean = function(a)
        if stand_in.shape != clean.shape:
            raise ValueError(
                f"the gradient '{self.gradient}' must have the shape of the output, {tuple(clean.shape)}, "
                f"got {tuple(stand_in.shape)} ({self})"
            )
        return straight_through(stand_in, clean)


def _arguments(kind: type[Part]) -> list[str]:
    """The names of the arguments of ``__init__``; none where it is inherited from nn.Module."""
    if kind.__init__ is nn.Module.__init__:
        return []
    parameters = inspect.signature(kind).parameters.values()
    if unnamed := [
        parameter for parameter in parameters if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]:
        raise TypeError(f"__init__ must name its arguments, so that they can be saved, got {unnamed[0]} ({kind.__name__})")
    return [parameter.name for parameter in parameters]


class StandIn(Part):
    """A module that an attacker differentiates through something else; made by `stand_in`."""

    removable = False

    def __init__(self, module: nn.Module, surrogate: Callable[[Tensor], Tensor] | Literal["identity"]) -> None:
        super().__init__()
        self.module, self.surrogate = module, surrogate
        self.gradient = self.choices[0]
        self.training = module.training

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {} if isinstance(self.surrogate, str) else {"stand-in": self.surrogate}

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self.surrogates) or ("identity",)

    def forward(self, a: Tensor) -> Tensor:
        return self.differentiable(self.module, a)

    def extra_repr(self) -> str:
        return ""

    def __str__(self) -> str:
        return f"stand-in for {type(self.module).__name__}" + (f" on '{self.where}'" if self.where else "")


def stand_in(module: nn.Module, surrogate: Callable[[Tensor], Tensor] | Literal["identity"] = "identity") -> StandIn:
    """Let an attacker differentiate ``module`` through ``surrogate``.  The module's output stays the same.

    For modules without a useful gradient: rounding, compression, a filter from another library.  Put the result where the
    module was, and every attack uses the surrogate: ``model.compress = sanact.stand_in(model.compress)``.

    module: one tensor in, one tensor out.
    surrogate: a function (for example an `nn.Module`) of the same tensor; its result has the shape of the module's output.
        "identity" suits a module whose output has the shape of its input.
    Raises TypeError for anything else.
    Paper: Athalye et al. 2018, arXiv:1802.00420 (backward pass differentiable approximation).
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be an nn.Module, got {type(module).__name__} (stand_in)")
    if surrogate != "identity" and not callable(surrogate):
        raise TypeError(f"surrogate must be a function of a tensor, or 'identity', got {surrogate!r} (stand_in)")
    return StandIn(module, surrogate)


def parts_of(model: Any) -> list[Part]:
    """The parts of a model, in the order of registration; an empty list for a model that is only a callable."""
    return [part for part in model.modules() if isinstance(part, Part)] if isinstance(model, nn.Module) else []


def removable(model: Any) -> list[Part]:
    """The parts without which the model is undefended; an empty list for a model that is only a callable."""
    return [part for part in parts_of(model) if part.removable]


@contextmanager
def bypass(parts: Iterable[Part]) -> Iterator[None]:
    """Switch these parts off for a while: each returns its input."""
    parts = list(parts)
    before = [part.bypassed for part in parts]
    try:
        for part in parts:
            part.bypassed = True
        yield
    finally:
        for part, was in zip(parts, before, strict=True):
            part.bypassed = was


def straight_through(source: Tensor, value: Tensor) -> Tensor:
    """``value``, with the gradient of ``source``, which has the same shape."""
    passed: Tensor = _StraightThrough.apply(source, value)
    return passed


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _NoGradient(torch.autograd.Function):
    """A result that autograd cannot trace back to its input: differentiating it is an error, not a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, clean: Tensor, who: str) -> Tensor:
        ctx.who = who
        return clean.view_as(clean)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise RuntimeError(
            f"there is no gradient through {ctx.who}: its operations are not differentiable; attack it with the gradient "
            f"'identity' or a surrogate (sanact.gradients)"
        )
