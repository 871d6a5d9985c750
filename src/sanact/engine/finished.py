"""What a folder already has of a cell: its rows, whether they are the requested ones, and leftovers of killed runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from sanact.evaluation.cell import Cell
from sanact.evaluation.crafted import examples_of
from sanact.evaluation.packed import is_there
from sanact.evaluation.rows import SCHEMA, Parts, header, is_verified, read_rows
from sanact.files import remove_leftovers


def is_done(cell: Cell, path: Path, keep: int) -> bool:
    """Whether its rows, and its first ``keep`` examples, are there; ValueError for a file of this name with other rows."""
    if not is_there(path):
        return False
    rows = read_rows(path)
    if found := _misfit(cell, rows):
        raise ValueError(
            f"'{path}' does not hold what was asked for: {found}; it is left as it is: move it away, or choose another folder"
        )
    return not (keep and len(examples_of(cell, path.parent).missing(cell.data.index[:keep])))


def unfinished(cell: Cell, path: Path) -> Parts:
    return Parts(path.parent / "unfinished" / cell.slug)


def tidy(cell: Cell, path: Path) -> None:
    """Remove what is no longer needed, and leftovers of killed runs."""
    unfinished(cell, path).remove()
    remove_leftovers(path)
    examples_of(cell, path.parent).tidy()


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
    for name, wanted in (("index", cell.data.index), ("label", cell.data.labels)):
        if not np.array_equal(rows[name].to_numpy(), wanted):
            return f"its column '{name}' is not that of the images"
    return ""
