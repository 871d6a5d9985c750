"""Rows in Parquet: one per example of a cell, with the cell in the header.  Written and read here, without torch."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sanact.evaluation.packed import is_packed, read_packed
from sanact.evaluation.statistics import Accuracy, wilson
from sanact.files import replacing

log = logging.getLogger(__name__)


class Detection(NamedTuple):
    """auroc: area under the curve of true over false alarms, 0 to 1.  detected: in percent, at 5 % false alarms on these
    images.  n: number of examples to detect.
    """

    auroc: float
    detected: float
    n: int


SCHEMA = pa.schema(
    [
        ("index", pa.int64()),  # position in the split
        ("label", pa.int32()),
        ("clean_prediction", pa.int32()),  # of the judged model, on the clean image; ~c if it refuses what it takes for c
        ("prediction", pa.int32()),  # of the judged model, on the adversarial example, likewise
        ("linf", pa.float32()),  # distance of the two, in input units
        ("l2", pa.float32()),
        ("by", pa.string()),  # the part of the attack that won it; "" if none did, "clean" if misclassified without an attack
        ("failed", pa.string()),  # parts of the attack that ended in an error on it, one per line with the reason; mostly ""
        ("passes", pa.int64()),  # forward and backward passes through the network that the attack used for it
        (
            "clean_score",
            pa.float32(),
        ),  # on the image, the lead of the refusal's logit; null if nothing is ever refused
        ("score", pa.float32()),  # on the adversarial example, likewise
    ]
)
HEADER = b"sanact"
DIGESTS = b"sanact.digests"  # of the header and of each column, and the version of how rows are written
VERSION = 2  # 1 had no digests
OPTIONAL = {"by", "failed", "passes", "clean_score", "score"}  # columns that older rows may lack
BROKEN = "a broken file can be deleted: its cell is then run again"
REPLACED = "move it away, and it is made again"


def write_rows(table: pa.Table, path: Path, header: Mapping[str, Any]) -> None:
    """Write a table whole or not at all.  The header becomes JSON in the file's metadata, with hashes of it and each column."""
    text = json.dumps(header).encode()
    digests = {"version": VERSION, "header": _digest(text), "columns": _digests(table)}
    metadata = {HEADER: text, DIGESTS: json.dumps(digests)}
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd", write_page_checksum=True)


def read_rows(path: Path) -> pa.Table:
    """Read the rows of a cell that `write_rows` wrote, packed or not.

    ValueError if they are missing, changed, or not ours.
    """
    table = read_table(path)
    facts = header(table)
    if facts and not (isinstance(facts, dict) and isinstance(facts.get("cell"), dict)):
        owner = facts.get("of", "another file") if isinstance(facts, dict) else "another file"
        raise ValueError(f"'{path}' holds no rows of a finished cell: it is a piece of '{owner}'")
    there = {field.name: field.type for field in table.schema}
    for field in SCHEMA:
        if there.get(field.name, field.type if field.name in OPTIONAL else None) != field.type:
            found = there.get(field.name, "missing")
            raise ValueError(
                f"'{path}' holds no rows of a cell as this version reads them: column '{field.name}' must be {field.type}, "
                f"it is {found}"
            )
        if field.name not in OPTIONAL and table[field.name].null_count:
            raise ValueError(f"'{path}' holds no rows of a cell: column '{field.name}' has gaps")
    wanted = (facts or {}).get("cell", {}).get("data", {}).get("examples", len(table))
    different = len(pc.unique(table["index"]))
    if not wanted == len(table) == different:
        raise ValueError(f"'{path}' holds {len(table)} rows of {different} images, its header says {wanted}; {REPLACED}")
    return table


def read_all(paths: Iterable[Path]) -> dict[Path, pa.Table]:
    """The rows of several cells, to be shown; a warning says how many files have no hashes.  Raises what `read_rows` raises."""
    tables = {path: read_rows(path) for path in paths}
    if bare := sum(not is_verified(rows) for rows in tables.values()):
        log.warning("%d of %d files of rows were written without hashes: a change in them would not show", bare, len(tables))
    return tables


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read what `write_rows` wrote, or only some columns of it; ValueError if a byte has changed."""
    try:
        if is_packed(path):
            table = read_packed(path, columns)
        else:
            table = pq.read_table(path, columns=columns, partitioning=None, page_checksum_verification=True)
        metadata = table.schema.metadata or {}
        if HEADER in metadata:
            json.loads(metadata[HEADER])
        found = _digests(table) if DIGESTS in metadata else {}
    except Exception as error:  # a broken file may raise any error
        raise ValueError(f"'{path}' holds no rows: {' '.join(str(error).split())}; {BROKEN}") from error
    if HEADER not in metadata:
        raise ValueError(f"'{path}' holds no rows of sanact: its header does not say which cell they are")
    if found:
        _verify(metadata, found, path, columns is None)
    return table


def is_verified(table: pa.Table) -> bool:
    """Whether its file had hashes, which show that it is as it was written."""
    return DIGESTS in (table.schema.metadata or {})


def _verify(metadata: Mapping[bytes, bytes], found: Mapping[str, str], path: Path, whole: bool) -> None:
    """Raise ValueError if the header or a column is not as it was written.  whole: whether all columns must be there."""
    try:
        digests = json.loads(metadata[DIGESTS])
        version, header, columns = digests["version"], digests["header"], digests["columns"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' is not as it was written: its hashes cannot be read; {BROKEN}") from error
    if version != VERSION:
        raise ValueError(
            f"'{path}' was written in version {version} of the format, this sanact reads 1 and {VERSION}: update it"
        )
    there, wanted = {"the header": _digest(metadata[HEADER]), **found}, {"the header": header, **columns}
    if lost := [name for name in columns if whole and name not in found]:
        raise ValueError(f"'{path}' is not as it was written: it has no {', '.join(lost)}; {BROKEN}")
    if changed := [name for name, digest in there.items() if wanted.get(name) != digest]:
        raise ValueError(f"'{path}' is not as it was written: {', '.join(changed)} changed; {BROKEN}")


def _digests(table: pa.Table) -> dict[str, str]:
    """A hash of each column's name, type and values, independent of their layout in the file."""
    return {name: _digest(name.encode(), _kind(table[name].type), *_values(table[name])) for name in table.column_names}


def _kind(type: pa.DataType) -> bytes:
    """A type, without the names that Parquet gives to the elements of a list."""
    return b"%d x " % type.list_size + _kind(type.value_type) if pa.types.is_fixed_size_list(type) else str(type).encode()


def _values(column: pa.ChunkedArray) -> Iterator[bytes]:
    yield f" {len(column)} {column.null_count} ".encode()
    for chunk in filter(len, column.chunks):
        while pa.types.is_fixed_size_list(chunk.type):
            chunk = chunk.flatten()
        if pa.types.is_integer(chunk.type) or pa.types.is_floating(chunk.type):
            yield chunk.to_numpy(zero_copy_only=False).tobytes()
        else:
            yield json.dumps(chunk.to_pylist())[1:-1].encode() + b", "


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def header(table: pa.Table) -> dict[str, Any]:
    """The cell of a table, and the versions, the device and the commit that made it."""
    decoded: dict[str, Any] = json.loads(table.schema.metadata[HEADER])
    return decoded


def part(data: Mapping[str, Any]) -> str:
    """The split of a cell's data, its classes if only some, and its notes."""
    classes = [f"only {', '.join(data['classes'])}"] if "classes" in data else []
    return ", ".join([data["split"], *classes, *([data["note"]] if data.get("note") else [])])


def hits(rows: pa.Table, *, l2: float | None = None) -> pa.ChunkedArray:
    """Whether each adversarial example was classified correctly, or was refused although the clean image is not.

    An image that is refused or misclassified without an attack counts as an error, whatever happens to its example.  So a
    detector cannot gain by images that it refuses anyway.
    l2: a budget, for attacks that have none; if the example is further away, the clean image counts instead.
    """
    judged = rows["prediction"]
    if l2 is not None:
        judged = pc.if_else(pc.less_equal(rows["l2"], l2), judged, rows["clean_prediction"])
    refused = pc.and_(pc.less(judged, 0), pc.equal(rows["clean_prediction"], rows["label"]))
    return pc.or_(pc.equal(judged, rows["label"]), refused)


def refusals(rows: pa.Table, column: str = "prediction") -> int:
    """How many adversarial examples were refused; for "clean_prediction", how many images."""
    return int(pc.sum(pc.less(rows[column], 0)).as_py() or 0)


def detection(rows: pa.Table) -> Detection | None:
    """How well the score separates clean images from examples that fool the classifier behind it.

    None if the model refuses nothing, or if there is no such example.
    """
    if "score" not in rows.column_names or rows["score"].null_count == len(rows):
        return None
    predicted, label = (rows[name].to_numpy() for name in ("prediction", "label"))
    wrong = np.where(predicted < 0, ~predicted, predicted) != label
    if not wrong.any():
        return None
    from sklearn.metrics import roc_auc_score

    clean, found = rows["clean_score"].to_numpy(), rows["score"].to_numpy()[wrong]
    auroc = roc_auc_score(np.repeat([0, 1], [len(clean), len(found)]), np.concatenate([clean, found]))
    return Detection(float(auroc), 100 * float((found > np.quantile(clean, 0.95)).mean()), len(found))


def accuracy(rows: pa.Table, *, l2: float | None = None) -> Accuracy:
    """Accuracy on the adversarial examples; l2 as in `hits`."""
    return _share(hits(rows, l2=l2))


def clean_accuracy(rows: pa.Table) -> Accuracy:
    return _share(pc.equal(rows["clean_prediction"], rows["label"]))


def won_by(rows: pa.Table) -> dict[str, int]:
    """How many examples each part of the attack won, the largest number first."""
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
    """The verdict in the header of a cell: "reliable", "upper bound", "suspect: why", or "" where nothing is claimed.

    Replayed examples make no claim, unless something went wrong.  An adaptive attack at the quick effort is an upper bound,
    whatever its header says.
    """
    cell = facts["cell"]
    told = str(facts.get("verdict", "" if cell["knowledge"] == "oblivious" else "suspect: not checked"))
    if cell["knowledge"] == "oblivious":
        return told if told.startswith("suspect") else ""
    return "upper bound" if told == "reliable" and cell["attack"].get("effort") == "quick" else told


def _column(rows: pa.Table, name: str) -> list[str]:
    """A column of text, from rows that may be too old to have it."""
    return [text or "" for text in rows[name].to_pylist()] if name in rows.column_names else [""] * len(rows)


def _share(hits: pa.ChunkedArray) -> Accuracy:
    return wilson(pc.sum(hits).as_py(), len(hits))


class Parts:
    """A table written to a folder in pieces, each piece whole or not at all, so that a killed run can continue.

    The pieces have an ``index`` column; the division into pieces does not matter.
    strict: accept only pieces that were written for this folder and are unchanged; otherwise also pieces of version 1.
    Raises ValueError for a piece that is broken, changed, or of another folder.
    """

    def __init__(self, folder: Path, *, strict: bool = False) -> None:
        self.folder, self.strict = folder, strict

    @cached_property
    def _file_of(self) -> dict[int, Path]:
        found: dict[int, Path] = {}
        for path in sorted(self.folder.glob("*.parquet")):
            try:
                index = self._read(path, ["index"])["index"].to_pylist()
            except ValueError:
                if path.exists():
                    raise
                continue  # another run has finished the cell in the meantime, and removed the piece
            found.update(dict.fromkeys(index, path))
        return found

    def missing(self, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Positions in ``index`` of the examples that no piece has."""
        return np.array([i for i, place in enumerate(index.tolist()) if place not in self._file_of], dtype=np.int64)

    def write(self, table: pa.Table) -> None:
        index = table["index"].to_pylist()
        path = self.folder / f"{index[0]:08d}-{index[-1]:08d}-{_mark(table)}.parquet"
        there = self._file_of
        write_rows(table, path, {"of": self.folder.name})
        there.update(dict.fromkeys(index, path))

    def read(self, index: np.ndarray[Any, Any]) -> pa.Table:
        """The rows of these examples, in this order."""
        wanted = index.tolist()
        tables = [self._read(path) for path in sorted({self._file_of[place] for place in wanted})]
        table = pa.concat_tables(tables)
        row_of = {place: row for row, place in enumerate(table["index"].to_pylist())}
        return table.take([row_of[place] for place in wanted])

    def remove(self) -> None:
        """Remove the pieces, leftovers of killed writers, and the folder if nothing else is in it."""
        self.tidy()
        for path in [*self.folder.glob("*.parquet"), *self.folder.glob("*.jsonl")]:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def tidy(self) -> None:
        """Remove leftovers of killed writers; nobody may be writing meanwhile."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def _read(self, path: Path, columns: Sequence[str] | None = None) -> pa.Table:
        table = read_table(path, columns)
        owner, mark = header(table).get("of"), path.stem.split("-")[2:]
        if owner != self.folder.name and (owner is not None or self.strict):
            raise ValueError(
                f"'{path}' belongs to {owner or 'no run of this version'}, not to '{self.folder.name}'; {REPLACED}"
            )
        if not columns and (mark or self.strict) and mark != [_mark(table)]:
            raise ValueError(f"'{path}' holds other examples than were written there; {REPLACED}")
        return table


def _mark(table: pa.Table) -> str:
    """A hash in a piece's name, so that another file in its place is noticed."""
    return _digest(*sorted(digest.encode() for digest in _digests(table).values()))[:12]
