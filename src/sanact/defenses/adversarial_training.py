"""PGD-based adversarial training: a network fitted to adversarial examples in place of images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from sanact.attacks import PGD
from sanact.data import Data
from sanact.defenses.base import Card, Defense, Kind, inside
from sanact.models import PRETRAINED, load_weights, read_card
from sanact.values import POSITIVE, Rules, Whole, shown

OURS = "ours"


@dataclass(frozen=True, kw_only=True)
class PGDAdversarialTraining(Defense):
    """A network of the same architecture, trained on the examples of PGD.

        min_θ E max_{‖δ‖∞ ≤ eps} J(x + δ, y)

    eps: of the examples it was, or is to be, trained on, in input units.  steps: of PGD in training.
    weights: a file that `sanact train --defense pgd-at` wrote; or "ours", those that come with sanact for this network and eps.
    Raises ValueError for weights of another network, or of one that was trained otherwise.
    """

    eps: float
    steps: int = 7
    weights: str = OURS

    kind: ClassVar[Kind] = "trained"
    card: ClassVar[Card] = Card(
        paper="Madry, Makelov, Schmidt, Tsipras, Vladu 2018, arXiv:1706.06083",
        claim="MNIST at 0.3: 89.62 under PGD with 50 restarts, 88.50 under AutoAttack; CIFAR-10 at 8/255: 47.04 under PGD-20, "
        "44.04 under AutoAttack",
        broken="not within its norm and budget; beyond them it holds little",
        needs="weights that were trained with it: ours, or a file",
        deviation="smaller networks, fewer epochs, and a budget that grows over the first third"
        " of the steps; the card of the weights has the recipe",
    )
    rules: ClassVar[Rules] = {"eps": POSITIVE, "steps": Whole(1, 100_000)}

    @property
    def attack(self) -> PGD:
        """Whose examples it is trained on."""
        return PGD(eps=self.eps, steps=self.steps)

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        return inside(model, self._trained)

    def _trained(self, network: nn.Module) -> nn.Module:
        if self.weights != OURS:
            self._check(Path(self.weights))
            load_weights(network, self.weights)
            return network
        for path in self._ours():
            with suppress(ValueError):  # of another network
                load_weights(network, path)
                return network
        raise ValueError(
            f"no weights come with sanact for {type(network).__name__} trained at eps {self.eps:.4g}; make some with "
            f"sanact train MODEL --defense pgd-at:eps={self.eps:.4g} --out FILE.safetensors, and give weights=FILE.safetensors "
            f"({self})"
        )

    def _ours(self) -> Iterator[Path]:
        for file in PRETRAINED.values():
            with as_file(files("sanact.models") / "weights" / file) as path:
                claimed = _claims(path)
                if claimed.get("name") == self.name and abs(claimed["eps"] - self.eps) <= 1e-6:
                    yield path

    def _check(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"no weights at {shown(str(path))} ({self})")
        claimed = _claims(path)
        if claimed.get("name") != self.name:
            raise ValueError(f"the weights in '{path}' are of {claimed.get('name', 'no defense')}, not of {self.name} ({self})")
        if abs(claimed["eps"] - self.eps) > 1e-6:
            raise ValueError(f"the weights in '{path}' were trained at eps {claimed['eps']:.4g}, not {self.eps:.4g} ({self})")

    @property
    def files(self) -> str:
        paths = [Path(self.weights)] if self.weights != OURS else list(self._ours())
        return hashlib.sha256(b"".join(path.read_bytes() for path in paths if path.is_file())).hexdigest()[:16]


def _claims(path: Path) -> dict[str, Any]:
    """What the card of a file says of the defense that it was trained for."""
    claimed: dict[str, Any] = json.loads(read_card(path).get("defense", "{}"))
    return claimed
