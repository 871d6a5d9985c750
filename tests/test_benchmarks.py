"""The benchmarks run, and their tables have all the rows; what the numbers are is not for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

ATTACKS = {
    "FGSM",
    "BIM",
    "ILCM",
    "MIM",
    "PGD Linf",
    "PGD L2",
    "APGD Linf",
    "AutoAttack Linf",
    "C&W L2, c = 1",
    "C&W L2, c searched",
}
ATTACKERS = {"sanact", "sanact, stopping early", "foolbox", "torchattacks", "ART"}
FILTERS = {"sanact", "kornia", "SciPy", "scikit-image", "OpenCV"}

TRANSFORMS = {"4 bits", "median 2x2", "JPEG 75", "thermometer, 16 levels", "total variation"}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("art") is None, reason="needs the libraries that `make bench` installs")
def test_quick_benchmarks_fill_every_table(tmp_path):
    subprocess.run([sys.executable, "-m", "benchmarks", "--quick", "--quiet", "--out", tmp_path], check=True)
    sections = json.loads((tmp_path / "benchmarks.json").read_text())
    assert list(sections) == ["attacks", "sanitizers", "defenses", "memory", "autoattack"]
    rows = {name: table for section in sections.values() for name, table in section["tables"].items()}
    assert {row["attack"] for row in rows["attacks"]} >= ATTACKS
    assert {row["library"] for row in rows["attacks"] if row["attack"] == "PGD L2"} == ATTACKERS
    assert {row["attack"] for row in rows["success"]} == {"PGD Linf", "APGD Linf"}
    assert {row["library"] for row in rows["sanitizers"] if row["sanitizer"] == "median 3x3"} == FILTERS
    assert [row["patch"] for row in rows["patches"]] == ["3", "5", "7", "11"]
    assert {row["library"] for row in rows["autoattack"]} == {
        "sanact",
        "original" if find_spec("autoattack") else "torchattacks",
    }
    assert {row["transform"] for row in rows["transforms"] if row["library"] == "ART"} == TRANSFORMS
    assert {row["defense"] for row in rows["overhead of defenses"]} > {"nothing", "mask", "feature-squeezing, detect", "lid"}
    report = (tmp_path / "README.md").read_text()
    assert all(f"| {attack} | sanact |" in report for attack in ATTACKS)
    assert "### Peak memory of an evaluation" in report


def test_images_are_repeated_where_there_are_too_few(monkeypatch):
    monkeypatch.delenv("SANACT_DATA", raising=False)
    from benchmarks.inputs import images

    assert len(images(2000)) == 2000 and len(images(4, "train")) == 4


def test_the_contest_of_autoattack_names_who_leaves_more_and_who_is_slower():
    tables = pytest.importorskip("benchmarks.tables")
    facts = {"eps": 0.1, "seed": 0, "examples": 200, "steps": 100, "queries": 5000}
    rows = [
        {**facts, "network": network, "library": library, "left": left, "seconds": [seconds]}
        for network, *contest in (("calm", (40, 9.0), (41, 8.0)), ("wild", (50, 3.0), (44, 7.0)))
        for library, (left, seconds) in zip(("sanact", "original"), contest, strict=True)
    ]
    (table,) = tables.autoattack(rows)
    assert table.columns[1:] == ("sanact", "original", "sanact, s", "original, s")
    assert [row[1:] for row in table.rows] == [("20.0", "20.5", "9", "8"), ("25.0", "22.0", "3", "7")]
    assert "More is left by sanact than by original on: wild" in table.sentence
    assert "Slower is sanact on: calm" in table.sentence
    assert table.notes == ("100 steps of APGD and FAB and 5,000 queries of Square in both.",)
