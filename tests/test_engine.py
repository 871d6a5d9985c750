"""Cells run once; a killed run goes on, and ends with the rows of one that was left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sanact import PGD, Mask
from sanact.data import Data
from sanact.engine import run
from sanact.evaluation.judge import Cell, judge
from sanact.evaluation.rows import Parts, header, read_rows


def made() -> Cell:
    """Slow enough to be killed in the middle: 40 batches of five."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)).eval()
    x = torch.rand(200, 1, 8, 8, generator=generator)
    data = Data.from_tensors(x, model(x).argmax(1))
    attack = PGD(eps=0.03, steps=100, restarts=2)
    return Cell(data=data, model=model, model_name="tiny", defense=Mask(0.2), attack=attack, knowledge="oblivious", seed=5)


def judge_in(out: Path) -> Path:
    (path,) = run([made()], out=out, batch_size=5, device="cpu")
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return judge_in(tmp_path_factory.mktemp("whole"))


def test_after_kill_9_the_rows_are_those_of_an_uninterrupted_run(whole, tmp_path):
    program = f"from pathlib import Path; from tests.test_engine import judge_in; judge_in(Path({str(tmp_path)!r}))"
    for batches in (3, 11, 20):
        running = subprocess.Popen([sys.executable, "-c", program])
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("unfinished/*/*.parquet"))) < batches and running.poll() is None:
            assert time.monotonic() < deadline
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert not list(tmp_path.glob("*.parquet"))
    path = judge_in(tmp_path)
    assert path.name == whole.name
    assert read_rows(path).equals(read_rows(whole))
    assert not list(tmp_path.glob("unfinished/*"))


def test_the_header_says_what_the_rows_are_of(whole):
    said = header(read_rows(whole))
    assert said["cell"]["attack"] == {"name": "pgd"} | said["cell"]["attack"]
    assert said["cell"]["defense"] == {"*": {"name": "mask", "strength": 0.2, "reading": "fixed"}}
    assert said["cell"]["knowledge"] == "oblivious"
    assert said["cell"]["seed"] == 5
    assert said["cell"]["data"]["examples"] == 200
    assert said["versions"]["torch"] == version("torch")
    assert said["device"] == "cpu"


def test_a_cell_whose_rows_are_there_is_skipped(whole, monkeypatch):
    monkeypatch.setattr("sanact.engine.judge", lambda *given, **options: pytest.fail("judged again"))
    assert judge_in(whole.parent) == whole


@pytest.mark.parametrize("size", [7, 200])
def test_the_first_examples_of_every_attack_stay_beside_the_rows(tmp_path, size):
    cell = replace(made(), knowledge="white-box", attack=PGD(eps=0.03, steps=3))
    (path,) = run([cell], out=tmp_path, batch_size=size, device="cpu", keep=9)
    facts, x = header(read_rows(path)), cell.data.images.x[:9]
    (kept,) = (tmp_path / "examples").iterdir()
    assert facts["examples"] == kept.name and facts["shape"] == [1, 8, 8]
    table = Parts(kept).read(np.arange(9))
    assert len(Parts(kept).missing(cell.data.index)) == 191
    clean = np.stack(table["clean"].to_pylist()).reshape(9, 1, 8, 8)
    np.testing.assert_array_equal(clean, x.numpy().astype("float32"))
    adversarial = np.stack(table["x"].to_pylist()).reshape(9, 1, 8, 8)
    distances = np.abs(adversarial - clean).max((1, 2, 3))
    np.testing.assert_allclose(distances, read_rows(path)["linf"].to_numpy()[:9], rtol=1e-6)


def test_a_cell_of_which_too_few_examples_are_left_is_judged_again(tmp_path, monkeypatch):
    cell = replace(made(), knowledge="white-box", attack=PGD(eps=0.03, steps=3))
    run([cell], out=tmp_path, device="cpu", keep=9)
    judged = []
    monkeypatch.setattr("sanact.engine.judge", lambda cell, **rest: judged.append(rest["keep"]) or judge(cell, **rest))
    run([cell], out=tmp_path, device="cpu")
    run([cell], out=tmp_path, device="cpu", keep=9)
    assert judged == []
    run([cell], out=tmp_path, device="cpu", keep=12)
    assert judged == [12]
    run([cell], out=tmp_path, device="cpu", keep=12)
    assert judged == [12]


def test_a_plan_that_cannot_be_attached_is_refused_before_any_attack_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("sanact.engine.judge", lambda *given, **options: pytest.fail("judged"))
    good = made()
    with pytest.raises(ValueError, match="the pattern 'fc9' matches no hidden"):
        run([good, replace(good, defense={"fc9": Mask(0.2)})], out=tmp_path)


def test_rows_that_cannot_be_read_are_not_overwritten(tmp_path):
    path = tmp_path / f"{made().slug}.parquet"
    path.write_text("broken")
    with pytest.raises(ValueError, match="can be deleted: its cell is then run again"):
        judge_in(tmp_path)
    assert path.read_text() == "broken"


def test_refuses_an_unknown_engine(tmp_path):
    with pytest.raises(ValueError, match="engine must be one of local, got 'cloud'"):
        run([], out=tmp_path, engine="cloud")
