"""What a plan is worth: its accuracy on clean images and under attack, as the judge counts it, on ever more images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from sanact.attacks import Attack
from sanact.data import Data, Integers
from sanact.defenses.candidate import Candidate, defense_of
from sanact.device import one_thread
from sanact.engine.finished import is_done, tidy
from sanact.evaluation.cell import Cell, cells
from sanact.evaluation.judge import Bench, Case, circumstances
from sanact.evaluation.rows import hits, read_rows, write_rows
from sanact.evaluation.threat import Effort, Knowledge, Radius, l2_budget
from sanact.faithful import BATCHES
from sanact.parts import parts_of
from sanact.report.results import CLEAN, attack_title
from sanact.search.beginning import Beginnings
from sanact.search.race import Hits, beaten_by, rungs, too_dear

BATCH = 100  # images at once
TIMED = 5  # passes, of which the fastest counts


class Outcome(NamedTuple):
    """What came of a plan.

    hits: by figure, of each image that was seen, in the order of `Objective.order`; "clean" is of all of them.
    pruned: why it was not looked at to the end, or "".  overhead: time a pass, in percent more than the undefended; or None.
    seconds: that it took.
    """

    hits: Hits
    pruned: str = ""
    overhead: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Judges plans; see `sanact.search` for what the arguments mean.

    folder: for rows.  first: images before the first decision.  l2: at which attacks without a budget are counted.
    beginnings: where plans share what they compute before their first sanitizer.
    """

    model: nn.Module
    model_name: str
    data: Data
    attacks: tuple[Attack, ...]
    knowledge: Knowledge
    effort: Effort
    drop: float
    overhead: bool
    calibration: Data | None
    folder: Path
    device: str
    seed: int
    first: int
    l2: Radius | None = "usual"
    beginnings: Beginnings = field(default_factory=Beginnings, compare=False, repr=False)

    def cells(
        self, plan: Candidate, data: Data | None = None, *, also: Sequence[Knowledge] = (), effort: Any = None
    ) -> list[Cell]:
        """The cells of a candidate, one an attack.

        data: other images.  also: further attackers.  effort: of the adaptive attacker, if it is another.
        """
        return cells(
            self.data if data is None else data,
            self.model,
            self.model_name,
            [defense_of(plan)],
            self.attacks,
            list(dict.fromkeys((self.knowledge, *also))),
            seed=self.seed,
            calibration=self.calibration,
            effort=effort or self.effort,
            l2=self.l2,
        )

    @property
    def figures(self) -> list[str]:
        """What the objectives are called: clean accuracy, and that under each attack with what the attacker knows."""
        attacks = [attack_title(cell.attack.config, l2=self.radius(cell)) for cell in self.cells({})]
        return [CLEAN, *(f"{self.knowledge}: {title}" for title in attacks)]

    @property
    def order(self) -> Integers:
        """Positions in the data, shuffled, so that the first images are like all of them."""
        return np.random.default_rng(self.seed).permutation(len(self.data)).astype(np.int64)

    def judge(
        self, plan: Candidate, rivals: Sequence[Outcome] = (), *, undefended: Hits | None = None, upto: int | None = None
    ) -> Outcome:
        """How a plan fares.

        rivals: plans that end this one where they beat it; see `race.beaten`.  undefended: what says whether it costs too
        much; None, if it is the undefended model.  upto: images under attack, in place of all.
        Raises what the judge raises.
        """
        start, judged = time.perf_counter(), self.cells(plan)
        bench = self._undefended.of(judged[0])
        first = next(self.data.batches(min(BATCH, len(self.data))))
        begun = self.beginnings.of(bench.judged, first.x[: max(BATCHES)].to(bench.device))
        overhead = self._overhead(bench) if self.overhead and plan else (0.0 if self.overhead else None)
        if self.knowledge == "oblivious":  # others attack the plan itself, and see no images twice
            bench.judged = begun
        bench.check(first)
        names, found = self.figures, dict[str, NDArray[np.bool_]]()
        found[CLEAN] = self._clean(begun, bench.device)
        benches = [bench, *(bench.of(cell) for cell in judged[1:])]
        pruned = ""
        if undefended is not None and too_dear(found[CLEAN], undefended[CLEAN], self.drop):
            pruned = f"it costs more than {self.drop:g} points of clean accuracy"
        lighter = [one.hits for one in rivals if (one.overhead or 0.0) <= (overhead or 0.0)]
        last, cases = upto or len(self.data), [Case(cell, self.folder, keep=0) for cell in judged]
        for seen in rungs(last, self.first) if not pruned else []:
            for name, bench, case in zip(names[1:], benches, cases, strict=True):
                found[name] = self._attacked(bench, case, seen)
            if seen < last and (figure := beaten_by(found, lighter)):
                pruned = f"after {seen} images another plan was better: {figure}"
                break
        return Outcome(found, pruned, overhead, time.perf_counter() - start)

    @cached_property
    def _undefended(self) -> Bench:
        """Of the model as it is, a copy of which each plan gets."""
        return Bench(self.cells({})[0], self.device)

    @torch.no_grad()
    def _clean(self, network: nn.Module, device: torch.device) -> NDArray[np.bool_]:
        """Whether a network has each clean image right."""
        for part in parts_of(network):
            part.rewind()
        with one_thread():
            batches = self.data.batches(BATCH, order=self.order)
            right = [(network(one.x.to(device)).argmax(1).cpu() == one.y).numpy() for one in batches]
            return np.concatenate(right)

    def _attacked(self, bench: Bench, case: Case, seen: int) -> NDArray[np.bool_]:
        """Whether each of the first images in our order withstood; what was judged before is read."""
        cell, order = case.cell, self.order[:seen]
        path = self.folder / f"{cell.slug}.parquet"
        if is_done(cell, path, 0):
            return self._hits(read_rows(path).take(order), cell)
        assert case.finished is not None
        index = cell.data.index[order]
        missing = np.sort(order[case.finished.missing(index)])
        for start in range(0, len(missing), BATCH):
            positions = missing[start : start + BATCH]
            case.take(bench.judge(positions, **case.given(positions)))
        found = self._hits(case.finished.read(index), cell)
        if seen == len(cell.data):
            write_rows(case.rows(), path, circumstances(cell, self.device))
            tidy(cell, path)
        return found

    def _hits(self, rows: pa.Table, cell: Cell) -> NDArray[np.bool_]:
        return np.asarray(hits(rows, l2=self.radius(cell)).to_numpy(), dtype=bool)

    def radius(self, cell: Cell) -> float | None:
        """Of an attack that has no budget: at which it is counted; None is wherever it ends."""
        return None if cell.attack.budget[1] else l2_budget(self.l2, cell.data.name)

    @torch.no_grad()
    def _overhead(self, bench: Bench) -> float:
        """Time a pass in percent more than the undefended model, of the fastest of several, taken in turn."""
        x = next(self.data.batches(min(100, len(self.data)))).x.to(bench.device)
        times: dict[int, float] = {}
        for _ in range(TIMED):
            for which, network in enumerate((bench.base, bench.judged)):
                start = time.perf_counter()
                network(x).cpu()
                times[which] = min(times.get(which, np.inf), time.perf_counter() - start)
        return 100 * (times[1] / times[0] - 1)
