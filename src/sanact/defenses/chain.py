"""Several defenses of one network, and everything that can stand for a defense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from sanact.data import Data
from sanact.defenses.base import Card, Defense
from sanact.defenses.own import own_defense
from sanact.defenses.sanitizing import Sanitizing
from sanact.defenses.transforming import Transforming
from sanact.plan import read_plan as read_plan_of
from sanact.sanitizers import SANITIZERS, Sanitizer
from sanact.spec import parse
from sanact.transforms import TRANSFORMS, Transform
from sanact.userfiles import parse_function
from sanact.values import meant, shown

ALL_ATTACHED = "all-attached"
FOR_PHOTOGRAPHS: dict[str, dict[str, Any]] = {"feature-squeezing": {"bits": 4}, "region-voting": {"eps": 0.02}}


@dataclass(frozen=True, kw_only=True)
class Chain(Defense):
    """Several defenses of one network; images pass the first one first.

    parts: at least two.  Raises ValueError for two that train, because the second would undo the first.
    """

    parts: tuple[Defense, ...]

    card: ClassVar[Card] = Card(paper="none: it is what its links are", claim="none", broken="see its links")

    def __post_init__(self) -> None:
        trained = [part for part in self.parts if part.kind == "trained"]
        if len(trained) > 1:
            raise ValueError(
                f"of a chain at most one may train, the second would undo the first, got {trained[0]}, {trained[1]}"
            )
        if sum(isinstance(part, Sanitizing) for part in self.parts) > 1:
            raise ValueError("of a chain at most one may be a plan; put all sanitizers into it")

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        for part in sorted(reversed(self.parts), key=lambda part: part.kind != "trained"):  # others go into what it trains
            model = part.defend(model, data if part.needs_data else None, example)
        return model

    @property
    def needs_data(self) -> bool:
        return any(part.needs_data for part in self.parts)

    @property
    def name(self) -> str:
        return " | ".join(part.name for part in self.parts)

    @property
    def config(self) -> dict[str, Any]:
        return {"name": "chain", "parts": [part.config for part in self.parts]}

    @property
    def identity(self) -> dict[str, Any]:
        return {"defense": self.config, "parts": [part.identity for part in self.parts]}


def as_defense(defense: Any) -> Defense:
    """A defense from a sanitizer, a plan, a transform, a function or text; a list of several becomes a chain.

    Text is as on the command line, ``"feature-squeezing:bits=1 | conv*=mask:0.3"``.  A function is as for `own_defense`.
    Raises TypeError for anything else, ValueError for a name or an argument that does not exist.
    """
    if isinstance(defense, Defense):
        return defense
    if isinstance(defense, str):
        return read_defense(defense)
    if isinstance(defense, (list, tuple)) and defense:
        parts = tuple(link for part in defense for link in links(part))
        return Chain(parts=parts) if len(parts) > 1 else parts[0]
    if isinstance(defense, (Sanitizer, Mapping)):
        return Sanitizing(plan=defense)
    if isinstance(defense, Transform):
        return Transforming(transform=defense)
    if callable(defense) and not isinstance(defense, (type, nn.Module)):
        return own_defense(defense)
    raise TypeError(
        "a defense must be a Defense, a sanitizer, a plan, a transform, a function, the text of one, or a list of them, got "
        f"{shown(defense)}"
    )


def read_defense(text: str) -> Defense:
    """A defense from text: a name, a plan, or ``path/to/file.py:function``; several, separated by bars, are a chain."""
    return as_defense([_link(part.strip()) for part in text.split("|")])


def read_defenses(text: str) -> list[Defense]:
    """The defenses that a text names: one, or with "all-attached" all that need neither training nor images to learn from.

    These are the three sanitizers of the paper, on all hidden activations, and those in `DEFENSES`, with the arguments in
    ``FOR_PHOTOGRAPHS`` or the defaults.  PixelDefend is not among them, because its density model is for certain images.
    """
    from sanact.defenses import DEFENSES

    if text.strip() != ALL_ATTACHED:
        return [read_defense(text)]
    sanitizers: list[Defense] = [Sanitizing(plan=SANITIZERS[name]()) for name in ("mask", "median", "nl-means")]
    others = (name for name, kind in DEFENSES.items() if name in FOR_PHOTOGRAPHS or kind.kind == "attached")
    return sanitizers + [DEFENSES[name](**FOR_PHOTOGRAPHS.get(name, {})) for name in others]


def _link(text: str) -> Any:
    from sanact.defenses import DEFENSES

    if own := parse_function("defense", own_defense, text):
        return own
    known: dict[str, Any] = TRANSFORMS | DEFENSES
    name = text.partition(":")[0].strip()
    if name in known:
        return parse("defense", known, text)
    if "=" not in name and not text.endswith(".json") and name not in SANITIZERS:
        names = [*known, *SANITIZERS]
        raise ValueError(f"defense must be one of {', '.join(names)}, or a plan, got {shown(name)}{meant(name, names)}")
    return read_plan(text)


def read_plan(text: str) -> Any:
    """A plan from text, or from a JSON file of `sanact search`, which may have a defense of the image, too."""
    from sanact.defenses.candidate import from_dict, usable

    return read_plan_of(text, lambda configs: usable(from_dict(configs)))


def links(defense: Any) -> tuple[Defense, ...]:
    """The parts of a chain; any other defense alone."""
    defense = as_defense(defense)
    return defense.parts if isinstance(defense, Chain) else (defense,)


def split(defense: Defense) -> tuple[Defense | None, Defense | None]:
    """The part of a defense that trains another network, and the part that is then attached to it; None for a missing one."""
    trained = [link for link in links(defense) if link.kind == "trained"]
    others = [link for link in links(defense) if link.kind != "trained"]
    return (trained[0] if trained else None), (as_defense(others) if others else None)
