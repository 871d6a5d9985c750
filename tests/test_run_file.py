"""A run as a file: what is written is read again, and what is wrong in it is named."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from sanact.engine import Engine
from sanact.evaluation.threat import Effort
from sanact.run_file import Net, RunFile
from tests.test_cli import sanact

WHOLE = RunFile(
    models=(Net("mnist-cnn"), Net('my "net".py:build', "mnist-pgd", ("0=identity",))),
    data="digits",
    class_names=("A", "Ä\t\\", "\x7f"),
    examples=20,
    defenses=("conv*=mask:0.3; fc7=median:3", "feature-squeezing:bits=1"),
    knowledge=("oblivious",),
    l2=1e-5,
    seed=2**62,
    workers=1,
)


def test_what_is_written_is_read_again(tmp_path):
    WHOLE.write(tmp_path / "run.toml")
    assert RunFile.read(tmp_path / "run.toml") == WHOLE
    RunFile(models=(Net("mnist-cnn"),)).write(tmp_path / "least.toml")
    assert RunFile.read(tmp_path / "least.toml") == RunFile(models=(Net("mnist-cnn"),))


def test_a_file_as_somebody_writes_it(tmp_path):
    (tmp_path / "mine.toml").write_text('models = ["mnist-cnn"]  # ours\nattacks = ["pgd:eps=0.3"]\nl2 = 2\n')
    assert RunFile.read(tmp_path / "mine.toml") == RunFile(models=(Net("mnist-cnn"),), attacks=("pgd:eps=0.3",), l2=2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("defences = []", "got 'defences'; did you mean 'defenses'?"),
        ("seed = -1", "seed must be a whole number ≥ 0, got -1"),
        ("seed = 1.5", "seed must be a whole number ≥ 0, got 1.5"),
        ("examples = 0", "examples must be a whole number ≥ 1 or None, got 0"),
        ("defenses = 'median:3'", "defenses must be a list, got 'median:3'"),
        ("defenses = [3]", "defenses must be a text, got 3"),
        ("defenses = ['median:3', 'median:3']", "defenses: each must be given once, got 'median:3' twice"),
        ("knowledge = ['psychic']", "knowledge must be one of oblivious, white-box, adaptive, got 'psychic'"),
        ("knowledge = []", "knowledge must name at least one"),
        ("effort = 'standrad'", "got 'standrad'; did you mean 'standard'?"),
        ("l2 = inf", "l2 must be 'usual' or a number from 0 on, got inf"),
        ("l2 = true", "l2 must be 'usual' or a number from 0 on, got True"),
        ("out = ''", "out must be a text, got ''"),
        ("engine = 'slurm'", "engine must be one of local, ray, got 'slurm'"),
        ("workers = 0", "workers must be a whole number ≥ 1 or None, got 0"),
        ("seed = ", "is not a run file in TOML"),
        ("seed = 1\nseed = 2", "is not a run file in TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, line, message):
    path = tmp_path / "run.toml"
    path.write_text(f"models = ['mnist-cnn']\n{line}\n")
    ended = sanact("run", path)
    assert ended.code == 1 and ended.err.startswith(f"error: '{path}'") and message in ended.err and ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("data = 'mnist'", "models must name at least one, got none"),
        ("models = [{ weights = 'w' }]", "models must be a name, or a table with a name"),
        ("models = [{ name = 'a', wheights = 'w' }]", "got 'wheights'; did you mean 'weights'?"),
        ("models = [{ name = 'a', weights = 1 }]", "models.weights must be a text or None, got 1"),
        ("models = ['a', 'a']", "models: each must be given once"),
    ],
)
def test_what_is_wrong_with_the_models_is_named(tmp_path, models, message):
    (tmp_path / "run.toml").write_text(models)
    with pytest.raises(ValueError, match="run.toml") as refused:
        RunFile.read(tmp_path / "run.toml")
    assert message in str(refused.value)


def test_a_file_that_is_not_there_is_named():
    assert sanact("run", "absent.toml").err.startswith("error: 'absent.toml' is not a run file in TOML: ")


GIVEN = (
    "--data digits --examples 20 -p conv1=median:3 --defense feature-squeezing:bits=2 -a fgsm:eps=0.1 -k oblivious -q --json"
)


def test_a_saved_run_judges_the_same_cells_again(tmp_path):
    first = sanact(
        "evaluate", "mnist-cnn", *GIVEN.split(), "--json", "--out", tmp_path / "rows", "--save-run", tmp_path / "run.toml"
    )
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").glob("*.parquet")}
    again = sanact("run", tmp_path / "run.toml", "-q", "--json")
    assert first.code == 0 and json.loads(again.out) == json.loads(first.out)
    assert len(written) == 3 and written == {path: path.stat().st_mtime_ns for path in written}
    elsewhere = sanact("run", tmp_path / "run.toml", "-q", "--json", "--out", tmp_path / "other")
    assert json.loads(elsewhere.out) == json.loads(first.out)
    saved = tomllib.loads((tmp_path / "run.toml").read_text())
    assert saved["defenses"] == ["conv1=median:3", "feature-squeezing:bits=2"] and saved["out"] == str(tmp_path / "rows")


def test_quiet_says_a_line_a_cell_and_verbose_where_it_lies(tmp_path):
    ended = sanact("evaluate", "mnist-cnn", *GIVEN.split(), "--json", "--out", tmp_path)
    lines = ended.err.splitlines()
    assert len(lines) == 3 and lines[0].startswith("none · fgsm · white-box: ") and " % of 20 images" in lines[0]
    assert sanact("evaluate", "mnist-cnn", *GIVEN.split(), "--json", "--out", tmp_path).err == (
        f"3 of 3 cells are there already, in {tmp_path}\n"
    )
    (tmp_path / "new").mkdir()
    told = sanact("evaluate", "mnist-cnn", *GIVEN.split(), "--json", "--verbose", "--out", tmp_path / "new").err
    assert told.count("its rows: ") == 3 and "20 images of digits" not in told and "449 images of digits (test)" in told


def test_two_models_have_a_table_each(tmp_path):
    Path(tmp_path / "run.toml").write_text(
        "models = ['mnist-cnn', { name = 'mnist-cnn', weights = 'mnist-pgd' }]\ndata = 'digits'\nexamples = 10\n"
        f"attacks = ['fgsm:eps=0.1']\nknowledge = ['white-box']\nout = '{tmp_path}'\n"
    )
    found = json.loads(sanact("run", tmp_path / "run.toml", "-q", "--json").out)
    assert [(one["model"], one["attack"]) for one in found] == [
        (model, attack) for model in ("mnist-cnn", "mnist-cnn (mnist-pgd)") for attack in ("clean", "FGSM, Linf 0.1")
    ]


def test_the_choices_are_those_that_there_are():
    for name, choices in (("effort", Effort), ("engine", Engine)):
        assert RunFile.rules[name].names == get_args(choices)
