"""`sanact train` and weights that are there already."""

from __future__ import annotations

import io
import json

import pytest
from safetensors import safe_open

from tests.test_cli import sanact


def command(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["card"])["command"]


@pytest.fixture
def trained(tmp_path, user_model):
    out = tmp_path / "w.safetensors"

    def train(*more):
        return sanact("train", user_model, "--data", "digits", "--examples", 100, "--epochs", 1, "--out", out, *more)

    assert train("-q").code == 0
    return out, train


def test_finished_weights_of_another_recipe_stay_unless_one_says_yes(trained):
    out, train = trained
    before = out.read_bytes()
    refused = train("-q", "--lr", 0.2)
    assert refused.code == 1 and refused.err.count("\n") == 1 and out.read_bytes() == before
    assert f"'{out}' holds finished weights of another training (sanact train" in refused.err and "--yes" in refused.err
    assert train("-q", "--lr", 0.2, "--yes").code == 0 and "--lr 0.2" in command(out)


def test_the_same_recipe_may_be_trained_again(trained):
    assert trained[1]("-q", "--json").code == 0


def test_weights_that_nobody_knows_the_origin_of_stay_too(trained):
    out, train = trained
    out.write_bytes(b"precious")
    assert "holds finished weights of another training; choose" in train("-q").err and out.read_bytes() == b"precious"


@pytest.mark.parametrize(("answer", "kept"), [("n", True), ("y", False)])
def test_on_a_terminal_one_is_asked(trained, monkeypatch, answer, kept):
    out, train = trained
    before = command(out)
    terminal = io.StringIO(f"{answer}\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    ended = train("-q", "--lr", 0.2)
    assert "Overwrite them?" in ended.err and (ended.code != 0) == kept and (command(out) == before) == kept
