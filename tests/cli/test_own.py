"""Attacks and defenses of the user's own, from a file on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sanact.cli import app

MINE = """
import torch.nn.functional as F
from torch import nn

def signs(model, x, y, eps=0.1):
    point = x.clone().requires_grad_()
    F.cross_entropy(model(point), y).backward()
    return (x + eps * point.grad.sign()).clamp(0, 1)

class Scaled(nn.Module):
    def __init__(self, model, by):
        super().__init__()
        self.model, self.by = model, by

    def forward(self, x):
        return self.model(self.by * x)

def scaled(model, by=0.5):
    return Scaled(model, by)

def centred(model, data):
    return Scaled(model, float(next(data.batches(100)).x.mean()))
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(MINE)


def evaluate(model: str, *options: str) -> tuple[int, str]:
    given = [model, "--data", "digits", "--examples", "4", "-k", "white-box", "--workers", "1", "-q", *options]
    run = CliRunner().invoke(app, ["evaluate", *given], env={"COLUMNS": "200"})
    return run.exit_code, run.stdout if not run.exit_code else str(run.exception)


def test_they_stand_in_the_table(mine, user_model):
    attacks = ["-a", "own.py:signs:eps=0.1", "-a", "fgsm:eps=0.1"]
    defenses = ["--defense", "own.py:scaled:by=0.25", "--defense", "own.py:centred"]
    code, said = evaluate(user_model, *attacks, *defenses)
    assert code == 0, said
    assert all(word in said for word in ("signs", "FGSM", "scaled", "centred", "none"))


def test_a_run_file_holds_them_too(mine, user_model):
    own = ["-a", "own.py:signs:eps=0.1", "--defense", "own.py:scaled:by=0.25"]
    code, said = evaluate(user_model, *own, "--save-run", "own.toml", "--dry-run")
    assert code == 0, said
    assert {'attacks = ["own.py:signs:eps=0.1"]', 'defenses = ["own.py:scaled:by=0.25"]'} <= set(
        Path("own.toml").read_text().splitlines()
    )
    again = CliRunner().invoke(app, ["run", "own.toml", "--workers", "1", "-q"], env={"COLUMNS": "200"})
    assert again.exit_code == 0 and all(word in again.stdout for word in ("signs", "scaled", "none"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["-a", "own.py:sings:eps=0.1"],
            "'own.py' has no 'sings'; it defines: Scaled, centred, scaled, signs; did you mean 'signs'?",
        ),
        (["-a", "theirs.py:signs:eps=0.1"], "no file 'theirs.py' to take 'signs' from"),
        (["-a", "own.py:signs:eps=0.1,steps=3"], "attack 'signs' takes"),
        (["--defense", "own.py:scaled:to=3"], "defense 'scaled' takes"),
    ],
)
def test_what_does_not_fit_is_one_line(mine, user_model, options, message):
    code, said = evaluate(user_model, *options)
    assert code == 1 and message in said and "\n" not in said


def test_whoever_forgot_to_name_the_images_is_told_of_both_ways_out(mine):
    Path("colours.py").write_text("from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 4, 3)).eval()\n")
    code, said = evaluate("colours.py:net")
    assert code == 1
    assert "(data 'digits'); --data names other images, --input C,H,W resizes these" in said
