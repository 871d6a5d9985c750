"""How cells are run: each to a file of rows, skipping those that are there; here, by several processes, or on a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from rich.console import Console

from sanact.device import pick_device
from sanact.engine.finished import is_done, unfinished
from sanact.engine.forecast import Forecast, guesses
from sanact.engine.local import Here, Local, usual_workers
from sanact.engine.ray import OnRay
from sanact.engine.running import Open, Run
from sanact.engine.work import Engine as Doing
from sanact.evaluation.cell import Cell
from sanact.evaluation.judge import KEEP
from sanact.progress import duration, forecast_bar
from sanact.remembering import remembered
from sanact.values import BATCH_SIZE, Maybe, OneOf, Whole, shown

log = logging.getLogger(__name__)

Engine = Literal["local", "ray"]
WORKERS = Whole(1, 10_000)
SHORT = 20  # seconds of work for which no workers are started unless they are asked for: each takes some to begin
LONG = 60  # seconds of a run, after which it is said beforehand what it will take

__all__ = ["Engine", "Look", "Outlook", "folder", "outlook", "run"]


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

    out: the folder; ``<cell>.parquet`` each.  A cell whose rows are there is skipped, one that was interrupted goes on where
    it was.
    engine: "local" judges on this machine.  "ray" judges on a Ray cluster, each of whose hosts must have sanact, and the
        packages that the model needs.
    workers: processes that judge, a batch of a cell at a time; the rows are the same, to the bit, whatever their number.  1 is
        this process alone.  None takes one a core or, where there are GPUs, one a GPU; and this process for work of seconds.
    address: of the Ray cluster; None starts one on this machine.
    device: "auto" takes CUDA where there is one.  On a CPU each worker computes with one thread: more change the last bits.
    keep: examples of each cell that must stay: one of which fewer are left is judged again.  None asks for none, and keeps
        a few.
    progress: say what a run of more than a minute will take, and draw a bar.
    Only this process writes to the folder, but for the notes of diagnostics.  Several may work on one folder: each takes the
    cells that no other is at, and waits for the last ones.
    A batch whose worker dies is judged again by another, three times in all; then the run ends with RuntimeError.
    Raises ValueError for a file that cannot be read, or that has a cell's name but not its rows, which is left as it is; and
    for cells that cannot be sent to other processes.
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
                _say(f"{len(wanted.todo)} cells, {len(forecast.parts)} batches: about {duration(forecast.left)}")
            Run(
                wanted.todo,
                doing,
                wanted.out,
                batch_size=batch_size,
                keep=keep,
                device=device,
                forecast=forecast,
                tell=tell,
            ).go()
        return wanted.paths


class Look(NamedTuple):
    """What there is of a cell, and what is left to do.

    path: of its rows.  batches: still to be judged, of so many in all.  seconds: of work for them and for the diagnostics.
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
    """The cells of a run, and the seconds that it will take with so many workers."""

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
    """What `run` with these arguments would do, and how long it would take.

    Nothing is written, and nothing run but what `run` checks beforehand, and a pass of each network that is timed.  The time
    is that of examples which withstand their attacks; where most fall, it is less.
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
    """What a run was asked for, and which of its cells are to be judged."""

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
            raise ValueError(f"an address is that of a Ray cluster: engine must be 'ray', got '{engine}' (run)")
        cells, out = list(cells), folder(out)
        if strangers := [cell for cell in cells if not isinstance(cell, Cell)]:
            raise TypeError(f"cells must be of type Cell, got {shown(strangers[0])} (run)")
        paths = [out / f"{cell.slug}.parquet" for cell in cells]
        each = dict(zip(paths, cells, strict=True))  # a cell that is given twice is judged once
        kept = keep or 0
        left = [path for path, one in each.items() if not is_done(one, path, kept) or unfinished(one, path).folder.exists()]
        todo = [Open(number, each[path], path) for number, path in enumerate(left)]
        return cls(cells, paths, todo, out, engine, workers, address, batch_size, pick_device(device))

    def forecast(self) -> Forecast:
        """What is left, as it is guessed beforehand; raises what `check_plans` raises."""
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
            _say(f"judging in this process alone: {error}")
        return Here(cells, device)


def _usual(wanted: _Wanted, forecast: Forecast) -> int:
    return usual_workers(wanted.device) if forecast.work > SHORT else 1


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)
