"""Networks that can refuse an image.

For an attacker, a detector and the classifier behind it are one network: an example must be misclassified and accepted.  So the
refusal is a logit, the last one: z_K = max z + c (score - threshold), with c > 0.  It is the largest if the score is above the
threshold.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from sanact.data import Data
from sanact.defenses.base import Around
from sanact.device import device_of
from sanact.parts import Part

FALSE_ALARMS = 0.05  # share of clean images that the threshold refuses


class Detector(Part):
    """Gives images a score, and refuses those above a threshold.

    threshold: (), of the score.  scale: (), logits per unit of the score.  Both are NaN until `fit`.
    bypassed: nothing is refused, and there is no logit for a refusal.
    """

    kind = "detector"
    threshold: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(torch.nan))
        self.register_buffer("scale", torch.tensor(torch.nan))

    @abstractmethod
    def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        """The score, (N,); a high one means a refusal.  network: the classifier.  logits: its answer to x, (N, K)."""

    def examine(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """The classifier's logits, (N, K), and the score, (N,)."""
        logits = network(x)
        return logits, self.score(network, x, logits)

    @property
    def choices(self) -> tuple[str, ...]:
        """The gradient of its score; parts inside of it have choices of their own."""
        return ("exact", *self.surrogates)

    def forward(self, network: nn.Module, x: Tensor) -> Tensor:
        """The logits with the refusal's, (N, K + 1)."""
        if self.bypassed:
            plain: Tensor = network(x)
            return plain
        self.check_fitted()
        logits, score = self.examine(network, x)
        above = self.scale * (score - self.threshold)
        return torch.cat([logits, (logits.amax(1) + above)[:, None]], 1)

    def check_fitted(self) -> None:
        """Raise RuntimeError before `fit`."""
        if self.threshold.isnan():
            raise RuntimeError(f"fit it to clean images first ({self})")

    @torch.no_grad()
    def fit(self, network: nn.Module, data: Data, *, false_alarms: float = FALSE_ALARMS, batch_size: int = 100) -> None:
        """Set the threshold so that this share of clean images is refused, and the scale so that scores compare to logits.

        Raises ValueError if scores are not finite, or hardly vary: the threshold would refuse nothing, or everything.
        """
        scores, leads = [], []
        device = device_of(network)
        for batch in data.batches(batch_size):
            x = batch.x.to(device)
            logits, score = self.examine(network, x)
            scores.append(score)
            leads.append(logits.topk(2, dim=1).values.diff(dim=1).abs()[:, 0])
        scored, lead = torch.cat(scores).double(), torch.cat(leads).double().median()
        if not scored.isfinite().all():
            raise ValueError(f"the scores of clean images must be finite, got NaN or infinity ({self})")
        threshold = scored.quantile(1 - false_alarms)
        refused = float((scored > threshold).double().mean())
        if not 0 < refused <= 2 * false_alarms:
            raise ValueError(
                f"it would refuse {100 * refused:.3g} % of {len(scored)} clean images, where {100 * false_alarms:.3g} "
                f"% are wanted: scores hardly vary, or there are too few images ({self})"
            )
        self.threshold, self.scale = threshold.to(self.threshold), ((lead if lead > 0 else 1) / scored.std()).to(self.scale)


class Refusing(Around):
    """A network behind a detector: x in [0, 1] → its K logits, and one for the refusal.

    Raises ValueError for a network that already refuses images.
    """

    def __init__(self, network: nn.Module, detector: Detector) -> None:
        super().__init__(network)
        if super().refuses:
            raise ValueError(f"the network refuses images already: one detector a network ({detector})")
        self.detector = detector.train(network.training)

    def forward(self, x: Tensor) -> Tensor:
        refusing: Tensor = self.detector(self.network, x)
        return refusing

    @property
    def refuses(self) -> bool:
        return not self.detector.bypassed


class Corrector(Detector):
    """A detector that has another answer for suspicious images."""

    @abstractmethod
    def correct(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The classifier's logits, (N, K), the score, (N,), and the logits to use where the score is too high, (N, K)."""


class Correcting(Around):
    """A network with another answer for images that its detector suspects: x in [0, 1] → K logits.  It refuses nothing."""

    def __init__(self, network: nn.Module, detector: Corrector) -> None:
        super().__init__(network)
        self.detector = detector.train(network.training)

    def forward(self, x: Tensor) -> Tensor:
        if self.detector.bypassed:
            plain: Tensor = self.network(x)
            return plain
        self.detector.check_fitted()
        logits, score, corrected = self.detector.correct(self.network, x)
        return torch.where((score > self.detector.threshold)[:, None], corrected, logits)
