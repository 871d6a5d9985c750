"""DeepCloak: remove the features before the logits that adversarial examples change most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sanact.attacks import FGSM
from sanact.data import Data
from sanact.defenses.base import Card, Defense, Kind, inside
from sanact.device import device_of
from sanact.graph import find_layers, trace
from sanact.parts import bypass
from sanact.plan import sanitize
from sanact.sanitizers import Sanitizer
from sanact.values import POSITIVE, Number, Rules

BATCH = 500


@dataclass(frozen=True, kw_only=True)
class DeepCloak(Defense):
    """A mask on the last hidden activation, learned from clean images x and their adversarial examples x'.

        s_c = Σ_x | h_c(x) - h_c(x') |        h'_c = 0  for the channels of the largest s_c,  else h_c

    share: of the channels (of a vector, the units) to remove, in (0, 1); at least one is removed, and one stays.
    eps: budget of the FGSM examples that it learns from, in input units.
    Raises ValueError for a network that has no hidden activation.
    """

    share: float = 0.01
    eps: float = 0.3

    kind: ClassVar[Kind] = "fitted"
    card: ClassVar[Card] = Card(
        paper="Gao, Wang, Lin, Xu, Qi 2017, arXiv:1702.06763",
        claim="CIFAR-10, a residual network: 10 points more on adversarial examples with 1 % of the units removed; no attacker "
        "knows of it",
        broken="our adaptive figures: the mask never changes, and any attack by gradients goes through it",
        needs="clean images with their labels",
        deviation="of maps in front of pooling whole channels are removed",
    )
    rules: ClassVar[Rules] = {
        "share": Number(0, 1, open_least=True, open_most=True, words="be in (0, 1)"),
        "eps": POSITIVE,
    }

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        return inside(model, lambda network: self._cloaked(network, data, example))

    def _cloaked(self, network: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        hidden = [layer.name for layer in find_layers(trace(network, example)) if layer.hidden]
        if not hidden:
            raise ValueError(f"{type(network).__name__} has no hidden activation to mask ({self})")
        cloaked = sanitize(network, {hidden[-1]: Cloak(self.share)}, example=example)
        (cloak,) = cloaked.sanitizers.values()
        assert isinstance(cloak, Cloak)
        if data:
            cloak.fit(network, cloaked, data, FGSM(eps=self.eps))
        return cloaked


class Cloak(Sanitizer):
    """Sets to zero the channels of a map, or the units of a vector, that changed most when it was fitted.

    share: of them to remove.  kept: (C,), whether each stays; None before `fit`.
    """

    kept: Tensor | None

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("kept", None)

    def sanitize(self, maps: Tensor) -> Tensor:
        if self.kept is None:
            raise RuntimeError(f"fit it to clean images first ({self})")
        shape = (1, 1, 1, -1) if maps.shape[1:3] == (1, 1) else (1, -1, 1, 1)
        return maps * self.kept.to(maps.dtype).reshape(shape)

    def fit(self, network: nn.Module, cloaked: nn.Module, data: Data, attack: FGSM) -> None:
        """Learn what to remove.  network: the undefended one; cloaked: the same with this part in it."""
        changes, device = torch.zeros(()), device_of(network)
        for batch in data.batches(BATCH):
            x, y = batch.x.to(device), batch.y.to(device)
            before, after = (self._seen(cloaked, images) for images in (x, attack(network, x, y)))
            changes = changes + (before - after).abs().sum((0, 2)).cpu()
        removed = changes.topk(min(max(round(self.share * len(changes)), 1), len(changes) - 1)).indices
        self.kept = torch.ones_like(changes, dtype=torch.bool).index_fill(0, removed, False).to(device)

    @torch.no_grad()
    def _seen(self, cloaked: nn.Module, x: Tensor) -> Tensor:
        """Its input, by channel, (N, C, n)."""
        seen: list[Tensor] = []
        handle = self.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        try:
            with bypass([self]):
                cloaked(x)
        finally:
            handle.remove()
        a = seen[0].movedim(-1, 1) if self.channels_last else seen[0]
        return a.double().reshape(*a.shape[:2], -1)
