"""Sanitizers on hidden activations as a defense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from sanact.content import content
from sanact.data import Data
from sanact.defenses.base import Card, Defense, inside
from sanact.device import device_of
from sanact.plan import Plan, as_plan, calibrate, plan_to_dict, sanitize
from sanact.sanitizers import Sanitizer


@dataclass(frozen=True, kw_only=True)
class Sanitizing(Defense):
    """Sanitizers on hidden activations: a plan as a defense.

    plan: as for `sanact.sanitize`.
    Paper: Mu et al. 2021, doi:10.3233/JIFS-210371.
    """

    plan: Plan | Sanitizer

    card: ClassVar[Card] = Card(
        paper="Mu, Lin, Zhang, Wang 2021, doi:10.3233/JIFS-210371",
        claim="MNIST, replayed examples of FGSM, C&W and PGD: the mask keeps 81.95, 87.28, 83.57, the undefended net 70.53, "
        "2.34, 53.47",
        broken="by an attacker who knows of it, see our adaptive figures; its relative MeanSparse by the identity as gradient "
        "(RobustBench)",
        surrogates="the identity, and of each sanitizer its own: sigmoid gates, means, held weights",
        needs="clean images, for a calibrated mask and its relatives",
        deviation="the formulas of the sanitizers are lost, ours are inferred",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "plan", as_plan(self.plan))

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        return inside(model, lambda network: self._sanitized(network, data, example))

    def _sanitized(self, network: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        defended = sanitize(network, self.plan, example=example)
        if self.needs_data and data:
            calibrate(defended, next(data.batches(len(data))).x.to(device_of(network)))
        return defended

    @property
    def needs_data(self) -> bool:
        return any(part.needs_data for part in as_plan(self.plan).values())

    @property
    def name(self) -> str:
        return "+".join(dict.fromkeys(config["name"] for config in self.config.values()))

    @property
    def config(self) -> dict[str, Any]:
        return plan_to_dict(self.plan)

    @property
    def identity(self) -> dict[str, Any]:
        return {"defense": self.config, "sanitizers": content(dict(as_plan(self.plan))).hex()[:16]}
