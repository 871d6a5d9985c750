"""A transform of the image as a defense."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from sanact.content import content
from sanact.data import Data
from sanact.defenses.base import Around, Card, Defense
from sanact.transforms import Transform


class Transformed(Around):
    """A network behind a transform of the image: x in [0, 1], (N, C, H, W) → its logits."""

    def __init__(self, transform: Transform, network: nn.Module) -> None:
        super().__init__(network)
        self.transform = transform.train(network.training)
        transform.where = transform.where or "the image"

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(self.transform(x))
        return logits


@dataclass(frozen=True, kw_only=True)
class Transforming(Defense):
    """Any transform of the image, one of your own for example."""

    transform: Transform

    card: ClassVar[Card] = Card(paper="that of the transform", claim="none", broken="see the transform")

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        return Transformed(copy.deepcopy(self.transform), model)

    @property
    def name(self) -> str:
        return self.transform.name

    @property
    def config(self) -> dict[str, Any]:
        return self.transform.config

    @property
    def identity(self) -> dict[str, Any]:
        return {"defense": self.config, "transform": content(self.transform).hex()[:16]}
