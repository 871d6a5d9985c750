"""Detectors that use the outputs of a network's layers, and the examples they learn from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sanact.attacks import Attack
from sanact.checks import fooled
from sanact.data import Data
from sanact.defenses.detector import Detector
from sanact.device import device_of

BATCH = 100


class LayerDetector(Detector):
    """Scores images by the outputs of the network's layers, in the same pass as the logits.

    kinds: the types of layers to look at; their outputs are taken before any nonlinearity.
    Raises ValueError for a network without such layers.
    """

    kinds: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv2d, nn.Linear)

    @abstractmethod
    def judge(self, outputs: Sequence[Tensor]) -> Tensor:
        """The score, (N,), from the outputs of the layers, each (N, …), in the order in which they run."""

    def examine(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        with layer_outputs(network, self.kinds) as outputs:
            logits = network(x)
        return logits, self.judge(outputs)

    def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        return self.examine(network, x)[1]

    @torch.no_grad()
    def outputs_of(self, network: nn.Module, x: Tensor) -> list[Tensor]:
        """The outputs of the layers for many images, each (N, …)."""
        parts = []
        for batch in torch.split(x, BATCH):
            with layer_outputs(network, self.kinds) as outputs:
                network(batch)
            parts.append(outputs)
        if not parts or not parts[0]:
            names = " or ".join(kind.__name__ for kind in self.kinds)
            raise ValueError(f"it looks at layers of the kind {names}, and {type(network).__name__} has none ({self})")
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]


@contextmanager
def layer_outputs(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[list[Tensor]]:
    """For the block, a list to which each pass appends the outputs of the layers of these kinds, as they run."""
    seen: list[Tensor] = []

    def keep(layer: nn.Module, given: Any, output: Tensor) -> None:
        seen.append(output)

    with ExitStack() as hooks:
        for layer in network.modules():
            if isinstance(layer, kinds):
                hooks.callback(layer.register_forward_hook(keep).remove)
        yield seen


def check_both(normal: Tensor, adversarial: Tensor, where: object) -> None:
    """Raise ValueError unless there are images, or features, of both kinds."""
    if not len(normal) or not len(adversarial):
        came = f"{len(normal)} and {len(adversarial)}"
        raise ValueError(f"it must be fitted to normal and to adversarial images, got {came} ({where})")


def won_by(network: nn.Module, data: Data, attack: Attack, where: object) -> tuple[Tensor, Tensor]:
    """Images that the network classifies correctly, and adversarial examples of them that fool it, each (N, C, H, W).

    The n-th example belongs to the n-th image.  Raises ValueError if there are none, because a detector needs clean and
    adversarial images.
    """
    device = device_of(network)
    clean, crafted = [], []
    for batch in data.batches(BATCH):
        x, y = batch.x.to(device), batch.y.to(device)
        with torch.no_grad():
            right = network(x).argmax(1) == y
        x, y = x[right], y[right]
        found = attack(network, x, y)
        with torch.no_grad():
            won = fooled(network, network(found), y) if len(x) else right[:0]
        clean.append(x[won])
        crafted.append(found[won])
    if not sum(map(len, crafted)):
        raise ValueError(
            f"a detector needs clean and adversarial images to be fitted on, and {attack!r} won none of the {len(data)} images "
            f"that were given ({where})"
        )
    return torch.cat(clean), torch.cat(crafted)
