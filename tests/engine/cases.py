"""Cells that the tests of all engines judge, and what must come out of them."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sanact import PGD, Mask, MedianFilter
from sanact.data import Data
from sanact.engine import run
from sanact.evaluation.cell import Cell
from sanact.evaluation.rows import header, read_rows
from sanact.sanitizers import SAP

BALLAST = 100_000  # numbers in the network that nobody needs, to be seen where they are sent
TOLD = ("cell", "checks", "verdict", "device")  # of a header: the rest says when and by what


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)).eval()
    network.register_buffer("ballast", torch.zeros(BALLAST))
    return network


def images(count: int = 20) -> Data:
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Data.from_tensors(x, net()(x).argmax(1))


def cell(**changes: Any) -> Cell:
    given: dict[str, Any] = {
        "data": images(),
        "model": net(),
        "model_name": "tiny",
        "defense": None,
        "attack": PGD(eps=0.05, steps=10, restarts=2),
        "knowledge": "white-box",
    }
    return Cell(**given | changes)


def several() -> list[Cell]:
    """Crafted once and replayed; through gradients; and a defense that draws at random, in whatever order."""
    first = cell()
    return [
        first,
        *(replace(first, defense=part, knowledge="oblivious") for part in (Mask(0.2), MedianFilter(3), SAP(0.5))),
        *(replace(first, defense=part) for part in (Mask(0.2), SAP(0.5))),
    ]


def found(cells: list[Cell], out: Path, **options: Any) -> list[tuple[Any, Any]]:
    """The rows of each cell, and its diagnostics, to be compared."""
    paths = run(cells, out=out, batch_size=5, device="cpu", **options)
    assert not list(out.glob("unfinished/*")) and not list(out.rglob("*.tmp"))
    tables = [read_rows(path) for path in paths]
    return [(table.to_pydict(), {key: header(table).get(key) for key in TOLD}) for table in tables]


class Deadly(nn.Module):
    """The tiny network, which kills the process it runs in, as a system does that is out of memory.

    home: the process in which it does not.  once: a file, which is removed first; without it nothing happens.  None kills each
    time.
    """

    def __init__(self, once: Path | None) -> None:
        super().__init__()
        self.net, self.home, self.once = net(), os.getpid(), once
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.home and len(x) == 5:
            if self.once is None:
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.once.exists():
                self.once.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        out: Tensor = self.net(x)
        return out
