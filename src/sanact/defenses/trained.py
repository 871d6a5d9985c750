"""Networks trained for a defense, with weights in a file."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from sanact.data import Data
from sanact.defenses.base import Defense, Kind, inside
from sanact.models import DEFENDED, PRETRAINED, load_weights, read_card, read_plan
from sanact.objectives import Objective
from sanact.values import shown

OURS = "ours"


@dataclass(frozen=True, kw_only=True)
class Trained(Defense):
    """A network trained in another way, of the same architecture unless `architecture` changes it.

    weights: a file written by ``sanact train MODEL --defense …``; or "ours", which come with sanact for this network and these
        arguments.
    Raises ValueError for weights of another network, or of one that was trained differently.
    """

    weights: str = OURS

    kind: ClassVar[Kind] = "trained"

    @abstractmethod
    def objective(self, network: nn.Module) -> Objective:
        """The objective that the training of this network minimizes."""

    @property
    def trained_with(self) -> dict[str, Any]:
        """The arguments that decide the weights."""
        return {key: value for key, value in self.config.items() if key not in ("name", "weights")}

    def architecture(self, network: nn.Module, example: Tensor | None = None) -> nn.Module:
        """The network to train, made from an undefended one; that network itself, unless a defense changes it."""
        return network

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        return inside(model, lambda network: self._trained(network, example))

    def _trained(self, network: nn.Module, example: Tensor | None) -> nn.Module:
        trained = self.architecture(network, example)
        if self.weights != OURS:
            self._check(Path(self.weights))
            load_weights(trained, self.weights)
            return trained
        for path in self._ours():
            with suppress(ValueError):  # of another network
                load_weights(trained, path)
                return trained
        arguments = ",".join(f"{key}={_short(value)}" for key, value in self.trained_with.items())
        raise ValueError(
            f"no weights come with sanact for {type(network).__name__} trained with {arguments}; make some with sanact train "
            f"MODEL --defense {self.name}:{arguments} --out FILE.safetensors, and give weights=FILE.safetensors ({self})"
        )

    def _ours(self) -> Iterator[Path]:
        for file in (*PRETRAINED.values(), *DEFENDED):
            with as_file(files("sanact.models") / "weights" / file) as path:
                if self._differs(path) == "":
                    yield path

    @property
    def training(self) -> str:
        """The device and the duration of the training of its weights; "" if their file does not say."""
        paths = [Path(self.weights)] if self.weights != OURS else list(self._ours())
        return next((read_card(path).get("device", "") for path in paths), "")

    def _check(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"no weights at {shown(str(path))} ({self})")
        if plan := read_plan(path):
            raise ValueError(
                f"the network in '{path}' has sanitizers inside ({', '.join(plan)}): it is no defense of another, give the "
                f"file as the weights of the model ({self})"
            )
        if found := self._differs(path):
            raise ValueError(f"the weights in '{path}' were trained {found} ({self})")

    def _differs(self, path: Path) -> str:
        """How the weights in a file were trained, if that differs from this defense's training."""
        claimed: dict[str, Any] = json.loads(read_card(path).get("defense", "{}"))
        if claimed.get("name") != self.name:
            return f"for {claimed.get('name', 'no defense')}, not for {self.name}"
        for key, value in self.trained_with.items():
            if not _same(claimed.get(key), value):
                return f"with {key} {claimed.get(key)}, not {value}"
        return ""

    @property
    def files(self) -> str:
        paths = [Path(self.weights)] if self.weights != OURS else list(self._ours())
        return hashlib.sha256(b"".join(path.read_bytes() for path in paths if path.is_file())).hexdigest()[:16]


def _short(value: Any) -> str:
    """A value as on the command line, with numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _same(one: Any, other: Any) -> bool:
    """Equal, numbers to six digits."""
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return abs(one - other) <= 1e-6 * max(abs(one), abs(other))
    return bool(one == other)
