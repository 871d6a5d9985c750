"""Rows on disk, what is computed from them, and that no half-written file is ever taken for a whole one."""

from __future__ import annotations

import errno
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sanact.evaluation.rows import SCHEMA, Parts, accuracy, clean_accuracy, header, part, read_rows, write_rows

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
