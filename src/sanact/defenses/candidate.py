"""A candidate of a search: sanitizers on layers, and a defense of the image before them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sanact.defenses import DEFENSES, Defense, as_defense
from sanact.plan import Plan, plan_from_dict
from sanact.sanitizers import Sanitizer
from sanact.spec import make

IMAGE = "the image"  # a place, as the names of layers are; no module is called so

Candidate = Mapping[str, Sanitizer | Defense]


def defense_of(candidate: Candidate) -> Defense | None:
    """The defense that a candidate stands for; None for an empty one.  Images pass the defense of the image first."""
    parts = [candidate[IMAGE]] if IMAGE in candidate else []
    plan = {layer: part for layer, part in candidate.items() if layer != IMAGE}
    return as_defense([*parts, *([plan] if plan else [])]) if candidate else None


def usable(candidate: Candidate) -> Plan | Defense:
    """In a form for `sanact.defend`: a plan, if it has only sanitizers."""
    found = defense_of(candidate) if IMAGE in candidate else None
    return found or {layer: part for layer, part in candidate.items() if isinstance(part, Sanitizer)}


def to_dict(candidate: Candidate) -> dict[str, dict[str, Any]]:
    """As JSON has it: by place, a name and arguments.  Without a defense of the image this is a plan."""
    return {place: part.config for place, part in candidate.items()}


def from_dict(configs: Mapping[str, Mapping[str, Any]]) -> Candidate:
    """The inverse of `to_dict`; raises what `plan_from_dict` does."""
    if not isinstance(configs, Mapping) or IMAGE not in configs:
        return plan_from_dict(configs) if configs or not isinstance(configs, Mapping) else {}
    rest = {layer: config for layer, config in configs.items() if layer != IMAGE}
    return {IMAGE: make("defense", DEFENSES, **configs[IMAGE]), **(plan_from_dict(rest) if rest else {})}
