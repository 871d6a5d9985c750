"""Crafted examples: kept in Parquet beside the rows, for cells that replay the same ones and for pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from sanact.data import Batch, Integers
from sanact.evaluation.cell import Cell
from sanact.evaluation.rows import Parts


def examples_of(cell: Cell, folder: Path) -> Parts:
    """The crafted examples of a cell; cells that replay the same ones share them."""
    return Parts(folder / "examples" / cell.crafting_slug, strict=True)


def crafted_examples(cell: Cell, folder: Path) -> Tensor:
    """The examples that this cell's attack crafted when it was run, (N, C, H, W), in the order of its data.

    Raises KeyError if not all were kept; see `judge`.
    """
    shape = next(cell.data[:1].batches(1)).x.shape[1:]
    return from_table(examples_of(cell, folder).read(cell.data.index), "x", shape)


def to_table(index: Integers, adversarial: Tensor, clean: Tensor, passes: Tensor) -> pa.Table:
    def column(x: Tensor) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(x.cpu().float().flatten().numpy()), x[0].numel())

    return pa.table({"index": index, "x": column(adversarial), "clean": column(clean), "passes": passes.cpu().numpy()})


def replayed(table: pa.Table, batch: Batch, cell: Cell) -> Tensor:
    """The examples of these images, (N, C, H, W); ValueError if they were crafted from others."""
    if not torch.equal(from_table(table, "clean", batch.x.shape[1:]), batch.x.cpu().float()):
        raise ValueError(f"the examples in '{cell.crafting_slug}' were crafted from other images than requested; move it away")
    return from_table(table, "x", batch.x.shape[1:])


def from_table(table: pa.Table, column: str, shape: Sequence[int]) -> Tensor:
    if (size := table[column].type.list_size) != math.prod(shape):
        raise ValueError(f"the requested examples are {tuple(shape)}, but the kept ones have {size} numbers each")
    flat = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(flat.copy()).reshape(-1, *shape)
