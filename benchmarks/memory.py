"""Peak memory, each number from a fresh process: attacks, sanitizers, windows of non-local means, and whole evaluations."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from kornia.filters import median_blur
from torch import Tensor

from benchmarks.inputs import activations, images, network, victims
from benchmarks.measure import Options, Row, one_thread, peak_memory
from sanact import FGSM, Mask, MedianFilter, NonLocalMeans
from sanact.data import Data
from sanact.engine import run
from sanact.evaluation.cell import Cell
from sanact.progress import Advance
from sanact.transforms import Purification

STEADY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
STEPS = 5  # memory does not grow with them
LIBRARIES = ("sanact", "foolbox", "torchattacks", "ART")
FILTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "mask": Mask(),
    "median 3x3": MedianFilter(),
    "median 3x3, kornia": partial(median_blur, kernel_size=3),
}
WINDOWS = (5, 7, 11, 15, 21)
CONV1 = (32, 26, 26)
COLOUR = [3, 32, 32]


@dataclass(frozen=True)
class Probe:
    """What to measure in a process of its own: ``function(*args)`` returns bytes."""

    table: str
    facts: Row
    function: Callable[..., int]
    args: tuple[Any, ...]

    def __call__(self) -> Row:
        one_thread()
        return {**self.facts, "bytes": self.function(*self.args)}


def probes(options: Options) -> list[Probe]:
    n, examples = options.examples, (20, 60) if options.quick else (500, 5000)
    filters = FILTERS | {f"non-local means, window {size}": NonLocalMeans(window_size=size) for size in WINDOWS}
    if options.quick:
        filters = {"median 3x3": FILTERS["median 3x3"]}
    return [
        *(
            Probe("attack memory", {"attack": attack, "library": library, "examples": n}, attack_peak, (attack, library, n))
            for attack in (("PGD Linf",) if options.quick else ("PGD Linf", "C&W L2, c = 1"))
            for library in LIBRARIES
        ),
        *(
            Probe(
                "sanitizer memory",
                {"sanitizer": name, "pass": "forward and backward" if backward else "forward", "shape": [n, *CONV1]},
                sanitizer_peak,
                (call, backward, n),
            )
            for name, call in filters.items()
            for backward in (False, True)
        ),
        *(Probe("evaluation memory", {"examples": count}, evaluation_peak, (count,)) for count in examples),
        Probe("purification memory", {"examples": n, "shape": COLOUR}, purification_peak, (n,)),
    ]


def run_probes(wanted: list[Probe], advance: Advance) -> Iterator[tuple[str, Row]]:
    """Two at a time: unlike time, memory does not mind company.

    STEADY has glibc give large blocks back at once, so that the mark shows what is needed, not what happened to be kept.
    """
    os.environ |= STEADY
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for probe, row in zip(wanted, pool.map(Probe.__call__, wanted), strict=True):
            advance(1, f"memory: {' '.join(map(str, probe.facts.values()))}")
            yield probe.table, row


def attack_peak(attack: str, library: str, examples: int) -> int:
    from benchmarks.attacks import CONTESTS

    x, y = victims(examples)
    craft = CONTESTS[attack].libraries(network(), STEPS)[library]
    craft(x[:2], y[:2])
    return peak_memory(lambda: craft(x, y))


def sanitizer_peak(call: Callable[[Tensor], Tensor], backward: bool, examples: int) -> int:
    """On the activation of conv1, which does not count; what is returned does."""
    a = activations(examples)["conv1"]
    ones = torch.ones_like(a)

    def job(n: int) -> Tensor:
        part = a[:n].requires_grad_(backward)
        out = call(part)
        return torch.autograd.grad(out, part, ones[:n])[0] if backward else out

    job(1)
    return peak_memory(lambda: job(len(a)))


def purification_peak(examples: int) -> int:
    """PixelDefend on images of CIFAR-10's size, at the paper's eps of 16/255; what they show does not matter."""
    x = torch.rand(examples, *COLOUR, generator=torch.Generator().manual_seed(0))
    purification = Purification(16 / 255, "cifar10")
    purification(x[:1])
    return peak_memory(lambda: purification(x))


def evaluation_peak(examples: int) -> int:
    """White-box FGSM on the masked network, judged in batches of 100 and written to disk."""
    data = images(examples)

    def evaluate(part: Data) -> None:
        cell = Cell(
            data=part, model=network(), model_name="mnist-cnn", defense=Mask(), attack=FGSM(eps=0.15), knowledge="white-box"
        )
        with tempfile.TemporaryDirectory() as folder:
            run([cell], out=folder, workers=1, batch_size=100, device="cpu")

    evaluate(data[:10])
    return peak_memory(lambda: evaluate(data))
