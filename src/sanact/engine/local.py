"""Cells judged on this machine: in this process, or by several workers."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from tqdm import tqdm

from sanact.engine.work import TRIES, Desk, Done, Refused, Unit, pack, unpack
from sanact.evaluation.cell import Cell

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # of each worker: one, see `judge.Bench`


def usual_workers(device: torch.device) -> int:
    """One per core or, with GPUs, one per GPU."""
    import loky

    if device.type == "cuda":
        return torch.cuda.device_count() if device.index is None else 1
    count: int = loky.cpu_count()  # those that this process may use, given its affinity and control group
    return count


class Here:
    """Does each unit in this process, as it comes."""

    workers = room = 1
    died: tuple[type[Exception], ...] = ()

    def __init__(self, cells: Sequence[Cell], device: torch.device) -> None:
        self.desk = Desk(cells, str(device))

    def submit(self, unit: Unit) -> Future[Done | Refused]:
        future = Future[Done | Refused]()
        future.set_result(self.desk.answer(unit))
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class Local:
    """Several processes of loky's, each with a thread here that hands it units and replaces it when it dies.

    loky starts workers without running the user's script again, and they can take code from notebooks.  Each worker is a pool
    of one: in a larger pool, the death of one worker ends all, and nobody knows whose unit it was.  Python's own pool has the
    same problem, and also leaves its workers running when this process is killed.
    """

    died: tuple[type[Exception], ...] = (BrokenProcessPool,)

    def __init__(self, cells: Sequence[Cell], device: torch.device, workers: int) -> None:
        self.workers, self.room = workers, workers + 1  # one unit waits for the first free worker
        self.folder = Path(tempfile.mkdtemp(prefix="sanact-"))
        try:
            with (self.folder / "cells").open("wb") as file:
                pack(cells, file)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0
        self.devices = queue.SimpleQueue[str]()
        for worker in range(workers):
            self.devices.put(f"cuda:{worker % gpus}" if gpus else str(device))
        self.own, self.changing, self.stopped = threading.local(), threading.Lock(), False
        self.pools: set[Any] = set()
        self.threads = ThreadPoolExecutor(workers, initializer=self._take_place)

    def submit(self, unit: Unit) -> Future[Done | Refused]:
        return self.threads.submit(self._answer, unit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.changing:
            self.stopped = True
        self.threads.shutdown(wait=False, cancel_futures=True)
        for pool in list(self.pools):
            pool.shutdown(kill_workers=True)
        self.threads.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take_place(self) -> None:
        self.own.device, self.own.pool = self.devices.get(), None

    def _answer(self, unit: Unit) -> Done | Refused:
        for tries in range(1, TRIES + 1):
            try:
                answer: Done | Refused = self._pool().submit(_answer, unit).result()
                return answer
            except BrokenProcessPool:
                self.pools.discard(self.own.pool)
                self.own.pool = None
                if self.stopped or tries == TRIES:
                    raise
        raise AssertionError  # not reached

    def _pool(self) -> Any:
        """This thread's pool of one worker; a new one if there is none."""
        from loky import ProcessPoolExecutor

        with self.changing:
            if self.stopped:
                raise BrokenProcessPool("the run was stopped")
            if self.own.pool is None:
                self.own.pool = ProcessPoolExecutor(
                    1,
                    env=dict.fromkeys(THREADS, "1"),
                    initializer=_sit_down,
                    initargs=(self.folder, self.own.device, os.getpid()),
                )
                self.pools.add(self.own.pool)
            return self.own.pool


_desk: Desk  # of a worker


def _sit_down(folder: Path, device: str, parent: int) -> None:
    """The first thing that a worker does."""
    global _desk
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent stops its workers
    threading.Thread(target=_end_with, args=(parent, folder), daemon=True).start()
    tqdm.set_lock(threading.RLock())  # torch.fx draws bars; tqdm's default lock belongs to the system, and would survive a kill
    torch.set_num_threads(1)
    _desk = Desk(unpack(folder / "cells"), device)


def _end_with(parent: int, folder: Path) -> None:
    """Clean up if the parent was killed and could not tell its workers."""
    while os.getppid() == parent:
        time.sleep(1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _answer(unit: Unit) -> Done | Refused:
    return _desk.answer(unit)
