"""How cells are run: one after the other, each to a file of rows, skipping those that are there."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from sanact.evaluation.judge import KEEP, KEPT, Cell, check_plans, circumstances, examine, judge
from sanact.evaluation.rows import SCHEMA, Parts, header, is_verified, read_rows, write_rows
from sanact.files import alone, remove_leftovers
from sanact.progress import progress_bar
from sanact.remembering import remembered
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
    Several processes may work on one folder: each takes the cells that no other is at, and waits for the last ones.
    Raises ValueError for a file that cannot be read, or that has a cell's name but not its rows; it is left as it is.
    """
    OneOf(get_args(Engine))(engine, "engine", "run")
    BATCH_SIZE(batch_size, "batch_size", "run")
    Maybe(KEEP)(keep, "keep", "run")
    cells, out = list(cells), folder(out)
    if strangers := [cell for cell in cells if not isinstance(cell, Cell)]:
        raise TypeError(f"cells must be of type Cell, got {shown(strangers[0])} (run)")
    with remembered(), progress_bar("judging", sum(len(cell.data) for cell in cells), show=progress) as advance:
        paths = [out / f"{cell.slug}.parquet" for cell in cells]
        waiting = deque[tuple[Cell, Path]]()
        for cell, path in zip(cells, paths, strict=True):
            if _is_done(cell, path, keep or 0) and not _unfinished(cell, path).folder.exists():
                advance(len(cell.data), str(cell))
            else:
                waiting.append((cell, path))
        check_plans(cell for cell, _ in waiting)
        turned_away = 0
        while waiting:
            cell, path = waiting.popleft()
            with alone(out / ".locks" / f"{cell.crafting_slug}.lock", wait=turned_away > len(waiting)) as ours:
                if not ours:  # another run is at it; meanwhile there are other cells
                    waiting.append((cell, path))
                    turned_away += 1
                    continue
                turned_away = 0
                if _is_done(cell, path, keep or 0):
                    advance(len(cell.data), str(cell))
                else:
                    kept = KEPT if keep is None else keep
                    rows = judge(cell, batch_size=batch_size, device=device, folder=out, keep=kept, advance=advance)
                    advance(0, f"{cell}: diagnostics")
                    write_rows(rows, path, circumstances(cell, device) | examine(cell, rows, device=device, folder=out))
                _tidy(cell, path)
    return paths


def folder(out: Path | str) -> Path:
    """The path, which must not be empty or a file; else ValueError."""
    if not str(out) or os.path.isfile(out):
        raise ValueError(f"out must be a folder, got {'the file ' * bool(str(out))}'{out}' (run)")
    return Path(out)


def _is_done(cell: Cell, path: Path, keep: int) -> bool:
    """Whether its rows are there, and its first ``keep`` examples; ValueError for a file of this name that holds other rows."""
    if not path.exists():
        return False
    rows = read_rows(path)
    if found := _misfit(cell, rows):
        raise ValueError(
            f"'{path}' does not hold what was asked for: {found}; it is left as it is: move it away, or choose another folder"
        )
    return not (keep and len(_examples(cell, path).missing(cell.data.index[:keep])))


def _misfit(cell: Cell, rows: pa.Table) -> str:
    """How a table differs from the rows of a cell, or ""."""
    asked, stored = json.loads(json.dumps(cell.identity)), header(rows)["cell"]
    if stored != asked:
        return "; ".join(
            f"{key} is {stored.get(key)} there, {asked.get(key)} was asked for"
            for key in asked | stored
            if stored.get(key) != asked.get(key)
        )
    if not is_verified(rows):
        return "it has no hashes by which to see that it is as it was written"
    if not rows.schema.equals(SCHEMA):
        return f"its columns are {', '.join(rows.column_names)}, not {', '.join(SCHEMA.names)}"
    if len(rows) != len(cell.data):
        return f"it has {len(rows)} rows, for {len(cell.data)} images"
    for name, wanted in (("index", cell.data.index), ("label", cell.data.labels)):
        if not np.array_equal(rows[name].to_numpy(), wanted):
            return f"its column '{name}' is not that of the images"
    return ""


def _tidy(cell: Cell, path: Path) -> None:
    """Remove what is needed no longer, and what killed runs left of it."""
    _unfinished(cell, path).remove()
    remove_leftovers(path)
    _examples(cell, path).tidy()


def _unfinished(cell: Cell, path: Path) -> Parts:
    return Parts(path.parent / "unfinished" / cell.slug)


def _examples(cell: Cell, path: Path) -> Parts:
    return Parts(path.parent / "examples" / cell.crafting_slug, strict=True)
