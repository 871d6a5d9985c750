"""The user's own attacks: any function of a model, images and labels is judged like ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from sanact.attacks.base import Attack, BudgetedAttack
from sanact.attacks.projections import Generators, Norm
from sanact.checks import Model, refuses
from sanact.content import content
from sanact.passes import count
from sanact.spec import parse
from sanact.userfiles import parse_function
from sanact.values import shown

Function = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class _Function:
    """The common part of both kinds.

    function: (model, x, y) → examples like x, in [0, 1], a tensor or an array.  The model is a module that returns logits.  x
        (N, C, H, W) and y (N,) are copies, and gradients may be taken.
    title: for tables; "" takes the function's name.
    arguments: passed to the function by name.
    """

    function: Function = field(repr=False)
    title: str = ""
    arguments: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return self.title or name_of(self.function)

    @property
    def config(self) -> dict[str, Any]:
        return {"name": self.name, **dict(self.arguments)}

    @property
    def code(self) -> str:
        return content(self.function).hex()[:16]


@dataclass(frozen=True, kw_only=True)
class Own(_Function, Attack):
    """A user's attack without a budget, which looks for the nearest example; the arguments are those of `_Function`.

    Only forward passes are counted.  Raises TypeError for anything but such a function, or if it returns anything else.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_function(self.function, 3, dict(self.arguments), str(self))

    def craft(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        return crafted(self, self.function, model, x, y, dict(self.arguments))

    @property
    def budget(self) -> tuple[Norm, float | None]:
        return "L2", None


@dataclass(frozen=True, kw_only=True)
class OwnBudgeted(_Function, BudgetedAttack):
    """A user's attack inside a norm ball.  If the function has parameters eps and norm, it is given the budget.

    The judge refuses examples outside the ball.  Checks at other budgets need the parameter eps.
    """

    norms: ClassVar[tuple[Norm, ...]] = get_args(Norm)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_function(self.function, 3, self._given(self.eps), str(self))

    def craft(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        if bool((eps != eps[0]).any()):
            raise ValueError(f"a user's function takes one eps for all examples, got several ({self})")
        is_own = bool(eps[0] == torch.tensor(self.eps).to(eps))
        return crafted(self, self.function, model, x, y, self._given(self.eps if is_own else float(eps[0])))

    def _given(self, eps: float) -> dict[str, Any]:
        takes = parameters_of(self.function)
        return dict(self.arguments) | {k: v for k, v in {"eps": eps, "norm": self.norm}.items() if k in takes}

    @property
    def scalable(self) -> bool:
        return "eps" in parameters_of(self.function)

    @property
    def config(self) -> dict[str, Any]:
        return super().config | {"eps": self.eps, "norm": self.norm}


def own_attack(
    function: Function, *, eps: float | None = None, norm: Norm | None = None, title: str = "", **arguments: Any
) -> Attack:
    """An attack that calls ``function(model, x, y, **arguments)``; see `Own`, and `OwnBudgeted` if eps is given."""
    given: dict[str, Any] = {"function": function, "title": title, "arguments": tuple(arguments.items())}
    if eps is not None:
        return OwnBudgeted(**given, eps=eps, norm=norm or "Linf")
    if norm is not None:
        raise ValueError(f"a norm needs a budget: give eps, too, got norm {norm!r} ({name_of(function)})")
    return Own(**given)


def as_attack(attack: Any) -> Attack:
    """Make an attack of what a user gives.

    attack: an Attack; text as on the command line, ``pgd:eps=8/255`` or ``my/file.py:function:eps=0.1``; or a function.
    Raises TypeError for anything else, ValueError for a name or an argument that does not exist.
    """
    from sanact.attacks import ATTACKS

    if isinstance(attack, Attack):
        return attack
    if isinstance(attack, str):
        return parse_function("attack", own_attack, attack) or parse("attack", ATTACKS, attack)
    if callable(attack) and not isinstance(attack, type):
        return own_attack(attack)
    raise TypeError(f"an attack must be an Attack, its text, as in 'pgd:eps=0.1', or a function, got {shown(attack)}")


def crafted(attack: Attack, function: Function, model: Model, x: Tensor, y: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Call a user's function.  TypeError for results other than examples like x, ValueError for numbers that are not finite."""
    module = model if isinstance(model, nn.Module) else _Called(model, x)
    with _counted(module), torch.enable_grad():
        found = function(module, x.clone(), y.clone(), **arguments)
    if isinstance(found, np.ndarray):
        found = torch.from_numpy(found)
    if not isinstance(found, Tensor) or found.shape != x.shape or not found.is_floating_point():
        came = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"the function must return examples like x, float {tuple(x.shape)}, got {came} ({attack})")
    if lost := int((~found.isfinite()).flatten(1).any(1).sum()):
        raise ValueError(f"the function returned NaN or infinity in {lost} of {len(x)} examples ({attack})")
    return found.detach().to(x)


class _Called(nn.Module):
    """A model that is only a function, as a module; it has one weight, which tells its device."""

    def __init__(self, model: Model, x: Tensor) -> None:
        super().__init__()
        self.model, self.refuses = model, refuses(model)
        self.weight = nn.Parameter(torch.zeros(0, device=x.device), requires_grad=False)
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits


@contextmanager
def _counted(module: nn.Module) -> Iterator[None]:
    """For the block, count forward passes of the module as the attack's."""
    handle = module.register_forward_pre_hook(lambda _, inputs: count(len(inputs[0]), None))
    try:
        yield
    finally:
        handle.remove()


def check_function(function: Any, positional: int, arguments: Mapping[str, Any], where: str) -> None:
    """Raise TypeError for anything but a function of this many positional and these named arguments."""
    if not callable(function):
        raise TypeError(f"a function must be callable, got {shown(function)} ({where})")
    try:
        inspect.signature(function).bind(*[None] * positional, **arguments)
    except TypeError as error:
        takes = ", ".join(parameters_of(function))
        raise TypeError(f"the function takes ({takes}), which does not fit the call: {error} ({where})") from error
    except ValueError:  # a function written in C has no signature
        return


def parameters_of(function: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters by name; none for a function written in C, which has no signature."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def name_of(function: Any) -> str:
    """A function's name, or the class name of a callable object."""
    name = getattr(function, "__name__", type(function).__name__)
    return "own" if name == "<lambda>" else str(name)
