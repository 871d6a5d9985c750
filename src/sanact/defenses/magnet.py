"""MagNet: classify an autoencoder's reconstruction of an image, and refuse images that autoencoders change much."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sanact.autoencoders import WEIGHTS, Pair
from sanact.data import Data
from sanact.defenses.base import Around, Card, Defense, Kind, hash_of
from sanact.defenses.detector import FALSE_ALARMS, Detector, Refusing
from sanact.defenses.transforming import Transformed
from sanact.device import device_of
from sanact.transforms import Reformer
from sanact.values import Rules, flag

TEMPERATURES = (10.0, 40.0)


@dataclass(frozen=True, kw_only=True)
class MagNet(Defense):
    """A reformer in front of the network, and detectors beside it.

        classified: r(x)      refused where  max_d s_d(x) / t_d  is above a threshold, of
        s_1 = mean |x - r(x)|²,   s_2 = mean |x - a(x)|,   s_T = JSD( softmax z(x)/T, softmax z(r(x))/T )

    r, a: an autoencoder with pooling, and one without.  z: the logits of the undefended network.  t_d: exceeded by s_d for 5 %
    of clean images.
    autoencoders: named by their data, as in `Reformer`.
    divergence: whether to add the Jensen-Shannon divergences at temperatures T of 10 and 40, which the paper uses for CIFAR-10
        but not for MNIST.
    """

    autoencoders: str = "mnist"
    divergence: bool = False

    kind: ClassVar[Kind] = "fitted"
    card: ClassVar[Card] = Card(
        paper="Meng and Chen 2017, arXiv:1705.09064",
        claim="above 99 % of the examples of C&W on MNIST are detected or classified correctly; no attacker knows of it",
        claimed={"mnist": 99.0},
        broken="Carlini and Wagner 2017, arXiv:1711.08478: 99 % of examples transfer from an attacker's own autoencoders",
        needs="autoencoders: ours of MNIST, or some by python -m sanact.autoencoders.train; clean images to set thresholds on",
        deviation="fewer epochs; one threshold that refuses 5 % of clean images, theirs refuse 0.1 % for each detector",
    )
    rules: ClassVar[Rules] = {"divergence": flag}

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        device = device_of(model)
        reformer = Reformer(self.autoencoders).to(device)
        network, detector = Transformed(reformer, model), MagNetDetector(reformer.model, self.divergence).to(device)
        if data is not None:
            detector.learn(network, data)
            detector.fit(network, data)
        return Refusing(network, detector)

    @property
    def files(self) -> str:
        return hash_of(self.autoencoders, WEIGHTS)


class MagNetDetector(Detector):
    """typical: t_d, (detectors,)."""

    typical: Tensor

    def __init__(self, pair: Pair, divergence: bool) -> None:
        super().__init__()
        self.pair, self.divergence = pair, divergence
        self.register_buffer("typical", torch.ones(2 + len(TEMPERATURES) * divergence))

    @torch.no_grad()
    def learn(self, network: Transformed, data: Data, batch_size: int = 100) -> None:
        """Measure how large each score is on clean images."""
        scores = []
        for batch in data.batches(batch_size):
            x = batch.x.to(self.typical.device)
            scores.append(self.scores(network, x, network(x)))
        self.typical = torch.cat(scores).quantile(1 - FALSE_ALARMS, dim=0).clamp_min(torch.finfo(torch.float32).tiny)

    def scores(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        """s_d, (N, detectors).  network: behind the reformer, with these logits."""
        errors = [(x - self.pair.pooled(x)).square(), (x - self.pair.plain(x)).abs()]
        found = [error.flatten(1).mean(1) for error in errors]
        if self.divergence:
            before = (network.network if isinstance(network, Around) else network)(x)
            found += [jensen_shannon(before / t, logits / t) for t in TEMPERATURES]
        return torch.stack(found, 1)

    def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        return (self.scores(network, x, logits) / self.typical).amax(1)

    @property
    def config(self) -> dict[str, object]:
        return {"name": self.name, "divergence": self.divergence}


def jensen_shannon(z: Tensor, w: Tensor) -> Tensor:
    """The divergence of softmax z and softmax w from their mean m, (KL(p ‖ m) + KL(q ‖ m)) / 2, in nats.  (N, K) → (N,)."""
    p, q = z.double().log_softmax(1), w.double().log_softmax(1)  # the difference of nearly equal numbers
    m = torch.logaddexp(p, q) - math.log(2)
    divergence = (p.exp() * (p - m) + q.exp() * (q - m)).sum(1) / 2
    return divergence.to(z.dtype)
