"""A cell: one unit of evaluation, with the key under which its rows are kept."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import nn

from sanact.attacks import REVISION, Attack
from sanact.attacks.projections import Norm
from sanact.data import Data
from sanact.defenses import Defense, as_defense
from sanact.evaluation.adaptive import Adaptive
from sanact.evaluation.threat import KNOWLEDGE, Effort, Knowledge, Radius, l2_budget
from sanact.identity import fingerprint, own_code
from sanact.parts import removable
from sanact.plan import Plan
from sanact.sanitizers import Sanitizer
from sanact.values import SEED, OneOf, shown
from sanact.wrapping import unwrapped

LONGEST = 150  # bytes of a cell's name before its hash: file systems allow 255, and suffixes need some


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One unit of evaluation.

    model: undefended, in evaluation mode; x in [0, 1] → logits.  `DataParallel` and `torch.compile` are unwrapped.
    model_name: for display only; weights are told apart by content.
    defense: a `Defense`, a sanitizer, a plan, a transform, or a list of them; None judges the model as it is.
    calibration: clean training data, for a defense that needs some; none of the judged images may be among them.
    attack, knowledge: who attacks.  seed: of the attack's random draws; each example has its own.
    source: another network for the same data; the adaptive attacker also tries its examples.
    """

    data: Data
    model: nn.Module
    model_name: str
    defense: Defense | Sanitizer | Plan | None
    attack: Attack
    knowledge: Knowledge
    seed: int = 0
    calibration: Data | None = None
    source: nn.Module | None = None

    def __post_init__(self) -> None:
        for name in ("model", "source"):
            object.__setattr__(self, name, unwrapped(getattr(self, name)))
        kinds = {
            "data": Data,
            "model": nn.Module,
            "model_name": str,
            "attack": Attack,
            "calibration": Data | None,
            "source": nn.Module | None,
        }
        for name, kind in kinds.items():
            if not isinstance(value := getattr(self, name), kind):
                raise TypeError(f"{name} must be of type {getattr(kind, '__name__', kind)}, got {shown(value)} (cell)")
        self._check_calibration()
        OneOf(tuple(KNOWLEDGE))(self.knowledge, "knowledge", str(self))
        object.__setattr__(self, "seed", SEED(self.seed, "seed", str(self)))
        if isinstance(self.attack, Adaptive) != (self.knowledge == "adaptive"):
            raise ValueError(
                f"the attack Adaptive goes with knowledge 'adaptive', and with no other, got {self.attack} ({self})"
            )
        if self.defense is None and self.knowledge == "oblivious":  # without a defense this is the white-box attack
            object.__setattr__(self, "knowledge", "white-box")
        if self.attack.targeted:
            raise ValueError(f"the judge has labels, not targets: targeted must be False ({self.attack})")

    def _check_calibration(self) -> None:
        """Raise ValueError if a defense that learns from images gets none, or gets images that are judged."""
        if self.defense is None:
            return
        defense = as_defense(self.defense)
        if defense.needs_data and not self.calibration:
            raise ValueError(f"it learns from clean training images, got none: give calibration ({defense})")
        if self.calibration and (shared := self.data.shared(self.calibration)):
            raise ValueError(
                f"a defense may not learn from the images it is judged on, got {shared} of {len(self.data)} as calibration "
                f"('{self.data.name}', {self.data.split}; {defense})"
            )

    @property
    def defense_name(self) -> str:
        if self.defense is not None:
            return as_defense(self.defense).name
        return "+".join(dict.fromkeys(part["name"] for part in self._inside.get("inside", {}).values())) or "none"

    @property
    def _inside(self) -> dict[str, Any]:
        """The defenses inside the model, by the names of their modules."""
        active = [part for part in removable(self.model) if not part.bypassed]
        named = {part.where or name: part.config for name, part in self.model.named_modules() if part in active}
        return {"inside": named} if named else {}

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the rows; two cells with the same identity have the same rows."""
        return self._crafting() | {
            **({"defense": self._inside.get("inside")} if self.defense is None else as_defense(self.defense).identity),
            "calibration": self.calibration.fingerprint if self.calibration else None,
            "attack": self.attack.config,
            "knowledge": self.knowledge,
            **self._helped,
        }

    def _crafting(self) -> dict[str, Any]:
        """Everything that decides the examples crafted on the undefended model."""
        code = own_code(self.attack) or self.attack.code
        return {
            "data": {
                "name": self.data.name,
                "split": self.data.split,
                "examples": len(self.data),
                "fingerprint": self.data.fingerprint,
                **self.data.marks,
            },
            "model": {"name": self.model_name, "fingerprint": fingerprint(self.model, self._shape)} | self._inside,
            "attack": self.attack.for_replay().config,
            "revision": REVISION,
            "seed": self.seed,
            **({"attack_code": code} if code else {}),
        }

    @property
    def _helped(self) -> dict[str, str]:
        """The key of the source, if its examples are tried."""
        if self.source is None or self.knowledge != "adaptive":
            return {}
        return {"source": fingerprint(self.source, self._shape)}

    @property
    def _shape(self) -> tuple[int, ...] | None:
        """(C, H, W) of the images."""
        return next((tuple(batch.x.shape[1:]) for batch in self.data[:1].batches(1)), None)

    @property
    def replays(self) -> bool:
        """Whether the examples are crafted on the undefended model; then they are the same for all defenses."""
        return self.knowledge == "oblivious" or (self.defense is None and self.knowledge == "white-box")

    @property
    def slug(self) -> str:
        """A file name: words for people, and a hash that tells all cells apart."""
        return _slug([self.data.name, self.model_name, self.defense_name, self.attack.name, self.knowledge], self.identity)

    @property
    def crafting_slug(self) -> str:
        """The name of the folder that holds the crafted examples; cells that replay the same ones share it."""
        if not self.replays:
            return self.slug
        return _slug([self.data.name, self.model_name, self.attack.name], self._crafting())

    def __str__(self) -> str:
        return f"{self.defense_name} · {self.attack.name} · {self.knowledge}"


def cells(
    data: Data,
    model: nn.Module,
    model_name: str,
    defenses: Iterable[Defense | Sanitizer | Plan | None],
    attacks: Iterable[Attack],
    knowledge: Iterable[Knowledge],
    *,
    seed: int = 0,
    calibration: Data | None = None,
    effort: Effort = "standard",
    l2: Radius | None = None,
    source: nn.Module | None = None,
) -> list[Cell]:
    """Every combination, defense by defense; on the undefended model, replayed and white-box attacks are one cell.

    calibration: for the defenses that need data.
    effort, l2: of the adaptive attacker.  It is run once for each norm and budget of the attacks, the smallest first.  For
        attacks without a budget it is run in the L2 ball of radius ``l2``; "usual" is the usual one for the data.
    source: see `Cell`.
    """
    attacks, knowledge = list(attacks), list(knowledge)
    attackers: list[tuple[Attack, Knowledge]] = [(a, k) for a, k in itertools.product(attacks, knowledge) if k != "adaptive"]
    if "adaptive" in knowledge:
        nearest = l2_budget(l2, data.name)
        balls = {attack.budget if attack.budget[1] else ("L2", nearest) for attack in attacks}
        ordered = sorted(((norm, eps) for norm, eps in balls if eps), key=lambda ball: (get_args(Norm).index(ball[0]), ball[1]))
        attackers += [(Adaptive(norm=norm, eps=eps, effort=effort), "adaptive") for norm, eps in ordered]
    return [
        Cell(
            data=data,
            model=model,
            model_name=model_name,
            defense=defense,
            attack=attack,
            knowledge=known,
            seed=seed,
            calibration=calibration if defense is not None and as_defense(defense).needs_data else None,
            source=source,
        )
        for defense in defenses
        for attack, known in attackers
        if defense is not None or known != "oblivious" or "white-box" not in knowledge  # otherwise it would be the same cell
    ]


def _slug(words: Sequence[str], identity: dict[str, Any]) -> str:
    """The words, cut to their ends if too long for a file's name, and a hash."""
    parts = [re.sub(r"[^\w.-]+", "-", word) for word in words]
    if len("_".join(parts).encode()) > LONGEST:
        parts = [part.encode()[-(LONGEST // len(parts) - 1) :].decode(errors="ignore") for part in parts]
    return "_".join([*parts, hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]])
