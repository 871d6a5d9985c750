"""Every verb that reads images takes them as they lie: of several sizes, with columns and classes of one's own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import datasets
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from sanact.cli import app

VERBS = ["evaluate", "search", "sensitivity", "train", "explore"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_reads_images_can_be_told_how(verb):
    options = {option for parameter in get_command(app).commands[verb].params for option in parameter.opts}
    assert {"--image-column", "--label-column", "--class-names", "--input"} <= options


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """Six photographs of as many sizes, of which the finding and the body part are known."""
    images = [Image.effect_noise((20 + i, 30), 100).convert("RGB") for i in range(6)]
    rows = {"scan": images, "finding": ["bad", "good"] * 3, "part": ["arm", "leg", "leg"] * 2}
    datasets.DatasetDict(test=datasets.Dataset.from_dict(rows)).save_to_disk(tmp_path / "photos")
    return str(tmp_path / "photos")


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 100, 2)).eval()\n"
    )
    return f"{tmp_path / 'net.py'}:net"


def evaluate(*arguments: str) -> tuple[int, str]:
    run = CliRunner().invoke(app, ["evaluate", *arguments, "-k", "white-box", "-a", "fgsm:eps=0.1", "--workers", "1", "-q"])
    return run.exit_code, run.stdout if not run.exit_code else str(run.exception)


def test_images_are_resized_and_labels_are_words(photos, net, tmp_path):
    given = [net, "--data", photos, "--out", str(tmp_path / "runs"), "--json"]
    code, said = evaluate(*given, "--label-column", "finding", "--input", "3,12,12")
    (clean, attacked) = json.loads(said)
    assert code == 0 and clean["accuracy"]["n"] == attacked["accuracy"]["n"] == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label-column", "finding"], r"images must be of one size, got .*--input C,H,W on the command line"),
        (["--input", "3,12,12"], r"one label column, got \['finding', 'part'\].*--label-column"),
        (["--label-column", "fnding"], r"label='fnding' is not a column of classes .*did you mean 'finding'\?"),
        (["--label-column", "finding", "--input", "12"], "input must be C,H,W, as in 3,224,224, got '12'"),
    ],
)
def test_what_cannot_be_read_says_which_option_helps(photos, net, tmp_path, options, message):
    code, said = evaluate(net, "--data", photos, "--out", str(tmp_path / "runs"), *options)
    assert code == 1
    assert re.search(message, said), said
