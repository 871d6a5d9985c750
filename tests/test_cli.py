"""The command line: it teaches, it does what the library does, and what goes wrong is one line."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from sanact import ATTACKS, FGSM, SANITIZERS, Mask, list_layers
from sanact.cli import main
from sanact.data import load_data
from sanact.defenses import DEFENSES
from sanact.evaluation.rows import header, read_rows, write_rows
from sanact.experiments import EXPERIMENTS, Setting
from sanact.models import MNISTCNN, load_model
from sanact.report.results import results as results_in
from sanact.report.tables import Grid, grid
from sanact.training import Recipe, accuracy, train
from tests.conftest import load_or_skip

USERS_FILE = """
import torch
from torch import nn

def tiny():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))

class Stuck(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
    def train(self, mode=True):
        return super().train()

class Nan(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10] * float("nan")

def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(5, 10))

def zoo():
    return Zoo().eval()

class Zoo(nn.Module):  # in the manner of RobustBench's: x in [0, 1], normalized inside, logits
    def __init__(self):
        super().__init__()
        self.register_buffer("mu", torch.tensor([0.13]).view(1, 1, 1, 1))
        self.register_buffer("sigma", torch.tensor([0.31]).view(1, 1, 1, 1))
        self.conv, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(4 * 13 * 13, 10)
        for number, parameter in enumerate(self.parameters()):
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) / 8

    def forward(self, x):
        out = torch.relu(self.conv((x - self.mu) / self.sigma))
        return self.linear(nn.functional.max_pool2d(out, 2).flatten(1))
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def sanact(*arguments: object) -> Ended:
    """Run a command in this process, as on a wide terminal that is not interactive."""
    out, err, code = StringIO(), StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["sanact", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    return Ended(code, out.getvalue(), err.getvalue())


def in_a_new_process(*arguments: object, script: str = "from sanact.cli import main; main()", **environment: str) -> Ended:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


class Trained(NamedTuple):
    model: str
    weights: Path
    ended: Ended


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A tiny network of a user's own, trained by `sanact train`."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "mine.py").write_text(USERS_FILE)
    model, weights = f"{folder}/mine.py:tiny", folder / "tiny.safetensors"
    ended = sanact("train", model, "--data", "digits", "--epochs", 3, "--lr", 0.1, "--out", weights, "--quiet", "--json")
    return Trained(model, weights, ended)


@pytest.fixture(scope="module")
def evaluation(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The arguments of an evaluation of that network, defended."""
    return [
        *("evaluate", trained.model, "--weights", trained.weights, "--data", "digits", "--examples", 40, "--quiet"),
        *(
            "--plan",
            "0=mask:0.4",
            "-a",
            "fgsm:eps=0.1",
            "-a",
            "pgd:eps=8/255,steps=3",
            "--effort",
            "quick",
            "--out",
            tmp_path_factory.mktemp("runs"),
        ),
    ]


OPTIONS = {
    "demo": "--out --examples --open --seed --device --quiet --json",
    "evaluate": "--data --split --weights --plan --defense --attack --knowledge --examples --class --effort --l2 --out --seed "
    "--device --batch-size --quiet --json",
    "reproduce": "--data --examples --knowledge --effort --distance --out --seed --device --batch-size --quiet --json",
    "train": "--data --out --validation --attack --defense --epochs --lr --batch-size --schedule --weight-decay "
    "--label-smoothing --crop --flip --cutout --ema --seed --device --quiet --json",
    "layers": "--plan --input --json",
    "run": "--out --device --workers --dry-run --quiet --json",
    "attacks": "--json",
    "sanitizers": "--json",
    "defenses": "--json",
    "compare": "--against --knowledge --l2 --json",
    "report": "--out --l2",
    "explore": "--data --split --weights --port --browser",
    "robustbench": "--name --out --reported --architecture --link --authors --venue --additional-data --json",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_the_help_of_a_command_names_its_options_and_shows_an_example(command):
    ended = sanact(command, "--help")
    assert ended.code == 0 and all(option in ended.out for option in OPTIONS[command].split())
    assert f"Example: sanact {command}" in ended.out


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_first_help_names_the_commands_and_where_to_begin(arguments):
    shown = "".join(sanact(*arguments)[1:])
    assert all(command in shown for command in OPTIONS) and "New here? Run: sanact demo" in shown


@pytest.mark.parametrize(
    ("command", "names"),
    [("evaluate", [*ATTACKS, *SANITIZERS]), ("layers", SANITIZERS), ("reproduce", EXPERIMENTS)],
)
def test_help_names_all_there_is(command, names):
    shown = sanact(command, "--help").out
    assert [name for name in names if name not in shown] == []


def test_layers_are_listed_as_the_library_lists_them():
    listed = json.loads(sanact("layers", "mnist-cnn", "--plan", "conv*=mask:0.3", "--json").out)
    names = ["conv1", "conv2", "conv4", "conv5", "fc7", "fc8", "logits"]
    assert [layer["name"] for layer in listed] == names
    assert [layer["name"] for layer in listed if layer["sanitizer"]] == names[:4]
    assert listed[0]["shape"] == [32, 26, 26] and listed[-1]["role"] == "output layer"
    assert [layer["sanitizer"] for layer in listed] == [
        layer.sanitizer for layer in list_layers(MNISTCNN(), {"conv*": Mask(0.3)})
    ]


def test_layers_as_a_table():
    shown = sanact("layers", "mnist-cnn", "--plan", "fc7=median:5").out.splitlines()
    row = {line.split()[0]: line for line in shown if line.split()}
    assert "32×26×26" in row["conv1"] and row["conv1"].rstrip().endswith("-")
    assert "MedianFilter" in row["fc7"] and "output layer" in row["logits"]


def test_layers_with_a_plan_from_a_file(tmp_path):
    (tmp_path / "plan.json").write_text('{"fc*": {"name": "mask", "strength": 0.2}}')
    listed = json.loads(sanact("layers", "mnist-cnn", "-p", tmp_path / "plan.json", "--json").out)
    assert [layer["name"] for layer in listed if layer["sanitizer"]] == ["fc7", "fc8"]


def test_layers_of_an_input_of_the_users_choice(trained):
    listed = json.loads(sanact("layers", trained.model, "--input", "1,28,28", "--json").out)
    assert [layer["shape"] for layer in listed] == [[4, 26, 26], [10]]


def test_the_example_in_the_help_of_layers_runs():
    (example,) = [line for line in sanact("layers", "--help").out.splitlines() if "Example:" in line]
    ended = sanact(*shlex.split(example.split("Example: sanact")[1]), "--json")
    hit = [layer["name"] for layer in json.loads(ended.out) if layer["sanitizer"]]
    assert ended.code == 0 and hit and all("layer1." in name for name in hit)


def test_train_writes_weights_and_a_card(trained):
    card = json.loads(trained.ended.out)
    with safe_open(trained.weights, "pt") as file:
        assert json.loads(file.metadata()["card"]) == card
    assert card["command"] == shlex.join(
        f"sanact train {trained.model} --data digits --epochs 3 --lr 0.1 --out {trained.weights} --quiet --json".split()
    )
    assert card["recipe"].startswith("epochs 3, lr 0.1, momentum 0.9, batch_size 128, seed 0, schedule constant,")
    assert f"- **command**: {card['command']}" in trained.weights.with_suffix(".md").read_text()
    model = load_model(trained.model, weights=trained.weights)
    assert card["test accuracy"] == f"{accuracy(model, load_data('digits')):.2f} % of 449 images"


def test_train_takes_an_attack_to_train_on(trained, tmp_path):
    given = ("train", trained.model, "--data", "digits", "--epochs", 1, "--attack", "pgd:eps=0.1,steps=2", "--quiet", "--json")
    card = json.loads(sanact(*given, "--out", tmp_path / "w.safetensors").out)
    assert "PGD(" in card["trained on"] and "eps=0.1" in card["trained on"] and "steps=2" in card["trained on"]
    assert "trained on" not in json.loads(trained.ended.out)


def test_train_says_how_accurate_the_weights_are(trained, tmp_path):
    ended = sanact("train", trained.model, "--epochs", 1, "--out", tmp_path / "w.safetensors", "--quiet")
    assert ended.code == 0 and f"% of 449 images of the test split; saved to {tmp_path}/w.safetensors" in ended.out


def results(ended: Ended) -> list[dict[str, Any]]:
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_evaluate_gives_every_accuracy_with_its_knowledge(evaluation):
    found = results(sanact(*evaluation, "--json"))
    attacks, clean = ["FGSM, Linf 0.1", "PGD-3, Linf 0.0314"], ("clean", "")
    oblivious, white_box = [[(attack, known) for attack in attacks] for known in ("oblivious", "white-box")]
    undefended = [(r["attack"], r["knowledge"]) for r in found if r["defense"] == "none"]
    defended = [(r["attack"], r["knowledge"]) for r in found if r["defense"] == "mask"]
    adaptive = [(f"worst case (quick), Linf {eps}", "adaptive") for eps in ("0.1", "0.0314")]
    assert sorted(undefended) == sorted([clean, *white_box, *adaptive])
    assert sorted(defended) == sorted([clean, *oblivious, *white_box, *adaptive])
    assert all(
        r["verdict"].startswith(("reliable", "upper bound", "suspect: ")) == (r["knowledge"] in ("white-box", "adaptive"))
        for r in found
    )
    assert all(r["accuracy"]["low"] <= r["accuracy"]["value"] <= r["accuracy"]["high"] for r in found)
    assert all(r["data"] == "digits" and r["accuracy"]["n"] == 40 for r in found)


def test_evaluate_counts_what_its_rows_hold(evaluation):
    out = evaluation[-1]
    for result in results(sanact(*evaluation, "--json")):
        rows = pq.read_table(out / result["rows"])
        column = "clean_prediction" if result["attack"] == "clean" else "prediction"
        assert result["accuracy"]["hits"] == int(np.sum(rows[column].to_numpy() == rows["label"].to_numpy()))


def test_compare_tells_two_defenses_apart(evaluation):
    results(sanact(*evaluation, "--json"))
    paths = {part: next(evaluation[-1].glob(f"*_{part}_*.parquet")) for part in ("none_fgsm", "mask_fgsm_white-box")}
    (found,) = results(sanact("compare", *paths.values(), "--json"))
    right = [np.equal(*(pq.read_table(path)[name] for name in ("prediction", "label"))) for path in paths.values()]
    assert found["paired"]["only_b"] == int(np.sum(~right[0] & right[1])) and found["b"]["accuracy"]["hits"] == sum(right[1])
    shown = sanact("compare", *paths.values()).out
    for part in ("only A", "only B", "none", "mask", "white-box", "95 % intervals", "exact test", found["sentence"]):
        assert part in shown


def test_compare_of_a_folder_with_itself_takes_every_pair_once(evaluation):
    results(sanact(*evaluation, "--json"))
    found = results(sanact("compare", evaluation[-1], evaluation[-1], "--json"))
    assert sorted((c["attack"], c["a"]["name"], c["b"]["name"], c["b"]["knowledge"]) for c in found) == [
        *(
            (attack, "none", "mask", knowledge)
            for attack in ("FGSM, Linf 0.1", "PGD-3, Linf 0.0314")
            for knowledge in ("oblivious", "white-box")
        ),
        *((f"worst case (quick), Linf {eps}", "none", "mask", "adaptive") for eps in ("0.0314", "0.1")),
    ]


def test_robustbench_takes_autoattack_and_refuses_what_evaluate_makes_of_the_rest(evaluation, tmp_path):
    results(sanact(*evaluation, "--json"))
    path, out = next(evaluation[-1].glob("*_none_pgd_*.parquet")), tmp_path / "record.json"
    ended = sanact("robustbench", path, "--name", "Ours", "--out", out)
    assert (ended.code, ended.err.count("\n"), out.exists()) == (1, 1, False) and "holds rows of pgd (white-box)" in ended.err
    rows = read_rows(path)
    facts = header(rows)
    facts["cell"]["attack"] |= {"name": "autoattack", "version": "standard", "steps": 100, "queries": 5000, "targets": 9}
    write_rows(rows, tmp_path / "aa.parquet", facts | {"verdict": "suspect: beaten by replay (0.1)"})
    shown = sanact("robustbench", tmp_path / "aa.parquet", "--name", "Ours", "--out", out, "--link", "https://example.org")
    assert shown.code == 0 and "unreliable" in shown.out and f"saved to {out}" in shown.out
    written = json.loads(out.read_text())
    right = 100 * np.mean(np.equal(rows["prediction"], rows["label"]))
    assert (written["autoattack_acc"], written["unreliable"]) == (f"{right:.2f}", True)
    assert (written["name"], written["dataset"], written["eps"]) == ("Ours", "digits", "8/255")
    assert results(sanact("robustbench", tmp_path / "aa.parquet", "--name", "Ours", "--out", out, "--json"))["link"] == ""


STEPS_FILE = """
from torch import nn
from sanact.models import load_model

class Steps(nn.Module):
    def forward(self, x):
        return (15 * x).round() / 15

def stepped():
    return nn.Sequential(Steps(), load_model("mnist-cnn")).eval()

def smooth(x):
    return x
"""


def judged_adaptively(folder: Path, *more: object) -> list[dict[str, Any]]:
    (folder / "steps.py").write_text(STEPS_FILE)
    given = ("--data", "digits", "--examples", "20", "-a", "pgd:eps=0.3", "-k", "adaptive", "--effort", "quick")
    shown = sanact("evaluate", f"{folder}/steps.py:stepped", *given, "--out", folder / "runs", "-q", "--json", *more)
    return results(shown)


def test_evaluate_differentiates_a_module_through_what_stands_in_for_it(tmp_path):
    (found,) = (r for r in judged_adaptively(tmp_path, "--stand-in", f"0={tmp_path}/steps.py:smooth") if r["knowledge"])
    assert any(name.endswith(("stand-in", "stand-in, short")) for name in found["won_by"])
    for wrong in ("9=identity", "0", f"0={tmp_path}/steps.py:rough", "0=identical"):
        told = sanact(
            *("evaluate", f"{tmp_path}/steps.py:stepped", "--data", "digits", "-q", "--out", tmp_path / "runs"),
            *("--stand-in", wrong),
        )
        assert told.code == 1 and told.err.count("\n") == 1 and wrong.split("=")[-1].split(":")[-1] in told.err


def test_evaluate_tries_the_examples_of_a_source_and_keeps_the_one_it_fitted(tmp_path, monkeypatch):
    def briefly(*given: Any, recipe: Recipe, **more: Any) -> object:
        return train(*given, recipe=replace(recipe, epochs=1), **more)

    monkeypatch.setattr("sanact.training.plain.train", briefly)
    judged_adaptively(tmp_path, "--source", "fit")
    (path,), (kept,) = (tmp_path / "runs").glob("*.parquet"), (tmp_path / "runs" / "source").glob("*.safetensors")
    written = [file.stat().st_mtime_ns for file in (path, kept)]
    judged_adaptively(tmp_path, "--source", "fit")
    assert [file.stat().st_mtime_ns for file in (path, kept)] == written
    assert "source" in header(read_rows(path))["cell"]
    judged_adaptively(tmp_path, "--source", f"{tmp_path}/steps.py:stepped")
    judged_adaptively(tmp_path)
    keys = {header(read_rows(path))["cell"].get("source") for path in (tmp_path / "runs").glob("*.parquet")}
    assert len(keys) == 3 and None in keys


def test_evaluate_a_second_time_reads_the_rows_that_are_there(evaluation):
    out, first = evaluation[-1], results(sanact(*evaluation, "--json"))
    written = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert results(sanact(*evaluation, "--json")) == first
    assert len(written) == 10 and {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")} == written


def test_evaluate_as_a_table_names_knowledge_interval_and_plan(evaluation):
    shown = sanact(*evaluation).out
    for part in (
        "oblivious: crafted on the undefended",
        "white-box: crafted on the defended",
        "95 % intervals",
        "0=mask:strength=0.4",
    ):
        assert part in shown
    assert shown.endswith(f"The rows are in {evaluation[-1]}. On one page: sanact report {evaluation[-1]}\n")


def test_the_table_shows_the_cells_that_were_judged_where_another_could_not_be(trained, tmp_path):
    (tmp_path / "mine.py").write_text(
        """
import torch

class Late(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, 0

    def forward(self, x):
        self.seen += len(x)
        return self.network(0.9 * x) * (torch.nan if self.seen > 2000 else 1)

def late(network, data):
    return Late(network).eval()
"""
    )
    command = ["evaluate", trained.model, "--weights", trained.weights, "--data", "digits", "--examples", 20, "-q"]
    command += ["-a", "pgd:eps=0.001,steps=200", "-k", "white-box", "--workers", 1, "--out", tmp_path / "rows"]
    ended = sanact(*command, "--defense", f"{tmp_path}/mine.py:late")
    assert ended.code == 1 and "1 of 2 cells could not be judged: the model returned NaN logits" in ended.err
    assert re.search(r"^ none", ended.out, flags=re.M) and not re.search(r"^ late", ended.out, flags=re.M)


def test_each_plan_and_each_defense_is_a_row_and_semicolons_make_one_plan_of_several(trained, tmp_path):
    command = ["evaluate", trained.model, "--weights", trained.weights, "--data", "digits", "--examples", 20, "--json", "-q"]
    command += ["-a", "fgsm:eps=0.1", "-k", "oblivious", "--out", tmp_path, "--plan", "0=mask:0.4", "--plan", "0=median:3"]
    ended = sanact(*command, "--defense", "feature-squeezing:bits=2", "--defense", "feature-squeezing:bits=2 | 0=mask:0.4")
    assert {r["defense"] for r in results(ended)} == {
        "none",
        "mask",
        "median",
        "feature-squeezing",
        "feature-squeezing | mask",
    }
    assert "each plan is a row of its own; one plan of all is written --plan '0=mask:0.4; 0=median:3'" in ended.err
    assert "two sanitizers for one activation" in sanact(*command[:-4], "--plan", "0=mask:0.4; re:0=median:3").err


def test_evaluate_with_one_knowledge_shows_that_one(evaluation):
    found = results(sanact(*evaluation, "--json", "--knowledge", "white-box"))
    assert {result["knowledge"] for result in found if result["defense"] == "mask"} == {"", "white-box"}


def test_evaluate_without_a_plan_judges_the_network_as_it_is(trained, tmp_path):
    found = results(
        sanact(
            *("evaluate", trained.model, "--weights", trained.weights, "--data", "digits", "--split", "test[:30]"),
            *("-a", "fgsm:eps=0.2", "-k", "white-box", "--out", tmp_path, "--json", "-q"),
        )
    )
    assert [(r["defense"], r["attack"], r["split"], r["accuracy"]["n"]) for r in found] == [
        ("none", "clean", "test[:30]", 30),
        ("none", "FGSM, Linf 0.2", "test[:30]", 30),
    ]


def test_evaluate_judges_a_model_zoo_network_that_normalizes_inside(tmp_path):
    (tmp_path / "zoo.py").write_text(USERS_FILE)
    command = ["evaluate", f"{tmp_path}/zoo.py:zoo", "--data", "digits", "--split", "test[:40]", "-a", "fgsm:eps=0.1"]
    command += ["-k", "oblivious", "-k", "white-box"]
    found = results(sanact(*command, "-p", "conv=mask:0.4", "--out", tmp_path / "runs", "--json", "-q"))
    assert {r["defense"] for r in found} == {"none", "mask"} and len(found) == 5
    network, batch = load_model(f"{tmp_path}/zoo.py:zoo"), next(load_data("digits")[:40].batches(40))
    adversarial = FGSM(eps=0.1).for_replay()(network, batch.x, batch.y)
    for attack, x in (("clean", batch.x), ("FGSM, Linf 0.1", adversarial)):
        (hits,) = [r["accuracy"]["hits"] for r in found if (r["defense"], r["attack"]) == ("none", attack)]
        assert hits == int((network(x).argmax(1) == batch.y).sum())


@pytest.mark.parametrize("plan", ["mask:0.5,reading=calibrated", "mean-sparse:0.5"])
def test_evaluate_calibrates_a_sanitizer_that_needs_it(trained, tmp_path, plan):
    found = results(
        sanact(
            *("evaluate", trained.model, "--weights", trained.weights, "--data", "digits", "--examples", 20, "--out", tmp_path),
            *("-p", f"0={plan}", "-a", "fgsm:eps=0.1", "-k", "white-box", "--json", "-q"),
        )
    )
    assert {result["defense"] for result in found} == {"none", plan.partition(":")[0]}


@pytest.mark.parametrize(("options", "drawn"), [(["--quiet"], False), ([], True)])
def test_quiet_draws_no_progress_even_on_a_terminal(trained, tmp_path, monkeypatch, options, drawn):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich then takes the captured stream for a terminal
    arguments = ["train", trained.model, "--epochs", 1, "--out", tmp_path / "w.safetensors", *options]
    assert ("held-out images after epoch 1" in sanact(*arguments).err) == drawn


def test_quiet_also_silences_what_prepares_the_data(tmp_path):
    data = load_data("digits")[:4].images.rows
    (tmp_path / "data").mkdir()
    data.select(range(4)).add_column("label", [0, 1, 0, 1]).to_parquet(tmp_path / "data" / "test.parquet")
    (tmp_path / "mine.py").write_text(USERS_FILE)
    command = ["evaluate", f"{tmp_path}/mine.py:tiny", "--data", tmp_path / "data", "--out", tmp_path / "runs", "--quiet"]
    command += ["-k", "white-box"]
    ended = in_a_new_process(
        *command, "-a", "fgsm:eps=0.1", HF_DATASETS_CACHE=str(tmp_path / "cache"), FORCE_COLOR="1", TERM="xterm"
    )
    assert ended.code == 0 and "fgsm" in ended.out.lower()
    assert ended.err.startswith("none · fgsm · white-box: ") and ended.err.count("\n") == 1


def test_an_error_of_the_real_command_is_one_line_and_exit_code_1():
    ended = in_a_new_process("layers", "mnist-cnn", "--plan", "fc9=mask:0.3", COLUMNS="40")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert ended.err.startswith("error: the pattern 'fc9' matches no hidden convolution or linear layer; there are: conv1")


BAD = {
    "unknown attack": (
        "-a nope",
        "attack must be one of fgsm, bim, ilcm, mim, pgd, cw, apgd, square, fab, rays, autoattack, got 'nope'",
    ),
    "negative eps": ("-a fgsm:eps=-0.1", "eps"),
    "no number": ("-a fgsm:eps=large", "large"),
    "unknown argument": ("-a fgsm:epsilon=0.1", "attack 'fgsm' takes "),
    "missing argument": ("-a fgsm", "'eps'"),
    "unknown layer": ("-p fc9=mask:0.3", "the pattern 'fc9' matches no hidden"),
    "unknown sanitizer": ("-p blur", f"sanitizer must be one of {', '.join(SANITIZERS)}, got 'blur'"),
    "even kernel": ("-p median:4", "got 4"),
    "two sanitizers": ("-p 0=median;*=mask", "two sanitizers for one activation"),
    "unknown data": ("--data nowhere", "no data set 'nowhere'"),
    "unknown split": ("--split val", "no split 'val' in data set 'digits'; it has: train, test"),
    "unknown knowledge": ("-k psychic", "knowledge must be one of oblivious, white-box, adaptive, got 'psychic'"),
    "missing weights": ("--weights none.safetensors", "no weights at 'none.safetensors'"),
    "unknown device": ("--device cuda:99", "device must be auto, cpu, or one that is there, got 'cuda:99'"),
    "too many examples": ("--examples 5000", "examples must be in 1..449, got 5000"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(trained, tmp_path, arguments, message):
    ended = sanact("evaluate", trained.model, "--data", "digits", "--out", tmp_path, "-q", *arguments.split())
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1), ended.err
    assert ended.err.startswith("error: ") and message in ended.err
    assert not (tmp_path / "source").exists(), "a network was fitted before the error was seen"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "evaluate resnet50 --data digits",
            "model must be one of mnist-cnn, mnist-small, cifar-cnn, resnet18, resnet18-64, timm:NAME, or "
            "path/to/file.py:factory, got 'resnet50'",
        ),
        ("evaluate {file}:Stuck --data digits", "the model must be in evaluation mode"),
        ("evaluate {file}:Nan --data digits", "NaN logits"),
        ("evaluate {file}:narrow --data digits", "shapes cannot be multiplied"),
        ("evaluate mnist-cnn --data digits --weights {foreign}", "do not fit MNISTCNN"),
        ("evaluate mnist-cnn --data digits --out {file}", "mine.py"),
        ("layers mnist-cnn --input 28x28", "input must be C,H,W, as in 3,224,224, got '28x28'"),
        ("layers mnist-cnn --plan absent.json", "'absent.json' holds no plan"),
        ("layers {file}:absent", "mine.py' has no 'absent'"),
        (
            "reproduce table9",
            "experiment must be one of table2, robust, landscape, fig1, fig3, fig4, fig5, fig6, fig7, mask-readings, budgets, "
            "plans, got 'table9'",
        ),
        ("reproduce fig7 --distance far", "distance must be one of relative, rms, direction, got 'far'"),
        (
            "reproduce table2 --data digits",
            "data must be one of mnist, cifar10, tiny-imagenet to reproduce the paper, got 'digits'",
        ),
        ("reproduce fig4 --data mnist", "fig4 is for cifar10 only, got --data mnist"),
        ("evaluate mnist-cnn -k adaptive --source nix", "source must be fit, none, or another network: model must be one of"),
        ("evaluate mnist-cnn --defense squeezing", ", or a plan, got 'squeezing'; did you mean 'feature-squeezing'?"),
        ("evaluate mnist-cnn --defense feature-squeezing:depth=1", "defense 'feature-squeezing' takes bits, median, h,"),
        ("evaluate mnist-cnn --defense feature-squeezing", "at least one of bits, median and h must be given, got none"),
        (
            "evaluate mnist-cnn --defense 'pgd-at:eps=0.1|pgd-at:eps=0.3'",
            "of a chain at most one may train, the second would undo",
        ),
        (
            "evaluate mnist-cnn --plan mask:0.3 --plan mask:0.3",
            "defenses: each must be given once, got 'mask:0.3' twice",
        ),
        ("defenses squeezing", f"defense must be one of {', '.join(DEFENSES)}, got 'squeezing'"),
        ("train mnist-cnn --out w.safetensors --defense mask:0.3", "defense must be one that trains a network, got mask"),
        (
            "train mnist-cnn --out w.safetensors -a pgd:eps=0.1 --defense pgd-at:eps=0.1",
            "trained on an attack or for a defense",
        ),
        ("train mnist-cnn --epochs 0", "epochs must be positive, got 0"),
        ("compare {file} {foreign}", "mine.py' holds no rows"),
        ("compare {file} {foreign} --l2 -1", "l2 must be 'usual' or a number from 0 on, got '-1'"),
        ("report {file} --l2 wide", "l2 must be 'usual' or a number from 0 on, got 'wide'"),
        ("train mnist-cnn --out weights.pt", "out must be a file that ends in .safetensors, got 'weights.pt'"),
    ],
)
def test_what_cannot_be_done_is_one_line(trained, command, message):
    file = trained.model.removesuffix(":tiny")
    ended = sanact(*shlex.split(command.format(file=file, foreign=trained.weights)))
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1), ended.err
    assert ended.err.startswith("error: ") and message in ended.err


def test_broken_rows_are_named(evaluation):
    results(sanact(*evaluation, "--json"))
    path = sorted(evaluation[-1].glob("*.parquet"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    ended = sanact(*evaluation)
    path.write_bytes(whole)
    assert ended.code == 1 and ended.err.startswith(f"error: '{path}' holds no rows") and "can be deleted" in ended.err


@pytest.mark.parametrize(
    "arguments", [["paint"], ["layers"], ["layers", "mnist-cnn", "--frobnicate"], ["demo", "--examples", "0"]]
)
def test_wrong_usage_is_exit_code_2(arguments):
    ended = sanact(*arguments)
    assert ended.code == 2 and ended.err and not ended.out


@pytest.mark.parametrize(
    ("budgets", "said"), [((0.1, 0.2, 0.3), "Rows, table and figure are in"), ((0.1, 0.2), "Rows and table are in")]
)
def test_reproduce_writes_a_table_with_its_command_and_a_figure_where_there_is_a_curve(tmp_path, monkeypatch, budgets, said):
    def sweep(setting: Setting) -> list[Grid]:
        rows = setting.run(setting.cells(setting.images("test"), [None], [FGSM(eps=eps) for eps in budgets]))
        return [grid(results_in(rows), "white-box")]

    load_or_skip("mnist", "test")
    monkeypatch.setitem(EXPERIMENTS, "sweep", sweep)
    ended = sanact("reproduce", "sweep", "--examples", 5, "--out", tmp_path, "--quiet")
    assert ended.code == 0 and f"{said} {tmp_path}" in ended.out
    table, figure = tmp_path / "sweep-mnist.md", tmp_path / "sweep-mnist.svg"
    assert f"`sanact reproduce sweep --examples 5 --out {tmp_path} --quiet`" in table.read_text(encoding="utf-8")
    assert figure.exists() == ("figure" in said) and (not figure.exists() or figure.read_bytes().startswith(b"<?xml"))


def test_reproduce_draws_a_figure_for_a_page_and_one_for_the_screen(tmp_path):
    load_or_skip("mnist", "test")
    arguments = ("reproduce", "fig1", "--out", tmp_path, "--quiet", "--knowledge", "oblivious")
    ended = sanact(*arguments)
    assert ended.code == 0 and "Hidden activations of mnist-cnn, sanitized by: none" in " ".join(ended.out.split())
    heads = {".pdf": b"%PDF", ".png": b"\x89PNG", ".svg": b"<?xml", ".npz": b"PK"}
    drawn = {suffix: (tmp_path / f"fig1-mnist{suffix}").read_bytes() for suffix in heads}
    assert all(drawn[suffix].startswith(head) for suffix, head in heads.items())
    assert "`sanact reproduce fig1" in (tmp_path / "fig1-mnist.md").read_text(encoding="utf-8")
    assert sanact(*arguments).code == 0
    assert all((tmp_path / f"fig1-mnist{suffix}").read_bytes() == drawn[suffix] for suffix in (".pdf", ".png", ".svg"))


def test_report_writes_one_page_of_a_run(evaluation, tmp_path):
    assert sanact(*evaluation, "--quiet").code == 0
    ended = sanact("report", evaluation[-1], "--out", tmp_path / "report.html")
    assert ended.code == 0 and f"{tmp_path / 'report.html'}, " in ended.out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "the adversarial example, and their difference" in page
    ended = sanact("report", tmp_path / "absent", "--out", tmp_path / "report.html")
    assert ended.err.startswith("error: there is no file or folder '")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_evaluate_of_some_classes_says_so(trained, tmp_path):
    arguments = ("--data", "digits", "--class", "3", "--class", "8", "--attack", "fgsm:eps=0.1", "--knowledge", "white-box")
    arguments += ("--weights", trained.weights, "--examples", 10, "--out", tmp_path, "--quiet")
    ended = sanact("evaluate", trained.model, *arguments)
    assert ended.code == 0 and "10 images of digits (test, only 3, 8)" in " ".join(ended.out.split())
    (path,) = tmp_path.glob("*.parquet")
    rows = read_rows(path)
    assert set(rows["label"].to_pylist()) == {3, 8} and header(rows)["cell"]["data"]["classes"] == ["3", "8"]


def test_evaluating_tiny_imagenet_stays_under_2_gb(tmp_path):
    pytest.importorskip("resource", reason="needs the system's account of what a process has used")
    load_or_skip("tiny-imagenet", "test")
    command = "sanact evaluate resnet18-64:width=32 --data tiny-imagenet --examples 100 --batch-size 100 -k white-box -q"
    command += " --plan nl-means:window_size=3 -a cw:search_steps=1,steps=3"
    between = (  # a process starts with the peak of the one that started it, so that must be a small one
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    arguments = [sys.executable, "-c", between, sys.executable, "-m", *shlex.split(command), "--out", str(tmp_path)]
    peak = int(subprocess.run(arguments, check=True, stdout=subprocess.PIPE).stdout)
    assert 0.5e9 < peak * (1 if sys.platform == "darwin" else 1024) < 2e9
