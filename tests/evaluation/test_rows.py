"""Rows on disk, what is computed from them, and that no half-written file is ever taken for a whole one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sanact.evaluation.packed import files_of
from sanact.evaluation.rows import SCHEMA, Parts, accuracy, clean_accuracy, header, is_verified, part, read_rows, write_rows

ROWS = pa.table(
    {
        "index": [10, 11, 12, 13],
        "label": [0, 1, 2, 3],
        "clean_prediction": [0, 1, 2, 0],
        "prediction": [0, 5, 5, 3],
        "linf": [0.0, 0.1, 0.2, 0.1],
        "l2": [0.0, 1.0, 3.0, 0.5],
        "by": ["", "pgd", "pgd", "clean"],
        "failed": ["", "", "", ""],
        "passes": [3, 40, 41, 1],
        "clean_score": [None] * 4,
        "score": [None] * 4,
    },
    schema=SCHEMA,
)


def test_accuracy_counts_predictions_that_are_right():
    assert accuracy(ROWS)[:3] == (2, 4, 50.0)
    assert clean_accuracy(ROWS)[:3] == (3, 4, 75.0)


@pytest.mark.parametrize(("budget", "hits"), [(0.4, 3), (0.5, 4), (1.0, 3), (2.9, 3), (3.0, 2)])
def test_beyond_an_l2_budget_the_attacker_is_left_with_the_clean_image(budget, hits):
    assert accuracy(ROWS, l2=budget).hits == hits


def test_rows_and_header_come_back(tmp_path):
    path = tmp_path / "cell.parquet"
    write_rows(ROWS, path, {"cell": {"seed": 3}})
    table = read_rows(path)
    assert table.equals(ROWS)
    assert header(table) == {"cell": {"seed": 3}}


def broken(path):
    write_rows(ROWS, path, {})
    path.write_bytes(path.read_bytes()[:-20])


def foreign(path):
    pq.write_table(ROWS, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "holds no rows"),
        (lambda path: path.write_bytes(b""), "can be deleted: its cell is then run again"),
        (lambda path: path.write_text("no Parquet at all"), "can be deleted"),
        (broken, "can be deleted"),
        (foreign, "no rows of sanact"),
    ],
    ids=["missing", "empty", "text", "cut off", "foreign"],
)
def test_a_file_that_holds_no_rows(tmp_path, make, message):
    path = tmp_path / "cell.parquet"
    make(path)
    with pytest.raises(ValueError, match=message) as error:
        read_rows(path)
    assert str(path) in str(error.value)


def test_no_flipped_bit_changes_a_number_in_silence(tmp_path):
    path, bent = tmp_path / "cell.parquet", tmp_path / "bent.parquet"
    many = pa.concat_tables([ROWS] * 20)
    write_rows(many, path, {"cell": {"attack": {"eps": 0.1}}, "verdict": "reliable"})
    whole, drawn, noticed = path.read_bytes(), np.random.default_rng(0), 0
    for place, bit in zip(drawn.integers(len(whole), size=600), drawn.integers(8, size=600), strict=True):
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        bent.write_bytes(changed)
        try:
            table = read_rows(bent)
        except ValueError as error:
            assert "bent.parquet'" in str(error) and "\n" not in str(error)
            noticed += 1
        else:
            assert table.equals(many) and header(table) == {"cell": {"attack": {"eps": 0.1}}, "verdict": "reliable"}
    assert noticed > 300  # the others are where nothing is read


def test_rows_of_the_first_version_are_read_as_before(tmp_path):
    path = tmp_path / "cell.parquet"
    old = ROWS.drop_columns(["by", "failed", "passes", "clean_score", "score"]).replace_schema_metadata(
        {b"sanact": b'{"cell": {"seed": 3}}'}
    )
    pq.write_table(old, path)
    assert read_rows(path).equals(ROWS.drop_columns(["by", "failed", "passes", "clean_score", "score"])) and not is_verified(
        read_rows(path)
    )
    write_rows(ROWS, path, {"cell": {}})
    assert is_verified(read_rows(path))


def test_the_rows_behind_the_published_tables_are_read():
    folders = {path.parent for path in (Path(__file__).parents[2] / "docs" / "results").rglob("*.parquet")}
    paths = [path for folder in folders if folder.name != "certificates" for path in files_of(folder)[:2]]
    assert len(folders) > 10 and all(0 <= accuracy(read_rows(path)).value <= 100 for path in paths)


def rewritten(path, table, **facts):
    """A good file whose header was changed by hand."""
    metadata = dict(pq.read_table(path).schema.metadata) | {key.encode(): value.encode() for key, value in facts.items()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def old(path, table):
    """A file of the first version, of a cell with four images."""
    pq.write_table(table.replace_schema_metadata({"sanact": '{"cell": {"data": {"examples": 4}}}'}), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: rewritten(path, ROWS.slice(0, 2)), "is not as it was written: index, label, .* changed"),
        (lambda path: rewritten(path, ROWS, sanact='{"cell": {"seed": 4}}'), "is not as it was written: the header changed"),
        (lambda path: rewritten(path, ROWS.drop_columns(["by", "failed"])), "it has no by, failed"),
        (lambda path: rewritten(path, ROWS, **{"sanact.digests": "[]"}), "its hashes cannot be read"),
        (
            lambda path: rewritten(path, ROWS, **{"sanact.digests": '{"version": 9, "header": "", "columns": {}}'}),
            "was written in version 9 of the format, this sanact reads 1 and 2",
        ),
        (lambda path: write_rows(ROWS.drop_columns("l2"), path, {"cell": {}}), "column 'l2' must be float, it is missing"),
        (
            lambda path: write_rows(ROWS.set_column(1, "label", [["a", "b", "c", "d"]]), path, {"cell": {}}),
            "column 'label' must be int32, it is string",
        ),
        (lambda path: write_rows(ROWS, path, {"of": "cell"}), "no rows of a finished cell: it is a piece of 'cell'"),
        (lambda path: write_rows(ROWS, path, ["cell"]), "no rows of a finished cell"),
        (lambda path: write_rows(ROWS, path, {"cell": "name"}), "no rows of a finished cell"),
        (
            lambda path: write_rows(
                ROWS.set_column(3, SCHEMA.field(3), pa.array([1, None, 0, 1], pa.int32())), path, {"cell": {}}
            ),
            "column 'prediction' has gaps",
        ),
        (lambda path: old(path, ROWS.slice(0, 2)), "holds 2 rows of 2 images, its header says 4"),
        (lambda path: old(path, pa.concat_tables([ROWS.slice(0, 2)] * 2)), "holds 4 rows of 2 images, its header says 4"),
    ],
    ids=[
        "rows",
        "header",
        "columns lost",
        "hashes",
        "version",
        "column",
        "type",
        "piece",
        "list",
        "name",
        "gaps",
        "half",
        "doubled",
    ],
)
def test_rows_that_were_changed_or_are_of_another_kind(tmp_path, change, message):
    path = tmp_path / "cell.parquet"
    write_rows(ROWS, path, {"cell": {"seed": 3}})
    change(path)
    with pytest.raises(ValueError, match=message) as error:
        read_rows(path)
    assert str(error.value).startswith(f"'{path}'") and "\n" not in str(error.value)


def test_a_full_disk_leaves_the_old_rows(tmp_path, monkeypatch):
    path = tmp_path / "cell.parquet"
    write_rows(ROWS, path, {})

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_rows(ROWS.slice(0, 1), path, {})
    assert read_rows(path).equals(ROWS)
    assert [file.name for file in tmp_path.iterdir()] == ["cell.parquet"]


def test_parts_are_put_together_in_the_order_asked_for(tmp_path):
    parts = Parts(tmp_path / "parts")
    parts.write(ROWS.slice(2, 2))
    assert parts.missing(np.array([10, 11, 12, 13])).tolist() == [0, 1]
    parts.write(ROWS.slice(0, 2))
    again = Parts(tmp_path / "parts")
    assert not len(again.missing(np.array([10, 11, 12, 13])))
    assert again.read(np.array([13, 10, 12]))["index"].to_pylist() == [13, 10, 12]
    again.remove()
    assert not (tmp_path / "parts").exists()


def pictures(value: float) -> pa.Table:
    numbers = pa.FixedSizeListArray.from_arrays(pa.array(np.full(8, value, "float32")), 4)
    return pa.table({"index": [3, 4], "x": numbers})


def test_a_piece_that_another_run_removes_meanwhile_is_not_there(tmp_path, monkeypatch):
    parts = Parts(tmp_path / "parts")
    parts.write(pictures(0.25))
    read = Parts._read

    def too_late(self, path, columns=None):
        path.unlink()
        return read(self, path, columns)

    monkeypatch.setattr(Parts, "_read", too_late)
    assert Parts(parts.folder).missing(np.array([3])).tolist() == [0]


def test_pieces_of_another_folder_and_examples_put_in_their_place_are_refused(tmp_path):
    one, other = Parts(tmp_path / "one", strict=True), Parts(tmp_path / "other", strict=True)
    one.write(pictures(0.25))
    other.write(pictures(0.5))
    ((good,), (foreign,)) = one.folder.iterdir(), other.folder.iterdir()
    content = good.read_bytes()
    good.write_bytes(foreign.read_bytes())
    with pytest.raises(ValueError, match="belongs to other, not to 'one'"):
        Parts(one.folder).missing(np.array([3]))
    write_rows(pictures(0.5), good, {"of": "one"})
    with pytest.raises(ValueError, match="holds other examples than were written there"):
        Parts(one.folder).read(np.array([3]))
    write_rows(pictures(0.25), good, {})
    assert Parts(one.folder).read(np.array([3]))["index"].to_pylist() == [3]
    with pytest.raises(ValueError, match="belongs to no run of this version"):
        Parts(one.folder, strict=True).missing(np.array([3]))
    good.write_bytes(content)
    assert Parts(one.folder, strict=True).read(np.array([4, 3]))["index"].to_pylist() == [4, 3]


def test_what_killed_writers_left_goes_with_the_parts_and_what_others_put_there_stays(tmp_path):
    parts = Parts(tmp_path / "parts")
    parts.write(ROWS)
    (parts.folder / ".00000010-00000013-1.parquet.abcdefgh.tmp").write_text("half")
    (parts.folder / "notes.txt").write_text("mine")
    (parts.folder / "broken.parquet").write_text("broken")
    Parts(parts.folder).remove()
    assert [path.name for path in parts.folder.iterdir()] == ["notes.txt"]
    (parts.folder / "notes.txt").unlink()
    Parts(parts.folder).remove()
    Parts(parts.folder).remove()
    assert not parts.folder.exists()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"split": "test"}, "test"),
        ({"split": "test", "classes": ["cat", "dog"]}, "test, only cat, dog"),
        ({"split": "test", "classes": ["cat"], "note": "re-encoded as JPEG"}, "test, only cat, re-encoded as JPEG"),
        ({"split": "valid", "note": ""}, "valid"),
    ],
)
def test_which_part_of_the_data(data, text):
    assert part(data) == text
