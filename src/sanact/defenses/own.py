"""The user's own defenses: any function of a model, and of training images if needed, is judged like ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from sanact.attacks.own import check_function, name_of, parameters_of
from sanact.content import content
from sanact.data import Data
from sanact.defenses.base import Around, Card, Defense, Kind
from sanact.parts import Part
from sanact.preserve import copied
from sanact.wrapping import unwrapped


class Replaced(Around, Part):
    """A defended network in place of the undefended one, which an attacker who knows of the defense also has.

    forward: x in [0, 1], (N, C, H, W) → logits of the defended network; if bypassed, of the undefended one.
    """

    kind = "defense"

    def __init__(self, undefended: nn.Module, network: nn.Module, called: str) -> None:
        super().__init__(network)
        self.undefended, self.called = undefended, called
        self.where = "the model"

    @property
    def choices(self) -> tuple[str, ...]:
        return ("exact",)

    @property
    def name(self) -> str:
        return self.called

    @property
    def config(self) -> dict[str, Any]:
        return {"name": self.called}

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.undefended(x) if self.bypassed else self.network(x)
        return logits

    @property
    def refuses(self) -> bool:
        return not self.bypassed and super().refuses


@dataclass(frozen=True, kw_only=True)
class Own(Defense):
    """A user's own defense.

    function: (model) or (model, data) → a defended `nn.Module` with the same call, x in [0, 1] → logits.  The model is a copy,
        in evaluation mode, which it may change; data are clean training images, see `Data.batches`.
    title: for tables; "" takes the function's name.
    arguments: passed to the function by name.
    Parts in the returned module, made by `Transform` and `stand_in`, tell attackers what to differentiate.
    Raises TypeError for anything but such a function, or if it returns no module.
    """

    function: Callable[..., Any] = field(repr=False)
    title: str = ""
    arguments: tuple[tuple[str, Any], ...] = ()

    card: ClassVar[Card] = Card(paper="the user's own", claim="none", broken="not known")
    kind: ClassVar[Kind] = "trained"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_function(self.function, 2 if self.needs_data else 1, dict(self.arguments), str(self))

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        undefended = copied(model)
        given = (model, data) if self.needs_data else (model,)
        made = unwrapped(self.function(*given, **dict(self.arguments)))
        if not isinstance(made, nn.Module):
            raise TypeError(f"the function must return an nn.Module, got {type(made).__name__} ({self})")
        return Replaced(undefended, made.eval(), self.name).eval()

    @property
    def needs_data(self) -> bool:
        """Whether the function's second parameter is called data, or has no default."""
        second = list(parameters_of(self.function).values())[1:2]
        wanted = [one for one in second if one.name == "data" or one.default is one.empty]
        return bool(wanted) and wanted[0].kind is not wanted[0].KEYWORD_ONLY and wanted[0].name not in dict(self.arguments)

    @property
    def name(self) -> str:
        return self.title or name_of(self.function)

    @property
    def config(self) -> dict[str, Any]:
        return {"name": self.name, **dict(self.arguments)}

    @property
    def identity(self) -> dict[str, Any]:
        return {"defense": self.config, "defense_code": content(self.function).hex()[:16]}


def own_defense(function: Callable[..., Any], *, title: str = "", **arguments: Any) -> Own:
    """A defense that calls ``function(model, data, **arguments)``; see `Own`."""
    return Own(function=function, title=title, arguments=tuple(arguments.items()))
