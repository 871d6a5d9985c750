"""How cells are run: one after the other, each to a file of rows, skipping those that are there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from sanact.evaluation.judge import KEEP, KEPT, Cell, check_plans, circumstances, examine, judge
from sanact.evaluation.rows import Parts, read_rows, write_rows
from sanact.progress import progress_bar
from sanact.values import BATCH_SIZE, Maybe, OneOf, shown

Engine = Literal["local"]


def run(
    cells: Iterable[Cell],
    *,
    out: Path | str,
    engine: Engine = "local",
    batch_size: int = 100,
    device: str = "auto",
    keep: int | None = None,
    progress: bool = False,
) -> list[Path]:
    """Judge each cell and return the files of rows, in the order of the cells.

    out: the folder; ``<cell>.parquet`` each.  A cell whose rows are there is skipped, one that was interrupted goes on where
    it was.
    keep: examples of each cell that must stay: one of which fewer are left is judged again.  None asks for none, and keeps
        a few.
    Raises ValueError for a file of rows that cannot be read.
    """
    OneOf(get_args(Engine))(engine, "engine", "run")
    BATCH_SIZE(batch_size, "batch_size", "run")
    Maybe(KEEP)(keep, "keep", "run")
    if not str(out) or os.path.isfile(out):
        raise ValueError(f"out must be a folder, got {'the file ' * bool(str(out))}'{out}' (run)")
    cells, out = list(cells), Path(out)
    if strangers := [cell for cell in cells if not isinstance(cell, Cell)]:
        raise TypeError(f"cells must be of type Cell, got {shown(strangers[0])} (run)")
    paths = [out / f"{cell.slug}.parquet" for cell in cells]
    there = [path.exists() and not _lost(cell, out, keep or 0) for cell, path in zip(cells, paths, strict=True)]
    check_plans(cell for cell, done in zip(cells, there, strict=True) if not done)
    with progress_bar("judging", sum(len(cell.data) for cell in cells), show=progress) as advance:
        for cell, path, done in zip(cells, paths, there, strict=True):
            if done:
                read_rows(path)
                advance(len(cell.data), str(cell))
            else:
                rows = judge(
                    cell, batch_size=batch_size, device=device, folder=out, keep=KEPT if keep is None else keep, advance=advance
                )
                advance(0, f"{cell}: diagnostics")
                write_rows(rows, path, circumstances(cell, device) | examine(cell, rows, device=device))
            Parts(out / "unfinished" / cell.slug).remove()
    return paths


def _lost(cell: Cell, out: Path, keep: int) -> bool:
    """Whether some of its first ``keep`` examples are missing."""
    return bool(keep and len(Parts(out / "examples" / cell.crafting_slug).missing(cell.data.index[:keep])))
