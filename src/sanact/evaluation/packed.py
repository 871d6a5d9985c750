"""The rows of many cells in one file; each cell can still be read under the path of its own file."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sanact.files import replacing

PACK = "cells.parquet"  # in the folder of the rows
CELLS = b"sanact.cells"  # in its metadata: for each group of rows the name of its file, its columns, and its metadata


def files_of(folder: Path) -> list[Path]:
    """The files of rows in a folder, packed or not, by name."""
    alone = {path.name for path in folder.glob("*.parquet")} - {PACK}
    return [folder / name for name in sorted(alone | set(_contents(folder)))]


def is_there(path: Path) -> bool:
    """Whether rows with this path exist, packed or not."""
    return path.exists() or is_packed(path)


def is_packed(path: Path) -> bool:
    """Whether rows with this path exist only in the pack of their folder."""
    return not path.exists() and path.name in _contents(path.parent)


def read_packed(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows that had a file with this path, with its metadata; KeyError if the pack of its folder has none."""
    group, cell = _contents(path.parent)[path.name]
    with pq.ParquetFile(path.parent / PACK, page_checksum_verification=True) as file:
        table = file.read_row_group(group, columns=columns or cell["columns"])
    return table.replace_schema_metadata({key.encode(): value.encode() for key, value in cell["metadata"].items()})


def pack(folder: Path) -> int:
    """Put all files of rows in a folder into one, and remove them; returns the number of cells in it.

    Nothing else changes: a run with this folder finds its cells, and every reader of rows reads the pack.
    Raises ValueError for a file that holds no rows, and if there are none.
    """
    from sanact.evaluation.rows import read_rows

    paths = files_of(folder)
    if not paths:
        raise ValueError(f"no rows in '{folder}': a run writes one .parquet file per cell")
    tables = [read_rows(path) for path in paths]
    schema = pa.unify_schemas([table.schema.remove_metadata() for table in tables])
    cells = [
        {
            "name": path.name,
            "columns": table.column_names,
            "metadata": {key.decode(): value.decode() for key, value in table.schema.metadata.items()},
        }
        for path, table in zip(paths, tables, strict=True)
    ]
    with (
        replacing(folder / PACK) as temporary,
        pq.ParquetWriter(
            temporary, schema.with_metadata({CELLS: _squeezed(cells)}), compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        for table in tables:
            whole = pa.table(
                {
                    field.name: table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type)
                    for field in schema
                },
                schema=schema,
            )
            writer.write_table(whole, row_group_size=max(len(table), 1))
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


Contents = dict[str, tuple[int, dict[str, Any]]]  # by the name of a file, its group of rows and its facts


def _contents(folder: Path) -> Contents:
    """The contents of a folder's pack; empty if there is none."""
    path = folder / PACK
    if not path.exists():
        return {}
    told = path.stat()
    return _read_contents(path, told.st_mtime_ns, told.st_size)


@lru_cache(maxsize=8)
def _read_contents(path: Path, *version: int) -> Contents:
    """The contents of an existing pack; version: values that change with the file."""
    try:
        with pq.ParquetFile(path) as file:
            text = zlib.decompress(base64.b64decode(file.schema_arrow.metadata[CELLS]))
        return {cell["name"]: (group, cell) for group, cell in enumerate(json.loads(text))}
    except (pa.ArrowException, OSError, ValueError, KeyError, zlib.error) as error:
        raise ValueError(f"'{path}' is not a pack of rows: {' '.join(str(error).split())}") from error


def _squeezed(cells: Sequence[dict[str, Any]]) -> bytes:
    """As JSON, compressed: Parquet does not compress metadata, and that of many cells is larger than their rows."""
    return base64.b64encode(zlib.compress(json.dumps(cells).encode(), 9))
