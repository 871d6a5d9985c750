"""What engines share: units of work, and how a process that has the cells does them."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any, NamedTuple, Protocol, Self

import torch

from sanact.data import Integers
from sanact.evaluation.cell import Cell
from sanact.evaluation.diagnostics import Check
from sanact.evaluation.examining import diagnosed
from sanact.evaluation.judge import Bench, Judged
from sanact.remembering import Memory, remembered
from sanact.values import foreseen

TRIES = 3  # workers that may die at one unit


@dataclass(frozen=True)
class Batch:
    """Some images of a cell, to be judged.

    cell: its position among the workers' cells.  positions: of the images in its data.
    given: further arguments of `Bench.judge`.
    """

    cell: int
    positions: Integers
    given: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checks:
    """The diagnostics of a cell; by, journal: as for `diagnosed`."""

    cell: int
    by: Sequence[str]
    journal: Path | None


Unit = Batch | Checks


class Done(NamedTuple):
    """The result of a unit, and the seconds it took its worker."""

    result: Judged | list[Check]
    seconds: float


class Refused(NamedTuple):
    """An error that says what came and what is allowed, to be raised again in the user's process."""

    error: Exception
    seconds: float = 0.0


class Unjudged(ValueError):
    """Some cells of a run ended with an error; the others were judged.  paths: their files of rows."""

    def __init__(self, message: str, paths: list[Path]) -> None:
        super().__init__(message)
        self.paths = paths


class Engine(Protocol):
    """Does units of work, somewhere.

    workers: units done at once.  room: units accepted at once.  died: the errors of a unit that no worker survived.
    """

    workers: int
    room: int
    died: tuple[type[Exception], ...]

    def submit(self, unit: Unit) -> Future[Done | Refused]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop everything in progress, and leave nothing behind."""


class Desk:
    """The workplace of one process: it has all cells, and the bench of the last cell whose batches it judged."""

    def __init__(self, cells: Sequence[Cell], device: str) -> None:
        self.cells, self.device = cells, device
        self.number, self.bench = -1, None  # type: tuple[int, Bench | None]
        self.memory: Memory = {}

    def _result(self, unit: Unit) -> Judged | list[Check]:
        if isinstance(unit, Checks):
            return diagnosed(Bench(self.cells[unit.cell], self.device), unit.by, journal=unit.journal)
        if self.bench is None or self.number != unit.cell:
            cell = self.cells[unit.cell]
            self.number, self.bench = unit.cell, self.bench.of(cell) if self.bench else Bench(cell, self.device)
        return self.bench.judge(unit.positions, **unit.given)

    def answer(self, unit: Unit) -> Done | Refused:
        """Do a unit, perhaps for another process, where errors arrive without their traceback."""
        start = time.perf_counter()
        try:
            with remembered(self.memory):
                return Done(self._result(unit), time.perf_counter() - start)
        except Exception as error:
            if not foreseen(error):
                raise
            return Refused(error)


def pack(cells: Sequence[Cell], file: IO[bytes]) -> None:
    """Write the cells for other processes, each network and data set once; ValueError if something cannot be sent.

    Code that another process could not import is sent with them, as from a notebook or a file named on the command line.
    """
    import cloudpickle

    try:
        with _by_value():
            torch.save(list(cells), file, pickle_module=cloudpickle, pickle_protocol=5)
    except Exception as error:  # of as many kinds as there are attributes
        raise ValueError(
            "the cells cannot be sent to other processes: workers must be 1, which needs no sending "
            f"({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        ) from error


def unpack(file: Path | IO[bytes]) -> list[Cell]:
    """Read what `pack` wrote; other files are unsafe.  From a path, tensors stay in the file, and workers share them."""
    cells: list[Cell] = torch.load(file, mmap=isinstance(file, Path), weights_only=False, map_location="cpu")
    return cells


def packed(cells: Sequence[Cell]) -> bytes:
    file = io.BytesIO()
    pack(cells, file)
    return file.getvalue()


@contextmanager
def _by_value() -> Iterator[None]:
    """For the block, pickles include the code of modules that are not on Python's path."""
    import cloudpickle

    modules = [module for name, module in list(sys.modules.items()) if "." not in name and _is_homeless(name, module)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _is_homeless(name: str, module: ModuleType) -> bool:
    if name in ("__main__", "__mp_main__") or not getattr(module, "__file__", None):
        return False
    return not any(finder.find_spec(name, None) for finder in sys.meta_path if hasattr(finder, "find_spec"))
