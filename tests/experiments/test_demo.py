"""The demo: no training, a table, a picture, three sentences and a page, and its point holds."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer

from sanact.data import load_data
from sanact.experiments.demo import DEFENSES, demo, digits
from sanact.models import load_model
from tests.test_cli import sanact


def test_the_digits_are_those_of_the_test_split_and_the_net_reads_them():
    framed, whole = digits(), load_data("digits", "test")
    assert np.array_equal(framed.labels, whole.labels) and len(framed) == 449
    batch = next(framed.batches(449))
    assert batch.x.shape == (449, 1, 28, 28) and batch.x[:, :, :4].max() == 0 and 0 <= batch.x.min() <= batch.x.max() <= 1
    right = (load_model("mnist-cnn")(batch.x).argmax(1) == batch.y).float().mean()
    assert right > 0.88


def test_the_command(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(typer, "launch", opened.append)
    ended = sanact("demo", "--examples", 4, "--out", tmp_path, "--open", "-q", "--workers", 1)
    assert ended.code == 0, ended.err
    for part in ("what the paper saw", "none", "median", "nl-means", "mask", "What is left: ", "Next:", "demo.png"):
        assert part in ended.out
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG") and (tmp_path / "report.html").exists()
    assert opened == [(tmp_path / "report.html").as_uri()]
    found = json.loads(sanact("demo", "--examples", 4, "--out", tmp_path, "-q", "--json").out)
    assert len(found) == 3 * len(DEFENSES) and all(one["accuracy"]["n"] == 4 for one in found)


@pytest.mark.slow
def test_the_point_holds(tmp_path):
    table = demo(tmp_path)
    values = {name: [cell.accuracy.value for cell in cells] for name, cells in table.rows.items()}
    assert all(row[0] >= 80 for row in values.values()) and values["none"][1] <= 5
    assert all(values[name][1] >= 60 and values[name][2] <= 10 for name in values if name != "none")
