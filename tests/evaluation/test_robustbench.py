"""RobustBench's records: theirs are read, ours say no more than the rows allow."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pytest

from sanact.evaluation.robustbench import Record, read_record, write_record
from sanact.evaluation.rows import SCHEMA, write_rows
from sanact.evaluation.statistics import wilson

EPS = 8 / 255
AUTOATTACK = {
    "name": "autoattack",
    "eps": EPS,
    "norm": "Linf",
    "version": "standard",
    "steps": 100,
    "queries": 5000,
    "targets": 9,
}
ADAPTIVE = {"name": "adaptive", "eps": EPS, "norm": "Linf", "effort": "standard"}
PGD = {"name": "pgd", "eps": EPS, "norm": "Linf", "steps": 40}
MASK = {"conv1": {"name": "mask", "strength": 0.3}}
DATA = {"name": "cifar10", "split": "test", "examples": 40, "fingerprint": "d1"}
THEIRS = {  # in the form of their files, with made-up content
    "link": "https://example.org/paper",
    "name": "A Defense",
    "authors": "One, Another",
    "additional_data": True,
    "number_forward_passes": 2,
    "dataset": "cifar10",
    "venue": "ICLR 2020",
    "architecture": "ResNet-18",
    "eps": "8/255",
    "clean_acc": "93.73",
    "reported": "71.28",
    "autoattack_acc": "70.5",
    "external": "64.20",
    "footnote": "64.20% robust accuracy is due to another attack.",
    "unreliable": True,
    "new_field": 1,
}


def write(folder, name, right, *, attack=AUTOATTACK, knowledge="white-box", verdict="reliable", reverse=False, **changed):
    """A file of 40 rows, clean predictions right for 36, attacked where ``right`` says so."""
    columns = {
        "index": np.arange(40),
        "label": np.ones(40),
        "clean_prediction": np.arange(40) < 36,
        "prediction": right,
        "linf": np.full(40, EPS),
        "l2": np.ones(40),
    }
    empty = {
        field.name: np.full(40, {"passes": 1, "score": np.nan, "clean_score": np.nan}.get(field.name, ""))
        for field in SCHEMA
        if field.name not in columns
    }
    order = np.arange(40)[:: -1 if reverse else 1]
    arrays = [pa.array((columns | empty)[f.name][order]).cast(f.type, safe=False) for f in SCHEMA]
    cell = {
        "data": DATA,
        "model": {"name": "resnet18", "fingerprint": "m1"},
        "defense": MASK,
        "attack": attack,
        "knowledge": knowledge,
        "seed": 0,
    }
    path = folder / f"{name}.parquet"
    checked = {} if verdict is None else {"verdict": verdict}
    write_rows(
        pa.table(arrays, schema=SCHEMA), path, {"cell": cell | changed, "versions": {"sanact": "1", "torch": "2"}} | checked
    )
    return path


def first(n):
    return np.arange(40) < n


def json_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_reads_a_record_of_theirs(tmp_path):
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(THEIRS))
    found = read_record(path)
    assert found == Record(
        name="A Defense",
        dataset="cifar10",
        eps=8 / 255,
        clean_acc=93.73,
        reported=71.28,
        autoattack_acc=70.5,
        external=64.2,
        unreliable=True,
        architecture="ResNet-18",
        additional_data=True,
        number_forward_passes=2,
        link="https://example.org/paper",
        authors="One, Another",
        venue="ICLR 2020",
        footnote="64.20% robust accuracy is due to another attack.",
    )
    assert found.robust_acc == 64.2


@pytest.mark.parametrize("eps", ["0.031", "0.5", "4/255", 0.5])
def test_reads_an_older_record_with_fewer_fields(tmp_path, eps):
    older = {key: value for key, value in THEIRS.items() if key not in ("external", "footnote", "unreliable", "new_field")}
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(older | {"eps": eps}))
    found = read_record(path)
    assert found.external is None and not found.unreliable and found.robust_acc == 70.5
    assert found.eps == (float(eps) if "/" not in str(eps) else 4 / 255)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps(THEIRS | {"eps": None}),
        json.dumps(THEIRS | {"clean_acc": "high"}),
        json.dumps(THEIRS | {"eps": "8/0"}),
        None,
    ],
    ids=["empty", "list", "no fields", "corruptions", "no number", "no fraction", "missing"],
)
def test_a_file_that_holds_no_record(tmp_path, text):
    path = tmp_path / "theirs.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"'{path}' holds no record")):
        read_record(path)


def test_writes_what_the_rows_say_in_their_form(tmp_path):
    out = tmp_path / "ours.json"
    found = write_record([write(tmp_path, "aa", first(10))], out, name="Ours", venue="N/A", additional_data=True)
    assert json_of(out) == {
        "link": "",
        "name": "Ours",
        "authors": "",
        "additional_data": True,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "N/A",
        "architecture": "resnet18",
        "eps": "8/255",
        "clean_acc": "90.00",
        "reported": "25.00",
        "autoattack_acc": "25.00",
        "unreliable": False,
        "footnote": found.footnote,
    }
    assert read_record(out) == found
    low, high = wilson(10, 40)[3:]
    for fact in ("Linf", "40 images", json.dumps(MASK), "autoattack: reliable", f"{low:.2f} to {high:.2f}", "sanact 1"):
        assert fact in found.footnote


def test_external_is_what_stands_against_both(tmp_path):
    paths = [
        write(tmp_path, "aa", first(20)),
        write(tmp_path, "adaptive", ~first(8), attack=ADAPTIVE, knowledge="adaptive", reverse=True),
    ]
    found = write_record(paths, tmp_path / "ours.json", name="Ours", reported=99.5)
    assert (found.autoattack_acc, found.external, found.robust_acc) == (50, 30, 30)
    assert json_of(tmp_path / "ours.json")["external"] == "30.00" and found.reported == 99.5


def test_an_adaptive_attack_alone_is_no_autoattack(tmp_path):
    path = write(tmp_path, "adaptive", first(8), attack=ADAPTIVE, knowledge="adaptive")
    found = write_record([path], tmp_path / "ours.json", name="Ours")
    assert (found.autoattack_acc, found.external) == (None, 20)
    assert "autoattack_acc" not in json_of(tmp_path / "ours.json")


@pytest.mark.parametrize(
    ("verdict", "unreliable"), [("reliable", False), ("suspect: replayed examples leave less", True), (None, True)]
)
def test_only_a_verdict_makes_it_reliable(tmp_path, verdict, unreliable):
    paths = [
        write(tmp_path, "aa", first(20)),
        write(tmp_path, "adaptive", first(8), attack=ADAPTIVE, knowledge="adaptive", verdict=verdict),
    ]
    found = write_record(paths, tmp_path / "ours.json", name="Ours")
    assert found.unreliable is unreliable is json_of(tmp_path / "ours.json")["unreliable"]
    assert f"adaptive: {verdict or 'not checked'}." in found.footnote
    assert ("unreliable" in str(found)) == unreliable and "clean 90.00 %, AutoAttack 50.00 %, external 20.00 %" in str(found)


@pytest.mark.parametrize(
    ("changed", "came"),
    [
        ({"attack": PGD}, "pgd (white-box)"),
        ({"attack": PGD, "knowledge": "oblivious"}, "pgd (oblivious)"),
        ({"knowledge": "oblivious"}, "autoattack (oblivious)"),
        ({"attack": ADAPTIVE, "knowledge": "oblivious"}, "adaptive (oblivious)"),
        ({"attack": AUTOATTACK | {"version": "rand"}}, "autoattack (white-box), version rand"),
        ({"attack": AUTOATTACK | {"steps": 10, "queries": 50}}, "autoattack (white-box), steps 10, queries 50"),
    ],
    ids=["white-box", "replayed", "replayed autoattack", "replayed adaptive", "rand", "weaker"],
)
def test_refuses_what_is_no_robust_accuracy(tmp_path, changed, came):
    out = tmp_path / "ours.json"
    with pytest.raises(ValueError, match=re.escape(f"holds rows of {came}") + "$"):
        write_record([write(tmp_path, "rows", first(10), **changed)], out, name="Ours")
    assert not out.exists()


@pytest.mark.parametrize(
    ("changed", "differ"),
    [
        ({"data": DATA | {"fingerprint": "d2"}}, "examples"),
        ({"model": {"name": "resnet18", "fingerprint": "m2"}}, "model"),
        ({"defense": None}, "defense"),
        ({"attack": ADAPTIVE | {"eps": 0.1}}, "eps"),
        ({"attack": ADAPTIVE | {"norm": "L2"}}, "norm"),
    ],
)
def test_refuses_rows_of_two_different_subjects(tmp_path, changed, differ):
    other = write(tmp_path, "adaptive", first(8), **({"attack": ADAPTIVE, "knowledge": "adaptive"} | changed))
    with pytest.raises(ValueError, match=rf"adaptive.parquet' make no record, their {differ} differ"):
        write_record([write(tmp_path, "aa", first(10)), other], tmp_path / "ours.json", name="Ours")


@pytest.mark.parametrize("count", [0, 2])
def test_refuses_no_rows_and_the_same_attack_twice(tmp_path, count):
    paths = [write(tmp_path, str(i), first(10)) for i in range(count)]
    with pytest.raises(ValueError, match="a record is made from rows of autoattack, adaptive, or one of each, got"):
        write_record(paths, tmp_path / "ours.json", name="Ours")
