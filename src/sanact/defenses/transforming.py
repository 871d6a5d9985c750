"""A transform of the image as a defense."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

from torch import Tensor, nn

from sanact.content import content
from sanact.data import Data
from sanact.defenses.base import Around, Card, Defense
from sanact.transforms import Transform

BATCH = 500  # clean images at once


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
    """Any transform of the image, such as one of your own."""

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


@dataclass(frozen=True, kw_only=True)
class Behind(Defense):
    """A network behind a published transform of the image.

    of: its class.  Arguments with the same names are the transform's, which checks them.  It learns from clean
        images if needed.
    """

    of: ClassVar[type[Transform]]

    def __post_init__(self) -> None:
        super().__post_init__()
        checked = self.transform()
        for name in signature(self.of).parameters:
            object.__setattr__(self, name, getattr(checked, name))

    def transform(self) -> Transform:
        return self.of(**{name: getattr(self, name) for name in signature(self.of).parameters})

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        transform = self.transform()
        if data is not None:
            transform.calibrate(batch.x for batch in data.batches(BATCH))
        return self.around(model, transform)

    def around(self, model: nn.Module, transform: Transform) -> nn.Module:
        """The network behind the transform, which has learned what it needs."""
        return Transformed(transform, model)
