"""Cells judged on a Ray cluster: each unit is a task, which Ray places, and starts again elsewhere if its worker dies."""

from __future__ import annotations

import io
import signal
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, cast

import torch

from sanact.engine.work import TRIES, Desk, Done, Refused, Unit, packed, unpack
from sanact.evaluation.cell import Cell


class OnRay:
    """Tasks on a cluster at an address, or on one that is started on this machine and ends with the run.

    Each worker fetches the cells once, from the object store of its host.
    workers: tasks at once; None is one per core or, with GPUs, one per GPU.
    """

    def __init__(self, cells: Sequence[Cell], device: torch.device, workers: int | None, address: str | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise ValueError("the engine 'ray' needs Ray: pip install 'sanact[ray]'") from error
        content = packed(cells)
        self.ray: Any = ray  # its own type annotations are incomplete
        self.started, self.flying = not self.ray.is_initialized(), set[Any]()
        if self.started:
            _connect(self.ray, address, workers)
        try:
            resources = self.ray.cluster_resources()
            self.workers = self.room = workers or max(1, int(resources.get("GPU" if device.type == "cuda" else "CPU", 1)))
            task = self.ray.remote(_answer)
            self.task = task.options(
                num_cpus=1,
                num_gpus=1 if device.type == "cuda" else 0,
                max_retries=TRIES - 1,
                scheduling_strategy="SPREAD",
            )
            self.device, self.cells = device.type, self.ray.put(content)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.died = cast(tuple[type[Exception], ...], (self.ray.exceptions.RayError,))

    def submit(self, unit: Unit) -> Future[Done | Refused]:
        reference = self.task.remote([self.cells], unit, self.device)  # in a list, so the worker fetches them, not each task
        future: Future[Done | Refused] = reference.future()
        self.flying.add(reference)
        future.add_done_callback(lambda _: self.flying.discard(reference))
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.started:
            self.ray.shutdown()
            return
        for reference in list(self.flying):
            self.ray.cancel(reference, force=True)


def _connect(ray: Any, address: str | None, workers: int | None) -> None:
    """Join the cluster at an address, or start one here; Ray's own handler of SIGTERM is taken off again."""
    own = {"num_cpus": workers, "include_dashboard": False} if address is None else {}
    before = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level="error", **own)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"no Ray cluster at '{address}': {' '.join(str(error).split())[:300]}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _knock(address: str | None) -> None:
    """Raise OSError if nobody answers, because Ray itself would retry for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


_desks: dict[str, Desk] = {}  # in a worker: the desk of the last run it worked for


def _answer(cells: list[Any], unit: Unit, device: str) -> Done | Refused:
    import ray

    torch.set_num_threads(1)
    run = cells[0].hex()
    if run not in _desks:
        _desks.clear()
        _desks[run] = Desk(unpack(io.BytesIO(ray.get(cells[0]))), device)
    return _desks[run].answer(unit)
