"""Timing in interleaved rounds, the peak memory of one call, and the facts of the machine."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sanact.progress import Advance

LIBRARIES = (
    "sanact",
    "torch",
    "foolbox",
    "torchattacks",
    "adversarial-robustness-toolbox",
    "adv-lib",
    "kornia",
    "numpy",
    "scipy",
    "scikit-image",
    "opencv-python-headless",
)

LEAST = 0.05  # seconds of a turn

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """rounds: of each race.  examples: images in a batch.  quick: a tenth of the steps and few memory probes."""

    rounds: int = 7
    examples: int = 100
    quick: bool = False


@dataclass(frozen=True)
class Job:
    """A call of one library.  args: tensors, arrays or lists with one example (or map) an entry."""

    call: Callable[..., Any]
    args: tuple[Any, ...]

    def warm_up(self) -> None:
        self.call(*(argument[:2] for argument in self.args))

    def __call__(self) -> Any:
        return self.call(*self.args)


@dataclass(frozen=True, kw_only=True)
class Race:
    """Jobs that do the same work, timed in turn, round after round, so that a busy moment of the machine meets all.

    A turn is at least a twentieth of a second: a job that is done sooner is called again, and its mean counts.

    table: where the rows go.  facts: what all rows say.  jobs: by the name of the ``column`` that tells them apart.
    describe: further facts from the name and the last result of a job.
    """

    table: str
    facts: Mapping[str, Any]
    column: str
    jobs: Mapping[str, Job]
    rounds: int
    describe: Callable[[str, Any], Row] = lambda name, result: {}

    @property
    def calls(self) -> int:
        return self.rounds * len(self.jobs)

    def run(self, advance: Advance) -> list[Row]:
        names = list(self.jobs)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        results: dict[str, Any] = {}
        for job in self.jobs.values():
            job.warm_up()
        for number in range(self.rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                advance(0, f"{' '.join(map(str, self.facts.values()))}: {name}")
                start, calls, passed = time.perf_counter(), 0, 0.0
                while passed < LEAST:
                    results[name] = self.jobs[name]()
                    calls, passed = calls + 1, time.perf_counter() - start
                seconds[name].append(passed / calls)
                advance()
        return [{**self.facts, self.column: n, **self.describe(n, results[n]), "seconds": seconds[n]} for n in names]


def peak_memory(job: Callable[[], Any]) -> int:
    """Bytes by which the resident memory of this process rises above what it was before, at the highest, during a call.

    Linux keeps the highest mark (VmHWM) and resets it on request.  `ru_maxrss` would not do: a child process inherits its
    parent's, and it includes whatever the imports needed.  Call it once in a fresh process, after a warm-up.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _highest_mark()
    job()
    return _highest_mark() - before


def _highest_mark() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def one_thread() -> None:
    """For torch and OpenCV; the other libraries know no more."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def machine() -> Row:
    """What the numbers depend on besides the code; names neither host nor user."""
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return models[0] if models else platform.machine()
