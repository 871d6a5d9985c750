"""A dry run says what a run would do, and does nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from sanact import PGD, Mask
from sanact.cli import main
from sanact.engine import outlook, run
from sanact.engine.forecast import CHEAP
from sanact.evaluation.diagnostics import EXAMPLES
from sanact.evaluation.judge import Bench, Case
from tests.engine.cases import cell, images


def everything(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_lists_cells_by_what_is_there_and_writes_nothing(tmp_path):
    done, partly, fresh = (replace(first, seed=seed) for first in [cell()] for seed in range(3))
    run([done], out=tmp_path, batch_size=5, device="cpu", workers=1)
    case = Case(partly, tmp_path)
    for positions in case.missing(5)[1:3]:
        case.take(Bench(partly, "cpu").judge(positions))
    before = everything(tmp_path)
    found = outlook([done, partly, fresh], out=tmp_path, batch_size=5, device="cpu", workers=2)
    assert everything(tmp_path) == before
    assert [look.state for look in found.looks] == ["done", "2 of 4 batches done", "to do"]
    assert [look.batches for look in found.looks] == [0, 2, 4]
    assert found.looks[0].seconds == 0 < found.looks[1].seconds < found.looks[2].seconds
    assert found.workers == 2 and 0 < found.seconds < sum(look.seconds for look in found.looks)
    fresh_folder = tmp_path / "none"
    outlook([fresh], out=fresh_folder, device="cpu")
    assert not fresh_folder.exists()


def test_it_refuses_what_a_run_would_refuse(tmp_path):
    with pytest.raises(ValueError, match="must be at most 1 in Linf"):
        outlook([cell(attack=PGD(eps=2.0))], out=tmp_path, device="cpu")


def test_the_seconds_are_images_times_passes_times_those_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr("sanact.engine.forecast.seconds_per_pass", lambda bench, batch: (0.001, 0.002))
    first = cell(attack=PGD(eps=0.1, steps=10, restarts=3), data=images(100))
    replayed = replace(first, defense=Mask(0.2), knowledge="oblivious")
    found = outlook([first, replayed], out=tmp_path, device="cpu", workers=1)
    checks = EXAMPLES * 0.002 * (CHEAP + 30)
    assert found.looks[0].seconds == pytest.approx(100 * (0.002 + 30 * 0.001) + checks)
    assert found.looks[1].seconds == pytest.approx(100 * 0.002)  # crafted by the cell before
    assert found.seconds == pytest.approx(found.looks[0].seconds + found.looks[1].seconds)


@pytest.mark.parametrize("verb", ["evaluate", "reproduce"])
def test_on_the_command_line(tmp_path, user_model, capsys, monkeypatch, verb):
    arguments = {
        "evaluate": ["evaluate", user_model, "--data", "digits", "--examples", "9", "-a", "fgsm:eps=0.1", "-k", "white-box"],
        "reproduce": ["reproduce", "table2", "--examples", "10", "-k", "white-box"],
    }[verb]
    if verb == "reproduce":
        monkeypatch.setattr("sanact.experiments.setting.Setting.images", lambda self, part: images(10))
        monkeypatch.setattr("sanact.experiments.setting.Setting.model", lambda self, weights=None: cell().model)
        monkeypatch.setattr(sys.modules["sanact.experiments.table2"], "defenses", lambda data: [None])
    arguments += ["--out", str(tmp_path / "out"), "--dry-run", "--json", "--workers", "3"]
    monkeypatch.setattr("sys.argv", ["sanact", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and said["workers"] == 3 and said["seconds"] > 0
    assert {one["state"] for one in said["cells"]} == {"to do"}
    assert {"defense": "none", "knowledge": "white-box"}.items() <= said["cells"][0].items()
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_not_there_is_not_fitted(tmp_path, user_model, capsys, monkeypatch):
    monkeypatch.setattr("sanact.training.plain.train", lambda *given, **named: pytest.fail("trained"))
    arguments = ["evaluate", user_model, "--data", "digits", "--examples", "9", "-a", "fgsm:eps=0.1", "-k", "adaptive"]
    monkeypatch.setattr("sys.argv", ["sanact", *arguments, "--out", str(tmp_path / "out"), "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 0 and "worst case" in said.out and "about" in said.out
    assert "a small network is fitted in about a minute" in said.err
    assert not (tmp_path / "out").exists()
