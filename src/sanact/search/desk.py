"""Workers that judge plans: this process, or several, each of them one plan at a time."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import torch
from tqdm import tqdm

from sanact.defenses.candidate import Candidate, from_dict, to_dict
from sanact.device import pick_device
from sanact.engine.local import THREADS, _end_with
from sanact.engine.work import pack, unpack
from sanact.remembering import remembered
from sanact.search.objective import Objective, Outcome
from sanact.search.race import Hits


class Desk:
    """Hands plans to workers; with one worker it judges them here, when they are submitted.

    If a worker dies, only its current plan is lost, and the next plan gets a new worker.
    """

    def __init__(self, objective: Objective, workers: int) -> None:
        self.objective, self.workers = objective, workers
        self.places: list[tuple[Any, Future[Outcome] | None]] = [(None, None)] * workers  # a pool of one, and what it is at
        self.folder = Path(tempfile.mkdtemp(prefix="sanact-"))

    def __enter__(self) -> Self:
        if self.workers > 1:
            with (self.folder / "objective").open("wb") as file:
                pack(cast(Any, [self.objective]), file)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for pool, _ in self.places:
            if pool is not None:
                pool.shutdown(kill_workers=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def submit(
        self, plan: Candidate, rivals: Sequence[Outcome] = (), *, undefended: Hits | None = None, upto: int | None = None
    ) -> Future[Outcome]:
        """The future result of `Objective.judge`; at most `workers` may be in progress."""
        if self.workers == 1:
            return self._here(plan, rivals, undefended, upto)
        place = next(i for i, (_, future) in enumerate(self.places) if future is None or future.done())
        try:
            future = self._pool(place).submit(_judge, to_dict(plan), rivals, undefended, upto)
        except BrokenProcessPool:  # it died between two plans, or at the last one
            self.places[place] = (None, None)
            future = self._pool(place).submit(_judge, to_dict(plan), rivals, undefended, upto)
        self.places[place] = (self.places[place][0], future)
        return cast("Future[Outcome]", future)

    def _here(self, *given: Any) -> Future[Outcome]:
        future = Future[Outcome]()
        plan, rivals, undefended, upto = given
        try:
            future.set_result(self.objective.judge(plan, rivals, undefended=undefended, upto=upto))
        except Exception as error:  # a model may raise any error
            future.set_exception(error)
        return future

    def _pool(self, place: int) -> Any:
        from loky import ProcessPoolExecutor

        pool, _ = self.places[place]
        if pool is None:
            device = pick_device(self.objective.device)
            several = device.type == "cuda" and device.index is None
            name = f"cuda:{place % torch.cuda.device_count()}" if several else str(device)
            begin = (self.folder, name, os.getpid())
            pool = ProcessPoolExecutor(1, env=dict.fromkeys(THREADS, "1"), initializer=_begin, initargs=begin)
            self.places[place] = (pool, None)
        return pool


_objective: Objective  # of a worker


def _begin(folder: Path, device: str, parent: int) -> None:
    """The first thing that a worker does."""
    from dataclasses import replace

    global _objective
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent stops its workers
    threading.Thread(target=_end_with, args=(parent, folder), daemon=True).start()
    tqdm.set_lock(threading.RLock())  # as in `engine.local`
    torch.set_num_threads(1)
    (packed,) = cast(list[Any], unpack(folder / "objective"))
    _objective = replace(packed, device=device)


def _judge(config: dict[str, Any], rivals: Sequence[Outcome], undefended: Hits | None, upto: int | None) -> Outcome:
    with remembered():
        return _objective.judge(from_dict(config), rivals, undefended=undefended, upto=upto)
