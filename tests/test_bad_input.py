"""Whatever comes in that cannot be meant is refused in one line that says what came; and what can be meant is taken."""

from __future__ import annotations

import inspect
import json
import math
import re
import shlex
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sanact import (
    ATTACKS,
    FGSM,
    PGD,
    SANITIZERS,
    AutoAttack,
    Mask,
    MeanSparse,
    MedianFilter,
    NonLocalMeans,
    calibrate,
    distances,
    record,
    sanitize,
)
from sanact.data import Data, load_data
from sanact.device import pick_device
from sanact.engine import run
from sanact.evaluation.adaptive import Adaptive
from sanact.evaluation.cell import Cell, cells
from sanact.evaluation.judge import judge
from sanact.evaluation.robustbench import write_record
from sanact.evaluation.rows import header, read_rows
from sanact.experiments import Setting
from sanact.explorer import Explorer
from sanact.models import build_model, load_model, load_weights
from sanact.plan import parse_plan, plan_from_dict
from sanact.spec import parse
from sanact.training import Recipe, train, train_and_save
from tests.test_cli import sanact

HUGE = 10**400

# By the type of an argument's default: what it is not.
NOT_A: dict[type, list[Any]] = {
    bool: ["no", "false", "yes", 1, 0, 2.0, None, np.int64(1), [True]],
    int: [-1, 1.5, "3", True, False, math.nan, HUGE, -HUGE, 2**63, [3], np.float32(2), np.bool_(True), 1j],
    float: [math.nan, math.inf, -math.inf, -1.0, "0.1", True, HUGE, [0.1], 1j, np.float32("nan"), np.bool_(False)],
    str: ["", "nope", 3, None, ["L2"], "Linf ", True],
}
EXPENSIVE = 10**8  # of anything that is counted, but seeds

KINDS: dict[str, Any] = {**ATTACKS, "adaptive": Adaptive, **SANITIZERS, "recipe": Recipe}


def make(name: str, **given: Any) -> Any:
    needed = {"eps": 0.1} if "eps" in inspect.signature(KINDS[name]).parameters else {}
    return KINDS[name](**needed | given)


def arguments() -> Iterator[tuple[str, str, Any]]:
    """Kind, argument, and a value that it must not take."""
    for name, kind in KINDS.items():
        for argument, parameter in inspect.signature(kind).parameters.items():
            default = {"eps": 0.1, "step_size": 0.1, "targets": 9, "percentile": 65.0}.get(argument, parameter.default)
            if default is None:  # images
                continue
            yield from ((name, argument, value) for value in NOT_A[type(default)] if value is not None or parameter.default)
            if type(default) is float and argument not in ("lr", "weight_decay"):
                yield name, argument, 1e300
            if type(default) is int and argument != "seed":
                yield name, argument, EXPENSIVE


def refused(call: Callable[[], Any], *parts: str, kinds: tuple[type[Exception], ...] = (ValueError, TypeError)) -> str:
    """The message of what a call raises: one line, of a length that can be read."""
    with pytest.raises(kinds) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and len(message) < 700
    assert [part for part in parts if part not in message] == [], message
    return message


@pytest.mark.parametrize(("name", "argument", "value"), [*arguments()], ids=lambda value: repr(value)[:20])
def test_no_constructor_takes_what_an_argument_is_not(name, argument, value):
    came = repr(value) if len(repr(value)) < 40 else repr(value)[:20]
    refused(lambda: make(name, **{argument: value}), f"{argument} must ", f"got {came}", kinds=(ValueError,))


GOOD = [
    (lambda: PGD(eps=np.float32(0.5)).eps, 0.5),
    (lambda: PGD(eps=np.int64(1)).eps, 1.0),
    (lambda: PGD(eps=Fraction(1, 4)).eps, 0.25),
    (lambda: PGD(eps=0.1, steps=np.uint8(7)).steps, 7),
    (lambda: PGD(eps=0.1, steps=torch.tensor(7)).steps, 7),
    (lambda: PGD(eps=0.1, step_size=np.float16(0.5)).step_size, 0.5),
    (lambda: PGD(eps=0.1, step_size=None).step_size, None),
    (lambda: PGD(eps=0.1, random_start=np.bool_(False)).random_start, False),
    (lambda: PGD(eps=0.1, norm=np.str_("L2")).norm, "L2"),
    (lambda: PGD(eps=5e-324).eps, 5e-324),
    (lambda: PGD(eps=0.1, steps=100_000).steps, 100_000),
    (lambda: ATTACKS["fab"](eps=0.1, targets=None, beta=0, eta=1).targets, None),
    (lambda: ATTACKS["apgd"](eps=0.1, rho=1).rho, 1.0),
    (lambda: ATTACKS["square"](eps=0.1, p_init=1).p_init, 1.0),
    (lambda: ATTACKS["mim"](eps=0.1, decay=-0.0).decay, 0.0),
    (lambda: ATTACKS["cw"](confidence=0).confidence, 0.0),
    (lambda: AutoAttack(eps=1, queries=np.int32(10)).queries, 10),
    (lambda: MedianFilter(np.int64(3)).kernel_size, 3),
    (lambda: MedianFilter(31).kernel_size, 31),
    (lambda: NonLocalMeans(np.float64(2), 1, 101).window_size, 101),
    (lambda: Mask(0).strength, 0.0),
    (lambda: Mask(-1, "mean_std").strength, -1.0),
    (lambda: Mask(1, "max").strength, 1.0),
    (lambda: SANITIZERS["sap"](np.int8(1), 2**63 - 1).seed, 2**63 - 1),
    (lambda: Recipe(epochs=np.int64(3)).epochs, 3),
    (lambda: Recipe(momentum=0, ema=0, crop=0, weight_decay=0).momentum, 0.0),
    (lambda: parse("attack", ATTACKS, "pgd:eps=8/255,early_stop=False").early_stop, False),
    (lambda: parse("attack", ATTACKS, "pgd:eps=1e-2,step_size=none").step_size, None),
]


@pytest.mark.parametrize(("make", "kept"), GOOD, ids=range(len(GOOD)))
def test_what_can_be_meant_is_taken_and_kept_as_a_value_of_python(make, kept):
    value = make()
    assert value == kept and type(value) is type(kept) and repr(value) == repr(kept)


def test_numbers_of_numpy_make_the_same_configuration_as_pythons():
    ours, theirs = PGD(eps=0.5, steps=3), PGD(eps=np.float32(0.5), steps=np.int16(3))
    assert ours == theirs and hash(ours) == hash(theirs) and repr(ours) == repr(theirs) and ours.config == theirs.config
    assert json.dumps(MedianFilter(np.int64(5)).config) == json.dumps(MedianFilter(5).config)


def net(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 36, outputs)).eval()


X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(6) % 3
DATA = Data.from_tensors(X, Y)
CELL: dict[str, Any] = {
    "data": DATA,
    "model": net(),
    "model_name": "net",
    "defense": None,
    "attack": FGSM(eps=0.1),
    "knowledge": "white-box",
}


def with_nan(x: Tensor, value: float = math.nan) -> Tensor:
    x = x.clone()
    x[1, 0, 2, 3] = value
    return x


def explorer() -> Explorer:
    return Explorer(net(), (1, 8, 8))


def look(plan: str, knowledge: str = "white-box") -> Any:
    return explorer().look(X[0], 0, FGSM(eps=0.1), parse_plan([plan]), knowledge)  # type: ignore[arg-type]


def setting(**given: Any) -> Setting:
    return Setting(**{"data": "mnist", "out": Path("out")} | given)


CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "from_tensors of NumPy": (lambda: Data.from_tensors(X.numpy(), Y), "got ndarray"),
    "from_tensors, labels of a list": (lambda: Data.from_tensors(X, [0] * 6), "got list"),
    "from_tensors of NaN": (lambda: Data.from_tensors(with_nan(X), Y), "in 1 of 6 images"),
    "from_tensors of infinity": (lambda: Data.from_tensors(with_nan(X, math.inf), Y), "in 1 of 6 images"),
    "from_tensors without channels": (lambda: Data.from_tensors(X[:, 0], Y), "(6, 8, 8)"),
    "from_tensors, labels of reals": (lambda: Data.from_tensors(X, Y.float()), "torch.float32"),
    "from_tensors, labels of flags": (lambda: Data.from_tensors(X, Y > 0), "torch.bool"),
    "from_tensors, too few labels": (lambda: Data.from_tensors(X, Y[:5]), "(5,)"),
    "from_tensors, negative labels": (lambda: Data.from_tensors(X, Y - 1), "got -1"),
    "from_tensors, too few names": (lambda: Data.from_tensors(X, Y, classes=["a", "b"]), "got 2"),
    "from_tensors, a name twice": (lambda: Data.from_tensors(X, Y, classes=["a", "b", "a"]), "'a' twice"),
    "from_tensors, one text of names": (lambda: Data.from_tensors(X, Y, classes="abc"), "got 'abc'"),
    "batches of none": (lambda: next(DATA.batches(0)), "got 0"),
    "batches of a half": (lambda: next(DATA.batches(0.5)), "got 0.5"),
    "batches of a word": (lambda: next(DATA.batches("all")), "got 'all'"),
    "a sample of none": (lambda: DATA.sample(0), "got 0"),
    "a sample of too many": (lambda: DATA.sample(7), "1..6, got 7"),
    "a sample of a half": (lambda: DATA.sample(2.5), "got 2.5"),
    "a sample of True": (lambda: DATA.sample(True), "got True"),
    "a sample with a negative seed": (lambda: DATA.sample(2, seed=-1), "got -1"),
    "only a class that is misspelt": (lambda: Data.from_tensors(X, Y, classes=["cat", "dog", "cow"]).only(["dgo"]), "'dog'?"),
    "data of no name": (lambda: load_data(""), "got ''"),
    "data of a number": (lambda: load_data(3), "got 3"),
    "data of no split": (lambda: load_data("digits", ""), "got ''"),
    "an empty split": (lambda: load_data("digits", "test[:0]"), "'test[:0]'"),
    "a split the wrong way round": (lambda: load_data("digits", "test[9:3]"), "'test[9:3]'"),
    "a split beyond the end": (lambda: load_data("digits", "test[:5000]"), "'test[:5000]' reaches beyond the 449 images"),
    "a split beyond the beginning": (lambda: load_data("digits", "test[-5000:]"), "(at -5000)"),
    "a split of 200 %": (lambda: load_data("digits", "test[:200%]"), "'test[:200%]'"),
    "a split that does not end": (lambda: load_data("digits", "test["), "'test['"),
    "a shape without height": (lambda: load_data("digits", shape=(1, 28)), "got (1, 28)"),
    "a shape of nothing": (lambda: load_data("digits", shape=(1, 0, 28)), "got (1, 0, 28)"),
    "a shape of halves": (lambda: load_data("digits", shape=(1, 0.5, 28)), "got (1, 0.5, 28)"),
    "a shape beyond all memory": (lambda: load_data("digits", shape=(3, 60_000, 60_000)), "got (3, 60000, 60000)"),
    "a column that is not there": (lambda: load_data("digits", label="labels"), "did you mean 'label'?"),
    "an image column of labels": (lambda: load_data("digits", image="label"), "image='label'"),
    "too few names of classes": (lambda: load_data("digits", classes=["0", "1"]), "'2'"),
    "a folder that is not there": (lambda: load_data("./no/such/folder"), "there is no such folder"),
    "an absolute folder that is not there": (lambda: load_data("/no/such/folder"), "'/no/such/folder'"),
    "a folder with a blank": (lambda: load_data("my data"), "'my data'"),
    "a folder of too long a name": (lambda: load_data("x" * 5000), "(5,002 characters)"),
    "a file in place of a folder": (lambda: load_data(__file__), "is a file, not a folder"),
    "a cell of no data": (lambda: Cell(**CELL | {"data": X}), "data must be of type Data"),
    "a cell of no model": (lambda: Cell(**CELL | {"model": "mnist-cnn"}), "got 'mnist-cnn'"),
    "a cell of no attack": (lambda: Cell(**CELL | {"attack": "fgsm"}), "got 'fgsm'"),
    "a cell of an attack's class": (lambda: Cell(**CELL | {"attack": FGSM}), "attack must be of type Attack"),
    "a cell of no name": (lambda: Cell(**CELL | {"model_name": 3}), "got 3"),
    "a cell of an empty plan": (lambda: Cell(**CELL | {"defense": {}}), "at least one pattern"),
    "a cell of a number for a plan": (lambda: Cell(**CELL | {"defense": 3}), "got 3"),
    "a cell of a negative seed": (lambda: Cell(**CELL | {"seed": -1}), "got -1"),
    "a cell of half a seed": (lambda: Cell(**CELL | {"seed": 0.5}), "got 0.5"),
    "a cell of misspelt knowledge": (lambda: Cell(**CELL | {"knowledge": "white box"}), "did you mean 'white-box'?"),
    "a cell of no knowledge": (lambda: Cell(**CELL | {"knowledge": None}), "got None"),
    "cells of knowledge in one text": (lambda: cells(DATA, net(), "n", [None], [FGSM(eps=0.1)], "adaptive"), "got 'a'"),
    "judging batches of none": (lambda: judge(Cell(**CELL), batch_size=0), "got 0"),
    "judging batches of -3": (lambda: judge(Cell(**CELL), batch_size=-3), "got -3"),
    "judging and keeping -1": (lambda: judge(Cell(**CELL), keep=-1), "got -1"),
    "judging on a device of no name": (lambda: judge(Cell(**CELL), device="gpu"), "got 'gpu'"),
    "a run on another engine": (lambda: run([], out="x", engine="cloud"), "got 'cloud'"),
    "a run to nowhere": (lambda: run([], out=""), "got ''"),
    "a run to a file": (lambda: run([], out=__file__), "got the file"),
    "a run in batches of none": (lambda: run([], out="x", batch_size=0), "got 0"),
    "a run in too large batches": (lambda: run([], out="x", batch_size=10**9), "got 1000000000"),
    "a run that keeps -1": (lambda: run([], out="x", keep=-1), "got -1"),
    "a run of names": (lambda: run(["fgsm"], out="x"), "got 'fgsm'"),
    "training into too long a name": (
        lambda: train_and_save("mnist-cnn", "digits", "w" * 240 + ".safetensors", Recipe()),
        "at most 200 bytes",
    ),
    "a device of another kind": (lambda: pick_device("meta"), "got 'meta'"),
    "a device that is no name": (lambda: pick_device(1.5), "got '1.5'"),
    "a device that is misspelt": (lambda: pick_device("cdua"), "did you mean 'cuda'?"),
    "recording NaN": (lambda: record(net(), with_nan(X)), "got NaN or infinity"),
    "recording NumPy": (lambda: record(net(), X.numpy()), "ndarray"),
    "recording no model": (lambda: record("net", X), "got str"),
    "recording in batches of none": (lambda: record(net(), X, batch_size=0), "got 0"),
    "recording no layers": (lambda: record(net(), X, []), "got none"),
    "recording within no bytes": (lambda: record(net(), X, limit=-1), "got -1"),
    "recording into a file": (lambda: record(net(), X, folder=__file__), Path(__file__).name),
    "a distance of no kind": (lambda: distances(record(net(), X), record(net(), X), "l2"), "got 'l2'"),
    "a distance of tensors": (lambda: distances(X, X), "got Tensor"),
    "calibrating on NaN": (lambda: calibrate(sanitize(net(), MeanSparse()), with_nan(X)), "got NaN or infinity"),
    "calibrating on images of other channels": (
        lambda: calibrate(sanitize(net(), MeanSparse()), torch.cat([X, X], 1)),
        "calibration needs images that the network takes, got (6, 2, 8, 8)",
    ),
    "a sanitizer that learns from NaN": (lambda: MeanSparse().calibrate([with_nan(X)]), "got NaN or infinity"),
    "an example that is no tensor": (lambda: sanitize(net(), MeanSparse(), example=X.numpy()), "got ndarray"),
    "calibrating on NumPy": (lambda: calibrate(sanitize(net(), MeanSparse()), X.numpy()), "got ndarray"),
    "calibrating on bytes": (lambda: calibrate(sanitize(net(), MeanSparse()), X.byte()), "got torch.uint8"),
    "calibrating in batches of none": (lambda: calibrate(sanitize(net(), MeanSparse()), X, batch_size=0), "got 0"),
    "a plan that is a list": (lambda: plan_from_dict([{"name": "mask"}]), "got [{'name': 'mask'}]"),
    "a plan of texts": (lambda: plan_from_dict({"*": "mask"}), "got {'*': 'mask'}"),
    "a plan without a name": (lambda: plan_from_dict({"*": {"strength": 0.3}}), "none for the pattern '*'"),
    "a plan with a number for a name": (lambda: plan_from_dict({"*": {"name": 3}}), "got 3"),
    "a plan with a list for a name": (lambda: plan_from_dict({"*": {"name": ["mask"]}}), "got ['mask']"),
    "a sanitizer that is misspelt": (lambda: parse_plan(["medain"]), "did you mean 'median'?"),
    "two sanitizers for all": (lambda: parse_plan(["mask", "*=median"]), "'*=median'"),
    "an argument that is misspelt": (lambda: parse("attack", ATTACKS, "pgd:eps=0.1,step=3"), "did you mean 'steps'?"),
    "an argument given twice": (lambda: parse("attack", ATTACKS, "pgd:eps=0.1,eps=0.2"), "eps must be given once"),
    "an argument of 5,000 digits": (lambda: parse("attack", ATTACKS, "pgd:eps=" + "9" * 5000), "(5,002 characters)"),
    "an argument of 400 digits": (lambda: parse("attack", ATTACKS, f"pgd:eps=0.1,steps={HUGE}"), "(401 characters)"),
    "an argument that overflows": (lambda: parse("attack", ATTACKS, "pgd:eps=1e999"), "got '1e999'"),
    "a fraction of nothing": (lambda: parse("attack", ATTACKS, "pgd:eps=8/0"), "got '8/0'"),
    "an attack of no name": (lambda: parse("attack", ATTACKS, ""), "got ''"),
    "an attack of a long name": (lambda: parse("attack", ATTACKS, "x" * 5000), "(5,002 characters)"),
    "a model of no width": (lambda: build_model("resnet18:width=0"), "got 0"),
    "a model of half a width": (lambda: build_model("resnet18:width=2.5"), "got 2.5"),
    "a model of 10^9 channels": (lambda: build_model("resnet18:width=1000000000"), "got 1000000000"),
    "a model of no classes": (lambda: build_model("mnist-cnn:classes=0"), "got 0"),
    "a model of 10^9 classes": (lambda: build_model("mnist-cnn", classes=10**9), "got 1000000000"),
    "a model that is misspelt": (lambda: build_model("mnist_cnn"), "did you mean 'mnist-cnn'?"),
    "a model that is a module": (lambda: load_model(net()), "got Sequential"),
    "weights that are a folder": (lambda: load_weights(net(), Path(__file__).parent), "no weights at"),
    "weights of too long a name": (lambda: load_weights(net(), "x" * 3000 + ".pt"), "no weights at"),
    "an explorer of a sanitized model": (lambda: Explorer(sanitize(net(), Mask()), (1, 8, 8)), "sanitizer 'mask'"),
    "an explorer of no shape": (lambda: Explorer(net(), (1, 8)), "got (1, 8)"),
    "a page that asks for a kernel of 11": (lambda: look("median:11"), "got 11"),
    "a page that asks for a window of 17": (lambda: look("nl-means:window_size=17"), "got 17"),
    "a page that asks for a patch of 11": (lambda: look("nl-means:patch_size=11"), "got 11"),
    "a page that asks for 1,000 draws": (lambda: look("sap:1000"), "got 1000"),
    "a page that knows what nobody does": (lambda: look("median", "psychic"), "got 'psychic'"),
    "a setting of no examples": (lambda: setting(examples=0), "got 0"),
    "a setting of a negative seed": (lambda: setting(seed=-1), "got -1"),
    "a setting of no batch": (lambda: setting(batch_size=0), "got 0"),
    "a setting of no effort": (lambda: setting(effort="hard"), "got 'hard'"),
    "a setting of no knowledge": (lambda: setting(knowledge=("white",)), "got 'white'"),
    "a setting of misspelt data": (lambda: setting(data="cifar-10"), "did you mean 'cifar10'?"),
    "a record of no name": (lambda: write_record([], Path("r.json"), name=" "), "got ' '"),
    "a record of more than all": (lambda: write_record([], Path("r.json"), name="n", reported=101), "got 101"),
    "a record of NaN": (lambda: write_record([], Path("r.json"), name="n", reported=math.nan), "got nan"),
    "training without images": (lambda: train(net(), DATA[:0], validation=DATA, recipe=Recipe(epochs=1)), "got 0 and 6"),
    "training a model of two outputs": (lambda: train(net(2), DATA, validation=DATA, recipe=Recipe(epochs=1)), "got 0..2"),
    "training what cannot learn": (lambda: train(nn.Flatten(), DATA, validation=DATA, recipe=Recipe(epochs=1)), "Flatten"),
    "training what is frozen": (
        lambda: train(net().requires_grad_(False), DATA, validation=DATA, recipe=Recipe(epochs=1)),
        "no parameters to train",
    ),
    "training on whole numbers": (
        lambda: train(net(), Data.from_tensors(255 * X, Y), validation=DATA, recipe=Recipe(epochs=1)),
        "x must lie in [0, 1]",
    ),
    "training with too wide a crop": (lambda: train(net(), DATA, validation=DATA, recipe=Recipe(epochs=1, crop=8)), "got 8"),
    "training from weights that are not there": (
        lambda: train_and_save("mnist-cnn", "digits", "w.safetensors", Recipe(), start=Path("nowhere.pt")),
        "'nowhere.pt'",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_no_call_takes_what_cannot_be_meant(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, came = CALLS[case]
    refused(call, came, kinds=(ValueError, TypeError, OSError))
    assert not list(tmp_path.glob("*.json"))


USERS = """
import sys
import torch
from torch import nn
import sanact

class Net(nn.Sequential):
    def __init__(self, outputs=10):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, outputs))
    def forward(self, x):
        return self.after(super().forward(x))
    def after(self, logits):
        return logits

class Leaves(Net):
    def after(self, logits):
        sys.exit(0)
class Fails(Net):
    def after(self, logits):
        return {}["missing"]
class Seven(Net):
    def __init__(self):
        super().__init__(7)
class Twelve(Net):
    def __init__(self):
        super().__init__(12)

def leaves():
    sys.exit(0)
def asks(size):
    return Net()
def none():
    return None
def kind():
    return Net
def prints():
    print("a greeting")
    return Net()
def sanitized():
    return sanact.sanitize(Net().eval(), {"0": sanact.Mask(0.02)}, example=torch.zeros(1, 1, 28, 28))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a user's file, and what somebody may take for something else."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "mine.py").write_text(USERS)
    (folder / "folder.safetensors").mkdir()
    (folder / "plans").mkdir()
    for name, text in {
        "broken": "{",
        "list": "[]",
        "empty": "{}",
        "twice": '{"0": {"name": "mask"}, "0": {"name": "median"}}',
        "deep": "[" * 100_000,
        "kernel": '{"0": {"name": "median", "kernel_size": 999}}',
        "nan": '{"0": {"name": "mask", "strength": NaN}}',
        "digits": '{"0": {"name": "mask", "strength": ' + "9" * 5000 + "}}",
        "text": '{"0": "mask"}',
    }.items():
        (folder / "plans" / f"{name}.json").write_text(text)
    (folder / "plans" / "latin.json").write_bytes(b"\xff\xfe\x00")
    return folder


EVALUATE = "evaluate mine.py:Net --data digits --examples 10 -q "
LINES: dict[str, str] = {  # what comes on the command line, and what the message names
    EVALUATE + "--seed -1": "seed must be a whole number ≥ 0, got -1",
    EVALUATE + f"--seed {2**63}": "got 9223372036854775808",
    EVALUATE + "--seed one": "--seed",
    EVALUATE + "--examples 0": "--examples",
    EVALUATE + "--examples many": "--examples",
    EVALUATE + "--batch-size 0": "--batch-size",
    EVALUATE + "--batch-size 1000000000": "--batch-size",
    EVALUATE + "--out ''": "must be a path, got ''",
    EVALUATE + "--out mine.py": "got the file 'mine.py'",
    EVALUATE + "--effort quik": "did you mean 'quick'?",
    EVALUATE + "--effort quik -k white-box": "got 'quik'",
    EVALUATE + "-k adaptiv": "did you mean 'adaptive'?",
    EVALUATE + "-k ''": "got ''",
    EVALUATE + "--device cuda:x": "got 'cuda:x'",
    EVALUATE + "--device ''": "got ''",
    EVALUATE + "--l2 nan": "got 'nan'",
    EVALUATE + "--l2 1e999": "got '1e999'",
    EVALUATE + "--l2 usuall": "got 'usuall'",
    EVALUATE + "--l2 0 -k adaptive -a cw": "nothing to judge",
    EVALUATE + "-a fgsm:eps=0.1 -a fgsm:eps=0.1": "must be given once",
    EVALUATE + "-a fgsm:0.1": "got 0.1",
    EVALUATE + "-a pgd:eps=0.1,early_stop=no": "early_stop must be True or False, got 'no'",
    EVALUATE + "-a pgd:eps=0.1,random_start=0": "random_start must be True or False, got 0",
    EVALUATE + "-a pgd:eps=0.1,steps=1e3": "got 1000.0",
    EVALUATE + f"-a pgd:eps=0.1,steps={HUGE}": "steps must be at most",
    EVALUATE + f"-a pgd:eps={HUGE}": "eps must be a positive number",
    EVALUATE + "-a pgd:eps=0.1,norm=l2": "did you mean 'L2'?",
    EVALUATE + "-a pdg:eps=0.1": "did you mean 'pgd'?",
    EVALUATE + "-a ''": "got ''",
    EVALUATE + "-p median:999": "kernel_size must be at most 31, got 999",
    EVALUATE + "-p nl-means:window_size=100001": "got 100001",
    EVALUATE + "-p sap:1,-1": "got -1",
    EVALUATE + "-p ''": "got ''",
    EVALUATE + "-p plans/broken.json": "plans/broken.json",
    EVALUATE + "-p plans/list.json": "got []",
    EVALUATE + "-p plans/empty.json": "it has no pattern",
    EVALUATE + "-p plans/twice.json": "'0' is given twice",
    EVALUATE + "-p plans/deep.json": "plans/deep.json",
    EVALUATE + "-p plans/kernel.json": "got 999",
    EVALUATE + "-p plans/nan.json": "got nan",
    EVALUATE + "-p plans/digits.json": "plans/digits.json",
    EVALUATE + "-p plans/text.json": "got {'0': 'mask'}",
    EVALUATE + "-p plans/latin.json": "plans/latin.json",
    EVALUATE + "-p plans.json": "plans.json",
    EVALUATE + "--weights plans": "no weights at 'plans'",
    EVALUATE + f"--weights {'x' * 300}.pt": "no weights at 'xxx",
    EVALUATE + "--split test[:0]": "'test[:0]'",
    EVALUATE + "--split tset": "did you mean 'test'?",
    EVALUATE + "--class twelve": "no class 'twelve'",
    EVALUATE + "--class-names 0,1,2": "the class '3' of data set 'digits'",
    EVALUATE + "--class-names ''": "got ''",
    EVALUATE + "--image-column photo": "image='photo'",
    EVALUATE + "--label-column lable": "did you mean 'label'?",
    EVALUATE.replace("Net", "leaves"): "'leaves' in 'mine.py' failed with SystemExit: 0",
    EVALUATE.replace("Net", "asks"): "'asks' in 'mine.py' failed with TypeError",
    EVALUATE.replace("Net", "none"): "got NoneType",
    EVALUATE.replace("Net", "kind"): "got the class Net",
    EVALUATE.replace("Net", "Leaves"): "ended the program: SystemExit(0)",
    EVALUATE.replace("Net", "Fails"): "KeyError: 'missing'",
    EVALUATE.replace("Net", "Seven"): "'digits' has 10 classes, the model has 7 outputs",
    EVALUATE.replace("Net", "sanitized") + "-p median": "already contains defenses (sanitizer 'mask' on '0')",
    EVALUATE.replace("mine.py:Net", "minst-cnn"): "did you mean 'mnist-cnn'?",
    EVALUATE.replace("mine.py:Net", "plans:Net"): "got 'plans:Net'",
    EVALUATE.replace("mine.py:Net", "yours.py:Net"): "no file 'yours.py'",
    EVALUATE.replace("--data digits", "--data ./digits"): "there is no such folder",
    EVALUATE.replace("--data digits", "--data ''"): "got ''",
    EVALUATE.replace("--data digits", "--data mine.py"): "mine.py",
    "demo --seed -1": "got -1",
    "demo --out ''": "got ''",
    "demo --out mine.py": "mine.py",
    "reproduce table3": "did you mean 'table2'?",
    "reproduce table2 --effort hard": "got 'hard'",
    "reproduce table2 -k white": "got 'white'",
    "reproduce table2 --data minst": "did you mean 'mnist'?",
    "reproduce fig7 --distance rsm": "did you mean 'rms'?",
    "reproduce table2 --device gpu": "got 'gpu'",
    "reproduce table2 --seed -1": "got -1",
    "train mine.py:Net --epochs 1.5": "--epochs",
    "train mine.py:Net --epochs -1": "got -1",
    "train mine.py:Net --epochs 1000000000": "got 1000000000",
    "train mine.py:Net --batch-size 0": "got 0",
    "train mine.py:Net --lr nan": "got nan",
    "train mine.py:Net --lr inf": "got inf",
    "train mine.py:Net --weight-decay -1": "got -1",
    "train mine.py:Net --label-smoothing 1": "got 1",
    "train mine.py:Net --ema 2": "got 2",
    "train mine.py:Net --crop -3": "got -3",
    "train mine.py:Net --cutout 10000000": "got 10000000",
    "train mine.py:Net --schedule cosin": "did you mean 'cosine'?",
    "train mine.py:Net --seed -1": "got -1",
    "train mine.py:Net --attack cw": "attack with a budget",
    "train mine.py:Net --out ''": "got ''",
    "train mine.py:Net --out folder.safetensors": "(a folder)",
    "train mine.py:Net --out mine.py/w.safetensors": "mine.py",
    "train mine.py:Net --start nowhere.pt": "'nowhere.pt'",
    "train mine.py:Net --data digits --label-column x": "label='x'",
    "train mine.py:Seven --epochs 1 -q": "got 0..9",
    "layers mnist-cnn --input 1,28": "got '1,28'",
    "layers mnist-cnn --input 0,28,28": "got '0,28,28'",
    "layers mnist-cnn --input ''": "got ''",
    "layers mnist-cnn --input 3,60000,60000": "got '3,60000,60000'",
    "layers mnist-cnn -p re:(=mask": "not a regular expression",
    "layers resnet18:width=100000": "got 100000",
    "layers resnet18:widht=8": "did you mean 'width'?",
    "compare mine.py plans": "mine.py",
    "compare nowhere nowhere": "nowhere",
    "report nowhere": "nowhere",
    "report plans --out ''": "got ''",
    "robustbench mine.py --name ''": "got ''",
    "robustbench mine.py --name n --reported 200": "--reported",
    "robustbench mine.py --name n --reported nan": "--reported",
    "explore mine.py:sanitized --data digits --no-browser": "an undefended model",
    "explore mine.py:Net --data nowhere/else/there --no-browser": "no data set",
    "explore mine.py:Net --port 99999": "--port",
}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.replace(EVALUATE, "")[:60])
def test_no_command_takes_what_cannot_be_meant(line, place, monkeypatch):
    monkeypatch.chdir(place)
    ended = sanact(*shlex.split(line))
    shown = re.sub(r"[│\s]+", " ", ended.err)
    assert ended.code in (1, 2) and not ended.out and "Traceback" not in ended.err
    assert ended.code == 2 or ended.err.count("\n") == 1
    assert LINES[line] in shown


def test_an_error_is_one_line_even_where_its_traceback_cannot_be_written(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr("tempfile.tempdir", str(place / "nowhere"))
    ended = sanact(*shlex.split(EVALUATE.replace("Net", "Fails")))
    assert ended.code == 1 and ended.err.count("\n") == 1 and "error: KeyError: 'missing' (unforeseen; no file" in ended.err


def test_what_nobody_foresaw_leaves_its_traceback_in_a_file(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = sanact(*shlex.split(EVALUATE.replace("Net", "Fails")))
    (file,) = tmp_path.glob("sanact-*.txt")
    assert ended.err == f"error: KeyError: 'missing' (unforeseen; the traceback is in {file})\n" and ended.code == 1
    written = file.read_text(encoding="utf-8")
    assert written.startswith("Traceback") and 'return {}["missing"]' in written and written.endswith("KeyError: 'missing'\n")
    sanact("layers", "nothing")
    assert list(tmp_path.glob("sanact-*.txt")) == [file]


@pytest.fixture
def judged(place, monkeypatch, tmp_path) -> Callable[..., dict[str, Path]]:
    """Run an evaluation in the folder of the user's file; the files of rows by the name of the defense."""
    monkeypatch.chdir(place)

    def run(model: str, *more: object) -> dict[str, Path]:
        given = ("--data", "digits", "--examples", 20, "-a", "fgsm:eps=0.05", "-k", "white-box", "--out", tmp_path / "runs")
        ended = sanact("evaluate", model, *given, *more)
        assert ended.code == 0, ended.err
        results = json.loads(ended.out)
        assert len({result["rows"] for result in results}) == len({result["defense"] for result in results})
        return {result["defense"]: tmp_path / "runs" / result["rows"] for result in results}

    return run


def test_a_factory_that_returns_a_sanitized_model_is_named_by_what_is_inside_and_judged_beside_the_bare_one(judged, place):
    files = judged("mine.py:sanitized", "--json", "-q")
    assert set(files) == {"none", "mask"}
    bare, batch = build_model(f"{place}/mine.py:Net").eval(), next(load_data("digits").sample(20).batches(20))
    defended = sanitize(bare, {"0": Mask(0.02)})
    for name, network in (("none", bare), ("mask", defended)):
        rows = read_rows(files[name])
        assert rows["clean_prediction"].to_pylist() == network(batch.x).argmax(1).tolist()
        adversarial = FGSM(eps=0.05).for_replay()(network, batch.x, batch.y)
        assert rows["prediction"].to_pylist() == network(adversarial).argmax(1).tolist()
    cells_there = {name: header(read_rows(path))["cell"] for name, path in files.items()}
    assert cells_there["none"]["defense"] is None
    assert cells_there["mask"]["defense"] == {"0": {"name": "mask", "strength": 0.02, "reading": "fixed"}}


@pytest.mark.parametrize("plan", [{"0": Mask(0.05)}, {"0": MeanSparse(0.3)}], ids=["mask", "mean-sparse"])
def test_weights_that_a_sanitized_model_saved_bring_their_plan(judged, place, tmp_path, plan):
    bare, batch = build_model(f"{place}/mine.py:Net").eval(), next(load_data("digits").sample(20).batches(20))
    with torch.no_grad():
        bare[3].bias += torch.randn(10)
    defended = sanitize(bare, plan)
    calibrate(defended, batch.x[:3])
    defended.save(tmp_path / "w.safetensors")
    files = judged("mine.py:Net", "--weights", tmp_path / "w.safetensors", "--json", "-q")
    (name,) = (part.name for part in plan.values())
    assert set(files) == {"none", name}
    for own, network in (("none", bare), (name, defended)):
        assert read_rows(files[own])["clean_prediction"].to_pylist() == network(batch.x).argmax(1).tolist()


def test_an_evaluation_says_what_it_found_inside(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    ended = sanact(
        *shlex.split(EVALUATE.replace("Net", "sanitized").replace("-q", "")),
        "-a",
        "fgsm:eps=0.1",
        "-k",
        "white-box",
        "--out",
        tmp_path,
    )
    assert "the model already contains defenses (sanitizer 'mask' on '0'): it is judged with them and without" in ended.err


def test_fewer_classes_than_outputs_are_said_beside_every_figure(judged):
    (path,) = judged("mine.py:Twelve", "--json", "-q").values()
    assert header(read_rows(path))["cell"]["data"]["note"] == "10 classes where the model has 12"


def test_class_names_put_a_folder_that_lacks_a_class_into_the_order_of_the_network(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("b", "d"):
        (tmp_path / "set/test" / name).mkdir(parents=True)
        Image.fromarray(np.full((28, 28), 99, dtype=np.uint8)).save(tmp_path / "set/test" / name / "0.png")
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\nf\ng\n")
    given = ["evaluate", f"{place}/mine.py:Seven", "--data", "./set", "-a", "fgsm:eps=0.1", "-k", "white-box", "-q", "--json"]
    labels = {}
    for names in ("", "a,b,c,d,e,f,g", "names.txt"):
        ended = sanact(*given, *(["--class-names", names] if names else []), "--out", tmp_path / f"runs {names}")
        assert ended.code == 0, ended.err
        facts = read_rows(tmp_path / f"runs {names}" / json.loads(ended.out)[0]["rows"])
        labels[names] = facts["label"].to_pylist()
        note = header(facts)["cell"]["data"].get("note")
        assert note == (None if names else "2 classes where the model has 7")
    assert labels == {"": [0, 1], "a,b,c,d,e,f,g": [1, 3], "names.txt": [1, 3]}


def test_training_and_judging_take_the_same_column(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    features = {"photo": datasets.Image(), "fine": datasets.ClassLabel(7), "coarse": datasets.ClassLabel(2)}
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        pictures = [Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)) for _ in range(14)]
        rows = {"photo": pictures, "fine": [*range(7)] * 2, "coarse": [0, 1] * 7}
        datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(tmp_path / "set" / f"{split}.parquet")
    common = [f"{place}/mine.py:Seven", "--data", "./set", "--label-column", "fine", "--image-column", "photo", "-q"]
    ended = sanact("train", *common, "--epochs", 1, "--out", "w.safetensors")
    assert ended.code == 0, ended.err
    ended = sanact("evaluate", *common, "--weights", "w.safetensors", "-a", "fgsm:eps=0.1", "-k", "white-box", "--json")
    assert ended.code == 0, ended.err
    assert read_rows(tmp_path / "runs" / json.loads(ended.out)[0]["rows"])["label"].to_pylist() == [*range(7)] * 2
    ended = sanact("evaluate", *[part for part in common if part not in ("--label-column", "fine")])
    assert "--label-column on the command line" in ended.err
