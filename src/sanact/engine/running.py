"""A run: units of work are handed to an engine, and only this process writes the results to files."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sanact.data import Integers
from sanact.engine.finished import is_done, tidy
from sanact.engine.forecast import Forecast, Key
from sanact.engine.work import TRIES, Batch, Checks, Done, Engine, Refused, Unit
from sanact.evaluation.cell import Cell
from sanact.evaluation.crafted import examples_of
from sanact.evaluation.diagnostics import Check
from sanact.evaluation.examining import concluded, journal_of, looked_at
from sanact.evaluation.judge import KEPT, Case, Judged, circumstances
from sanact.evaluation.rows import Parts, accuracy, write_rows
from sanact.files import alone
from sanact.progress import Tell

log = logging.getLogger(__name__)

REDRAWN = 1.0  # seconds between updates of the time left


@dataclass(eq=False)
class Open:
    """A cell of a run.

    number: its position among the workers' cells.  timed: whether a batch of it has been timed, or need not be.  case: set when
    it is begun.  todo: batches to be handed out.  out: batches being judged.  checks: None until they are there; asked: whether
    they are in progress, or not wanted.
    """

    number: int
    cell: Cell
    path: Path
    timed: bool = True
    case: Case | None = None
    todo: deque[Integers] = field(default_factory=deque)
    out: list[Integers] = field(default_factory=list)
    checks: list[Check] | None = None
    asked: bool = False

    def begin(self, case: Case, batch_size: int) -> None:
        self.case, self.todo = case, deque(case.missing(batch_size))
        self.asked = self.cell.knowledge == "oblivious"
        self.checks = [] if self.asked else None

    @property
    def is_complete(self) -> bool:
        return not (self.todo or self.out) and self.checks is not None

    def next(self, folder: Path, elsewhere: set[tuple[str, int]]) -> Unit | None:
        """The next unit that can be done.  elsewhere: examples being crafted, by the folder they go to and their position."""
        assert self.case is not None
        first = looked_at(self.cell)
        if not self.asked and all(positions[0] >= first for positions in (*self.todo, *self.out)):
            self.asked = True
            by = self.case.rows(slice(first))["by"].to_pylist()[:first]
            return Checks(self.number, by, journal_of(self.cell, folder))
        for positions in self.todo:
            given = self.case.given(positions)
            if "examples" in given or not elsewhere & set(self.crafts(positions)):
                self.todo = deque(other for other in self.todo if other is not positions)
                self.out.append(positions)
                return Batch(self.number, positions, given)
        return None

    def crafts(self, positions: Integers) -> Iterator[tuple[str, int]]:
        """The examples of a batch, if others may replay them."""
        if self.cell.replays:
            slug = self.cell.crafting_slug
            yield from ((slug, place) for place in self.cell.data.index[positions].tolist())


class Run:
    """The cells to be judged, an engine, and the folder.

    keep: as in `engine.run`.  Cells to be timed have one batch judged before all others, those with the most work first, so
    that the forecast soon has measured times; then they follow in order.
    Several runs may share the folder.  A cell is begun under a lock, shared by all cells that replay the same examples;
    while another run holds it, other cells are taken.
    """

    def __init__(
        self,
        cells: Iterable[Open],
        engine: Engine,
        folder: Path,
        *,
        batch_size: int,
        keep: int | None,
        device: str | torch.device,
        forecast: Forecast,
        tell: Tell,
    ) -> None:
        self.waiting, self.begun = list(cells), list[Open]()
        self.engine, self.folder, self.batch_size, self.device = engine, folder, batch_size, device
        self.wanted, self.keep = keep or 0, KEPT if keep is None else keep
        self.locks: dict[str, tuple[ExitStack, Parts]] = {}
        self.flying: dict[Future[Done | Refused], tuple[Open, Unit]] = {}
        self.forecast, self.tell, self.told = forecast, tell, 0.0
        self.errors: list[Exception] = []  # of cells that were given up

    def go(self) -> None:
        try:
            while self.waiting or self.begun:
                while len(self.flying) < self.engine.room and (found := self._next()):
                    self._hand_out(*found)
                if self.flying:
                    for future in wait(self.flying, REDRAWN, FIRST_COMPLETED).done:
                        self._take(*self.flying.pop(future), future)
                    self._tell()
                elif self.waiting and not self.begun:  # other runs hold all that is left
                    self._begin(self.waiting[0], patient=True)
        finally:
            for lock, _ in self.locks.values():
                lock.close()

    def _next(self) -> tuple[Open, Unit] | None:
        batches = [(one, unit.positions) for one, unit in self.flying.values() if isinstance(unit, Batch)]
        elsewhere = {example for one, positions in batches for example in one.crafts(positions)}
        for one in self.begun:
            if (one.timed or not one.out) and (unit := one.next(self.folder, elsewhere)):
                return one, unit
        for one in sorted(self.waiting, key=self._turn):
            if self._begin(one, patient=False) and one.case and (unit := one.next(self.folder, elsewhere)):
                return one, unit
        return None

    def _turn(self, one: Open) -> tuple[bool, float]:
        """The sort key for a cell's turn."""
        return one.timed, one.number if one.timed else -self.forecast.guess(one.number)

    def _begin(self, one: Open, *, patient: bool) -> bool:
        """Begin a cell, unless another run works on it; patient: wait for that run."""
        slug = one.cell.crafting_slug
        if slug not in self.locks:
            lock = ExitStack()
            if not lock.enter_context(alone(self.folder / ".locks" / f"{slug}.lock", wait=patient)):
                lock.close()
                return False
            self.locks[slug] = lock, examples_of(one.cell, self.folder)
        self.waiting.remove(one)
        self.begun.append(one)
        if is_done(one.cell, one.path, self.wanted):
            self._close(one)
            return True
        one.begin(Case(one.cell, self.folder, keep=self.keep, crafted=self.locks[slug][1]), self.batch_size)
        self.forecast.keep(one.number, {int(positions[0]) for positions in one.todo} | ({"checks"} if not one.asked else set()))
        if one.is_complete:
            self._finish(one)
        return True

    def _hand_out(self, one: Open, unit: Unit) -> None:
        self.forecast.start(key_of(unit))
        self._tell(f"{one.cell}{': diagnostics' if isinstance(unit, Checks) else ''}")
        self.flying[self.engine.submit(unit)] = one, unit

    def _take(self, one: Open, unit: Unit, future: Future[Done | Refused]) -> None:
        answer = self._answer(one, unit, future)
        self.forecast.end(key_of(unit), answer.seconds)
        if one not in self.begun:  # given up while this unit was out
            return
        if isinstance(answer, Refused):
            self._give_up(one, answer.error)
            return
        assert one.case is not None
        if isinstance(unit, Batch):
            assert isinstance(answer.result, Judged)
            one.case.take(answer.result)
            one.out = [positions for positions in one.out if positions is not unit.positions]
            if not one.timed:
                one.timed = True
                if one.todo:
                    self._put_down(one)
        else:
            assert isinstance(answer.result, list)
            one.checks = answer.result
        if one.case and one.is_complete:
            self._finish(one)

    def _answer(self, one: Open, unit: Unit, future: Future[Done | Refused]) -> Done | Refused:
        try:
            return future.result()
        except self.engine.died as error:
            what = "diagnostics"
            if isinstance(unit, Batch):
                index = one.cell.data.index[unit.positions]
                what = f"images {index[0]} to {index[-1]}"
            why = " ".join(str(error).split())[:300]
            raise RuntimeError(
                f"{TRIES} workers died, one after the other, at the {what} of '{one.cell}': usually memory ran out; try a "
                f"smaller batch size or fewer workers ({why})"
            ) from error

    def _give_up(self, one: Open, error: Exception) -> None:
        """Leave a cell that cannot be judged, for the others to go on; what is judged of it stays."""
        log.error("%s: %s", one.cell, error)
        self.errors.append(error)
        self.forecast.keep(one.number, {key_of(unit)[1] for other, unit in self.flying.values() if other is one})
        self._leave(one)

    def _finish(self, one: Open) -> None:
        assert one.case is not None and one.checks is not None
        rows = one.case.rows()
        found = concluded(one.cell, rows, one.checks)
        write_rows(rows, one.path, circumstances(one.cell, self.device) | found)
        left = accuracy(rows)
        log.info("%s: %.1f %% of %d images, %s", one.cell, left.value, left.n, found.get("verdict", "replayed"))
        log.debug("its rows: %s", one.path)
        self._close(one)

    def _close(self, one: Open) -> None:
        """Close a cell whose rows are there: remove leftovers, and release the lock."""
        tidy(one.cell, one.path)
        self.forecast.keep(one.number, set())
        self._leave(one)

    def _put_down(self, one: Open) -> None:
        """Put a cell back, to be taken up later."""
        one.case = None
        self.waiting.append(one)
        self._leave(one)

    def _leave(self, one: Open) -> None:
        self.begun.remove(one)
        slug = one.cell.crafting_slug
        if not any(other.cell.crafting_slug == slug for other in self.begun):
            lock, _ = self.locks.pop(slug)
            lock.close()

    def _tell(self, what: str | None = None) -> None:
        now = time.monotonic()
        if what is not None or now - self.told > REDRAWN / 2:
            self.told = now
            self.tell(self.forecast.share, self.forecast.left, what)


def key_of(unit: Unit) -> Key:
    """The key of a unit in the forecast."""
    return unit.cell, int(unit.positions[0]) if isinstance(unit, Batch) else "checks"
