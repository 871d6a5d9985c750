"""A forecast of how long a run will take: first from one pass of each network, then from measured times."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from sanact.attacks import APGD, FAB, Attack, AutoAttack, RayS, Square
from sanact.attacks.autoattack import STAGES
from sanact.data import Batch
from sanact.device import one_thread
from sanact.evaluation.adaptive import Adaptive
from sanact.evaluation.cell import Cell
from sanact.evaluation.diagnostics import EXAMPLES
from sanact.evaluation.honesty import draws_of
from sanact.evaluation.judge import Bench, Case, checked
from sanact.evaluation.threat import Effort

TIMED = 16  # images of the timed pass
CHEAP = 150  # passes of the diagnostics, besides those of their attacks
CHECKED = 100  # and as many passes more as the attack itself takes, but at most these
TRUST = 0.5  # weight of the measured times of more general kinds: that of this many units of the cell itself
ADAPTIVE: dict[Effort, float] = {"quick": 300, "standard": 1500, "thorough": 8000}


Key = tuple[int, Hashable]  # of a unit: the number of its cell, and which of its units it is


@dataclass(frozen=True)
class Part:
    """A unit of work still to come.

    guess: seconds, from one pass of the network.  kinds: groups that it belongs to, the most specific first.
    """

    guess: float
    kinds: tuple[Hashable, ...]


@dataclass
class Forecast:
    """The rest of a run, in seconds.

    The forecast for a unit is its guess times the ratio of measured to guessed time of its kinds so far.  Each kind begins with
    the ratio of the next, more general one, as if that had been seen ``TRUST`` times.
    workers: how many work at once.  clock: in seconds.
    """

    parts: dict[Key, Part]
    workers: int
    clock: Callable[[], float] = time.monotonic
    done: float = 0.0
    begun: dict[Key, float] = field(default_factory=dict)
    measured: dict[Hashable, float] = field(default_factory=lambda: defaultdict(float))
    guessed: dict[Hashable, float] = field(default_factory=lambda: defaultdict(float))

    def start(self, key: Key) -> None:
        self.begun[key] = self.clock()

    def end(self, key: Key, seconds: float) -> None:
        """Note that a unit is done, after this many seconds of its worker."""
        part = self.parts.pop(key)
        self.begun.pop(key, None)
        self.done += seconds
        for kind in part.kinds:
            self.measured[kind] += seconds
            self.guessed[kind] += part.guess

    def keep(self, cell: int, units: Set[Hashable]) -> None:
        """Note that only these units of this cell are still to be done."""
        self.parts = {key: part for key, part in self.parts.items() if key[0] != cell or key[1] in units}

    def guess(self, cell: int) -> float:
        """The guess for the rest of a cell."""
        return sum(part.guess for key, part in self.parts.items() if key[0] == cell)

    def expected(self, part: Part) -> float:
        ratio = 1.0
        for kind in reversed(part.kinds):
            if kind in self.measured:
                weight = TRUST * part.guess
                ratio = (self.measured[kind] + weight * ratio) / (self.guessed[kind] + weight)
        return part.guess * ratio

    @property
    def work(self) -> float:
        """The seconds of work that are left, for all workers together."""
        return sum(self._ahead().values())

    @property
    def left(self) -> float:
        """The seconds until the end, where each unit occupies one worker."""
        ahead = self._ahead()
        return max(sum(ahead.values()) / self.workers, max(ahead.values(), default=0.0))

    @property
    def share(self) -> float:
        """The share of the work that is done."""
        now = self.clock()
        done = self.done + sum(min(now - since, self.expected(self.parts[key])) for key, since in self.begun.items())
        return done / (done + work) if (work := self.work) else 1.0

    def _ahead(self) -> dict[Key, float]:
        now = self.clock()
        return {
            key: max(self.expected(part) - (now - self.begun[key] if key in self.begun else 0.0), 0.0)
            for key, part in self.parts.items()
        }


def guesses(cells: Iterable[Cell], folder: Path, batch_size: int, device: torch.device) -> dict[Key, Part]:
    """The remaining units of work of cells, by the number of the cell and the first position of the batch, or "checks".

    Raises what `judge.checked` raises.
    """
    cells, parts, timed = list(cells), dict[Key, Part](), dict[int, tuple[float, float]]()
    crafted: set[tuple[str, int]] = set()  # by earlier cells, for later ones to replay
    for number, (bench, batch) in enumerate(checked(cells, device=device)):
        if id(bench.judged) not in timed:
            timed = {id(bench.judged): seconds_per_pass(bench, batch)}
        base, judged = timed[id(bench.judged)]
        cell, case = cells[number], Case(cells[number], folder)
        draws = draws_of(bench.judged) if isinstance(cell.attack, Adaptive) else 1
        many, attacked = draws * passes(cell.attack), base if cell.replays else judged
        for positions in case.missing(batch_size):
            known = "examples" in case.given(positions) or (cell.crafting_slug, int(positions[0])) in crafted
            crafted |= {(cell.crafting_slug, int(positions[0]))} if cell.replays else set()
            seconds = len(positions) * (judged + (0.0 if known else many * attacked))
            parts[number, int(positions[0])] = Part(seconds, _kinds(number, cell, "replay" if known else "batch"))
        if cell.knowledge != "oblivious":
            seconds = min(EXAMPLES, len(cell.data)) * judged * (CHEAP + min(many, CHECKED))
            parts[number, "checks"] = Part(seconds, _kinds(number, cell, "checks"))
    return parts


def _kinds(number: int, cell: Cell, work: str) -> tuple[Hashable, ...]:
    return (work, number), (work, cell.knowledge, cell.attack), (work, type(cell.attack))


def seconds_per_pass(bench: Bench, batch: Batch) -> tuple[float, float]:
    """Seconds for one image, forward and backward: in the undefended model, and in the judged one."""
    x = batch.x[:TIMED].to(bench.device)
    return _timed(bench.base, x), _timed(bench.judged, x)


def _timed(model: nn.Module, x: torch.Tensor) -> float:
    """The shorter of two passes, after a first one for libraries to warm up; nobody else may use the model meanwhile."""
    taken = []
    with one_thread(), torch.enable_grad():
        for _ in range(3):
            start = time.perf_counter()
            point = x.clone().requires_grad_()
            logits = model(point)
            with suppress(Exception):  # a model may have no gradient; the judge will report it
                torch.autograd.grad(logits.sum(), point, allow_unused=True)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            taken.append(time.perf_counter() - start)
    return min(taken[1:]) / len(x)


def passes(attack: Attack) -> float:
    """About how many passes, forward and backward, the attack takes for an example that withstands it.

    It is fewer if examples fall early, which cannot be known before.  A user's attack may have an attribute ``passes``.
    """
    if isinstance(own := getattr(attack, "passes", None), (int, float)):
        return float(own)
    match attack:
        case Adaptive():
            return ADAPTIVE[attack.effort]
        case AutoAttack():
            return sum(passes(attack.attack(name)) for name in STAGES[attack.version])
        case Square() | RayS():
            return attack.queries / 3
        case APGD(loss="targeted-dlr") | FAB(targets=int()):
            return attack.steps * attack.restarts * (attack.targets or 1)
    return float(math.prod(getattr(attack, name, 1) for name in ("steps", "restarts", "search_steps", "draws")))
