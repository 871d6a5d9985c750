"""Rows: one per example of a cell, in Parquet, with the cell in the header; read and written here, without torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sanact.evaluation.statistics import Accuracy, wilson
from sanact.files import replacing

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),  # place in the split
        ("label", pa.int32()),
        ("clean_prediction", pa.int32()),  # of the judged model, on the image as it is
        ("prediction", pa.int32()),  # of the judged model, on the adversarial example
        ("linf", pa.float32()),  # distance of the two, in input units
        ("l2", pa.float32()),
        ("by", pa.string()),  # the part of the attack that won it; "" where none did, "clean" where there was nothing to win
        ("failed", pa.string()),  # parts of the attack that ended in an error on it, a line each, with the reason; mostly ""
    ]
)
HEADER = b"sanact"


def write_rows(table: pa.Table, path: Path, header: Mapping[str, Any]) -> None:
    """Write a table whole or not at all; the header is JSON in the file's metadata."""
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata({HEADER: json.dumps(header)}), temporary, compression="zstd")


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table that `write_rows` wrote; ValueError if it is missing, broken, or somebody else's."""
    try:
        table = pq.read_table(path, columns=columns, partitioning=None)
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise ValueError(
            f"'{path}' holds no rows: {error}. A broken file can be deleted: its cell is then run again"
        ) from error
    if HEADER not in (table.schema.metadata or {}):
        raise ValueError(f"'{path}' holds no rows of sanact: its header does not say which cell they are")
    return table


def header(table: pa.Table) -> dict[str, Any]:
    """The cell a table is of, and the versions, the device and the commit that made it."""
    decoded: dict[str, Any] = json.loads(table.schema.metadata[HEADER])
    return decoded


def part(data: Mapping[str, Any]) -> str:
    """The split of a cell's data, of which classes only, and what else is to be known of it."""
    classes = [f"only {', '.join(data['classes'])}"] if "classes" in data else []
    return ", ".join([data["split"], *classes, *([data["note"]] if data.get("note") else [])])


def hits(rows: pa.Table, *, l2: float | None = None) -> pa.ChunkedArray:
    """Whether each adversarial example was classified correctly.

    l2: a budget, for attacks that have none: where the example is further away, the attacker is left with the clean image.
    """
    judged = rows["prediction"]
    if l2 is not None:
        judged = pc.if_else(pc.less_equal(rows["l2"], l2), judged, rows["clean_prediction"])
    return pc.equal(judged, rows["label"])


def accuracy(rows: pa.Table, *, l2: float | None = None) -> Accuracy:
    """Accuracy on the adversarial examples; l2 as in `hits`."""
    return _share(hits(rows, l2=l2))


def clean_accuracy(rows: pa.Table) -> Accuracy:
    return _share(pc.equal(rows["clean_prediction"], rows["label"]))


def won_by(rows: pa.Table) -> dict[str, int]:
    """How many examples each part of the attack won, the most first."""
    counts = Counter(_column(rows, "by"))
    return {part: number for part, number in counts.most_common() if part not in ("", "clean")}


def failures(rows: pa.Table) -> dict[str, tuple[int, str]]:
    """The parts of the attack that ended in an error, by name: on how many examples, and why."""
    found: dict[str, tuple[int, str]] = {}
    for line in (line for text in _column(rows, "failed") for line in text.splitlines()):
        part, _, why = line.partition(": ")
        found[part] = (found.get(part, (0, ""))[0] + 1, why)
    return found


def verdict_of(facts: Mapping[str, Any]) -> str:
    """What the header of a cell says of its number: "reliable", "upper bound", "suspect: why", or "" where nothing is claimed.

    A replayed number claims nothing, unless something went wrong.  An adaptive one at the quick effort is an upper bound,
    whatever its header says.
    """
    cell = facts["cell"]
    told = str(facts.get("verdict", "" if cell["knowledge"] == "oblivious" else "suspect: not checked"))
    if cell["knowledge"] == "oblivious":
        return told if told.startswith("suspect") else ""
    return "upper bound" if told == "reliable" and cell["attack"].get("effort") == "quick" else told


def _column(rows: pa.Table, name: str) -> list[str]:
    """A column of text, of rows that may be older than it."""
    return [text or "" for text in rows[name].to_pylist()] if name in rows.column_names else [""] * len(rows)


def _share(hits: pa.ChunkedArray) -> Accuracy:
    return wilson(pc.sum(hits).as_py(), len(hits))


class Parts:
    """A table written piece by piece to a folder, each piece whole or not at all, so that a killed run can go on.

    The pieces have an ``index`` column; which examples lie in which piece is of no matter.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of = {
            index: path
            for path in sorted(folder.glob("*.parquet"))
            for index in read_rows(path, ["index"])["index"].to_pylist()
        }

    def missing(self, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Positions in ``index`` of the examples that no piece has."""
        return np.array([i for i, place in enumerate(index.tolist()) if place not in self._file_of], dtype=np.int64)

    def write(self, table: pa.Table) -> None:
        index = table["index"].to_pylist()
        path = self.folder / f"{index[0]:08d}-{index[-1]:08d}.parquet"
        write_rows(table, path, {})
        self._file_of |= dict.fromkeys(index, path)

    def read(self, index: np.ndarray[Any, Any]) -> pa.Table:
        """The rows of these examples, in this order."""
        wanted = index.tolist()
        tables = [read_rows(path) for path in sorted({self._file_of[place] for place in wanted})]
        table = pa.concat_tables(tables)
        row_of = {place: row for row, place in enumerate(table["index"].to_pylist())}
        return table.take([row_of[place] for place in wanted])

    def remove(self) -> None:
        for path in self.folder.glob("*.parquet"):
            path.unlink()
        if self.folder.exists():
            self.folder.rmdir()
