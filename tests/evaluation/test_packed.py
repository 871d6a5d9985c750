"""Rows in one file are read as if each cell had its own, and a byte that changes is seen."""

from __future__ import annotations

import pytest

from sanact.engine import run
from sanact.evaluation.packed import PACK, files_of, is_there, pack
from sanact.evaluation.rows import OPTIONAL, read_rows, write_rows
from sanact.report.compare import compare
from sanact.report.page import write_page
from tests.report.test_compare import MASK, MEDIAN, first, write


@pytest.fixture
def paths(tmp_path):
    return [
        write(tmp_path, "none", first(10)),
        write(tmp_path, "mask", first(30), defense=MASK, header={"verdict": "reliable", "checks": []}),
        write(tmp_path, "median", first(20), defense=MEDIAN),
    ]


def test_rows_come_back_as_they_were(paths, tmp_path):
    old = read_rows(paths[0]).drop_columns(sorted(OPTIONAL))  # as an earlier version wrote them
    write_rows(old, paths[0], {"cell": {"of": "old"}})
    before = {path: read_rows(path) for path in paths}
    assert pack(tmp_path) == 3
    assert [path.name for path in tmp_path.iterdir()] == [PACK] and files_of(tmp_path) == sorted(paths)
    for path in paths:
        assert is_there(path) and read_rows(path).equals(before[path], check_metadata=True)
    assert not is_there(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="other.parquet' holds no rows"):
        read_rows(tmp_path / "other.parquet")


def test_what_reads_rows_reads_packed_ones(paths, tmp_path):
    sentences = [one.sentence for one in compare(tmp_path, tmp_path)]
    (two,) = compare(paths[0], paths[1])
    page = write_page([tmp_path])
    pack(tmp_path)
    assert [one.sentence for one in compare(tmp_path, tmp_path)] == sentences and len(sentences) == 3
    assert compare(paths[0], paths[1]) == [two]
    assert write_page([tmp_path]) == page


def test_new_files_join_a_pack(paths, tmp_path):
    pack(tmp_path)
    later = write(tmp_path, "later", first(5), defense={"conv2": MASK["conv1"]})
    again = write(tmp_path, "mask", first(31), defense=MASK)  # a file counts more than what was packed under its name
    assert files_of(tmp_path) == sorted([*paths, later]) and read_rows(again)["prediction"].to_pylist().count(1) == 31
    assert pack(tmp_path) == 4 and read_rows(again)["prediction"].to_pylist().count(1) == 31


def test_a_changed_byte_is_seen(paths, tmp_path):
    pack(tmp_path)
    file = bytearray((tmp_path / PACK).read_bytes())
    file[200] ^= 1
    (tmp_path / PACK).write_bytes(file)
    with pytest.raises(ValueError, match="holds no rows|not as it was written|is not a pack"):
        for path in paths:
            read_rows(path)


def test_a_folder_without_rows_cannot_be_packed(tmp_path):
    with pytest.raises(ValueError, match="no rows in"):
        pack(tmp_path)


def test_a_run_finds_its_cells_in_a_pack(net, mnist, tmp_path, monkeypatch):
    from sanact import FGSM
    from sanact.evaluation.cell import cells

    few = cells(mnist[:2], net, "mnist-cnn", [None], [FGSM(eps=0.1)], ["white-box"])
    (path,) = run(few, out=tmp_path, workers=1)
    rows = read_rows(path)
    pack(tmp_path)
    monkeypatch.setattr("sanact.evaluation.judge.Bench.judge", lambda *_, **__: pytest.fail("it was judged again"))
    assert run(few, out=tmp_path, workers=1) == [path] and read_rows(path).equals(rows, check_metadata=True)
