"""What all defenses share: a configuration, a card, and a call that returns the defended network."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from sanact.checks import refuses
from sanact.data import Data
from sanact.identity import own_code
from sanact.preserve import copied
from sanact.values import Rules, apply_rules
from sanact.wrapping import unwrapped

if TYPE_CHECKING:
    from sanact.defenses.chain import Chain

Kind = Literal["attached", "fitted", "trained"]


@dataclass(frozen=True)
class Card:
    """Facts about a defense, to be known before its numbers are read.

    paper: who proposed it, with arXiv or DOI.  claim: what they measured.  broken: by whom and how, or that it is not.
    surrogates: what attackers differentiate in its place.  needs: what it must be given.  deviation: how ours differs.
    claimed: by data set, the reported share, in percent, of adversarial examples that were classified correctly or refused;
        empty if the claim gives no such figure.
    """

    paper: str
    claim: str
    broken: str
    surrogates: str = "none, its own gradient serves"
    needs: str = "nothing"
    deviation: str = "none"
    claimed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):
    """Makes a defended network from an undefended one.  The dataclass is its configuration.

    Call: model (x in [0, 1] → logits) in evaluation mode and, if it needs them, clean training images → another module with the
        same call.  The model itself does not change.  A network that can refuse images has one more logit than there are
        classes, the last one, and a true attribute ``refuses``; see `sanact.defenses.detector`.
    example: an image, (1, C, H, W), for a model whose input shape cannot be found out.
    kind: "attached" puts parts into the network, "fitted" puts in parts that learn from clean images first, and "trained" is
        another network.  Defenses chain: with ``a | b``, images pass a first, then b.
    Raises ValueError for a defense that needs data and gets none.
    """

    card: ClassVar[Card]
    kind: ClassVar[Kind] = "attached"
    rules: ClassVar[Rules] = {}  # what values each field may have

    def __post_init__(self) -> None:
        apply_rules(self, str(self))

    def __call__(self, model: nn.Module, data: Data | None = None, *, example: Tensor | None = None) -> nn.Module:
        model = unwrapped(model)
        if not isinstance(model, nn.Module):
            raise TypeError(f"the model must be an nn.Module, got {type(model).__name__} ({self})")
        if data is not None and not isinstance(data, Data):
            raise TypeError(f"data must be sanact's Data, got {type(data).__name__} ({self})")
        if self.needs_data and not data:
            raise ValueError(f"it learns from clean training images, got none: pass data ({self})")
        return self.defend(copied(model), data, example)

    @abstractmethod
    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        """The defended network; the model is a private copy, in evaluation mode."""

    @property
    def needs_data(self) -> bool:
        """Whether it needs clean training images."""
        return self.kind == "fitted"

    @property
    def name(self) -> str:
        from sanact.defenses import DEFENSES

        return next((name for name, kind in DEFENSES.items() if kind is type(self)), type(self).__name__)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make this defense again, and its name in DEFENSES."""
        return {"name": self.name} | {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides its result, for the key of rows: configuration, files that it reads, the user's code."""
        more = {"defense_code": own_code(self), "files": self.files}
        return {"defense": self.config} | {key: value for key, value in more.items() if value}

    @property
    def files(self) -> str:
        """A hash of the files that decide its result, or "" if there are none."""
        return ""

    def __or__(self, other: Any) -> Chain:
        from sanact.defenses.chain import Chain, links

        return Chain(parts=(*links(self), *links(other)))

    def __ror__(self, other: Any) -> Chain:
        from sanact.defenses.chain import Chain, links

        return Chain(parts=(*links(other), *links(self)))

    def __str__(self) -> str:
        return f"defense '{self.name}'"


class Around(nn.Module):
    """A network with something around it.

    network: the network inside, with the same call.
    """

    network: nn.Module

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    @property
    def refuses(self) -> bool:
        """Whether the last logit means that the image is refused."""
        return refuses(self.network)


def hash_of(name: str, ours: Mapping[str, str]) -> str:
    """The hash of a file of weights, ours by name or another by path; "" if it does not exist."""
    path = Path(str(files("sanact.models") / "weights" / ours[name])) if name in ours else Path(name)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def inside(model: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """The model with ``change`` applied to the innermost network, inside all that is `Around` it."""
    if not isinstance(model, Around):
        return change(model)
    model.network = inside(model.network, change)
    return model
