"""Running cells: each to a file of rows, skipping finished ones; here, in several processes, or on a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch

from sanact.device import pick_device
from sanact.engine.finished import is_done, unfinished
from sanact.engine.forecast import Forecast, guesses
from sanact.engine.local import Here, Local, usual_workers
from sanact.engine.ray import OnRay
from sanact.engine.running import Open, Run
from sanact.engine.work import Engine as Doing
from sanact.engine.work import Unjudged
from sanact.evaluation.cell import Cell
from sanact.evaluation.judge import KEEP
from sanact.evaluation.packed import is_there
from sanact.progress import duration, forecast_bar, say
from sanact.remembering import remembered
from sanact.values import BATCH_SIZE, Maybe, OneOf, Whole, shown

log = logging.getLogger(__name__)

Engine = Literal["local", "ray"]
WORKERS = Whole(1, 10_000)
SHORT = 20  # seconds of work below which no workers are started by default, because starting them takes time, too
LONG = 60  # seconds of a run above which its expected duration is announced

__all__ = ["Engine", "Look", "Outlook", "Unjudged", "folder", "outlook", "run"]


def run(
    cells: Iterable[Cell],
    *,
    out: Path | str,
    engine: Engine = "local",
    workers: int | None = None,
    address: str | None = None,
    batch_size: int = 100,
    device: str = "auto",
    keep: int | None = None,
    progress: bool = False,
) -> list[Path]:
    """Judge each cell and return the files of rows, in the order of the cells.

    out: the folder; ``<cell>.parquet`` each.  A finished cell is skipped, and an interrupted one continues.
    engine: "local" judges on this machine.  "ray" judges on a Ray cluster, where every host must have sanact and the packages
        that the model needs.
    workers: processes that judge, a batch of a cell at a time.  The rows are the same, to the bit, for any number.  1 is
        this process alone.  None is one per core or per GPU; for work of seconds, this process alone.
    address: of the Ray cluster; None starts one on this machine.
    device: "auto" is CUDA if available.  On a CPU each worker computes with one thread: more would change the last bits.
    keep: examples of each cell that must be there; a cell with fewer is judged again.  None requires none, but keeps a few.
    progress: announce the duration of a run of more than a minute, and draw a bar.
    Only this process writes to the folder, apart from the notes of diagnostics.  Several runs may share a folder: each takes
    cells that no other works on, and waits for the last ones.
    A cell that ends with an error of the model's, an answer that is no number for example, is given up, and the others go on;
    then `Unjudged`, a ValueError, is raised.
    If a worker dies, another judges its batch again, up to three times in all; then the run ends with RuntimeError.
    Raises ValueError for a file that cannot be read, or that has a cell's name but other rows (it is left as it is); and for
    cells that cannot be sent to other processes.
    """
    with remembered():
        wanted = _Wanted.of(cells, out, engine, workers, address, batch_size, device, keep)
        if there := len(set(wanted.paths)) - len(wanted.todo):
            log.info("%d of %d cells are there already, in %s", there, len(set(wanted.paths)), wanted.out)
        if not wanted.todo:
            return wanted.paths
        forecast = wanted.forecast()
        with _start(wanted, forecast, progress) as doing, forecast_bar("judging", show=progress) as tell:
            forecast.workers = doing.workers
            log.debug("%d cells on %s, %s, workers: %d", len(wanted.todo), wanted.device, wanted.engine, doing.workers)
            for one in wanted.todo:
                one.timed = forecast.left <= LONG
            if progress and forecast.left > LONG:
                say(f"{len(wanted.todo)} cells, {len(forecast.parts)} batches: about {duration(forecast.left)}")
            judging = Run(
                wanted.todo,
                doing,
                wanted.out,
                batch_size=batch_size,
                keep=keep,
                device=device,
                forecast=forecast,
                tell=tell,
            )
            judging.go()
        if given_up := judging.errors:
            if len(given_up) == len(wanted.todo):
                raise given_up[0]
            judged = [path for path in wanted.paths if is_there(path)]
            told = f"{len(given_up)} of {len(wanted.todo)} cells could not be judged: {given_up[0]}"
            raise Unjudged(told, judged) from given_up[0]
        return wanted.paths


class Look(NamedTuple):
    """The state of a cell, and what is left to do.

    path: of its rows.  batches: still to be judged, out of ``of``.  seconds: of work for them and for the diagnostics.
    """

    cell: Cell
    path: Path
    batches: int
    of: int
    seconds: float

    @property
    def state(self) -> str:
        if not self.seconds:
            return "done"
        return f"{self.of - self.batches} of {self.of} batches done" if self.batches < self.of else "to do"


class Outlook(NamedTuple):
    """The cells of a run, and the seconds that it will take with this many workers."""

    looks: list[Look]
    seconds: float
    workers: int


def outlook(
    cells: Iterable[Cell],
    *,
    out: Path | str,
    engine: Engine = "local",
    workers: int | None = None,
    address: str | None = None,
    batch_size: int = 100,
    device: str = "auto",
    keep: int | None = None,
) -> Outlook:
    """What `run` would do with these arguments, and how long it would take.

    Nothing is written.  Only the checks of `run`, and a timed pass of each network, are run.  The time assumes examples that
    withstand their attacks; if most fall, it is less.
    """
    with remembered():
        wanted = _Wanted.of(cells, out, engine, workers, address, batch_size, device, keep)
        forecast = wanted.forecast()
        number = {one.path: one.number for one in wanted.todo}
        looks = []
        for cell, path in zip(wanted.cells, wanted.paths, strict=True):
            of, mine = -(-len(cell.data) // batch_size), number.get(path)
            parts = {key: part for key, part in forecast.parts.items() if key[0] == mine}
            batches = sum(key[1] != "checks" for key in parts)
            looks.append(Look(cell, path, batches, of, sum(part.guess for part in parts.values())))
        forecast.workers = workers or _usual(wanted, forecast)
        return Outlook(looks, forecast.left, forecast.workers)


def folder(out: Path | str) -> Path:
    """The path, which must not be empty or a file; else ValueError."""
    if not str(out) or os.path.isfile(out):
        raise ValueError(f"out must be a folder, got {'the file ' * bool(str(out))}'{out}' (run)")
    return Path(out)


class _Wanted(NamedTuple):
    """The request for a run, and which of its cells are still to be judged."""

    cells: Sequence[Cell]
    paths: list[Path]
    todo: list[Open]
    out: Path
    engine: Engine
    workers: int | None
    address: str | None
    batch_size: int
    device: torch.device

    @classmethod
    def of(
        cls,
        cells: Iterable[Cell],
        out: Path | str,
        engine: Engine,
        workers: int | None,
        address: str | None,
        batch_size: int,
        device: str,
        keep: int | None,
    ) -> _Wanted:
        OneOf(get_args(Engine))(engine, "engine", "run")
        Maybe(WORKERS)(workers, "workers", "run")
        BATCH_SIZE(batch_size, "batch_size", "run")
        Maybe(KEEP)(keep, "keep", "run")
        if address is not None and engine != "ray":
            raise ValueError(f"address is for a Ray cluster: engine must be 'ray', got '{engine}' (run)")
        cells, out = list(cells), folder(out)
        if strangers := [cell for cell in cells if not isinstance(cell, Cell)]:
            raise TypeError(f"cells must be of type Cell, got {shown(strangers[0])} (run)")
        paths = [out / f"{cell.slug}.parquet" for cell in cells]
        each = dict(zip(paths, cells, strict=True))  # a cell given twice is judged once
        kept = keep or 0
        left = [path for path, one in each.items() if not is_done(one, path, kept) or unfinished(one, path).folder.exists()]
        todo = [Open(number, each[path], path) for number, path in enumerate(left)]
        return cls(cells, paths, todo, out, engine, workers, address, batch_size, pick_device(device))

    def forecast(self) -> Forecast:
        """The expected work; raises what `check_plans` raises."""
        return Forecast(guesses([one.cell for one in self.todo], self.out, self.batch_size, self.device), 1)


def _start(wanted: _Wanted, forecast: Forecast, progress: bool) -> Doing:
    cells, device, workers = [one.cell for one in wanted.todo], wanted.device, wanted.workers
    if wanted.engine == "ray":
        return OnRay(cells, device, workers, wanted.address)
    many = min(workers or _usual(wanted, forecast), len(forecast.parts))
    if many <= 1:
        return Here(cells, device)
    try:
        return Local(cells, device, many)
    except ValueError as error:
        if workers:
            raise
        if progress:
            say(f"judging in this process alone: {error}")
        return Here(cells, device)


def _usual(wanted: _Wanted, forecast: Forecast) -> int:
    return usual_workers(wanted.device) if forecast.work > SHORT else 1
