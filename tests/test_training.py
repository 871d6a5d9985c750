"""The training loop does what its recipe says, leaves no trace, and saves weights with a card that is true."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from sanact.attacks import CW, FGSM, PGD
from sanact.data import Data, load_data
from sanact.models import MNISTCNN, load_model
from sanact.objectives import Adversarial
from sanact.training import Recipe, accuracy, augmented, plain_network, save_trained, train, train_and_save
from sanact.training.checkpoint import read_checkpoint, write_checkpoint

QUICK = Recipe(epochs=3, lr=0.1, batch_size=32)


@pytest.fixture(scope="module")
def parts() -> tuple[Data, Data]:
    """100 digits to judge by and 300 to train on."""
    held_out, rest = load_data("digits", "train").sample(400).split_off(100)
    return held_out, rest


def classifier() -> nn.Module:
    """Softmax regression that drops pixels, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(784, 10))


def trained(parts: tuple[Data, Data], recipe: Recipe = QUICK) -> nn.Module:
    model = classifier()
    train(model, parts[1], validation=parts[0], recipe=recipe)
    return model


def test_training_learns_digits_and_returns_the_accuracy_on_the_held_out(parts):
    model = classifier()
    before = accuracy(model.eval(), parts[0])
    score = train(model, parts[1], validation=parts[0], recipe=QUICK)
    assert score == accuracy(model, parts[0]) and score > 80 > before


def test_mnist_cnn_learns_digits_beyond_chance(parts):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MNISTCNN()
    assert train(model, parts[1], validation=parts[0], recipe=Recipe(epochs=4, lr=0.05, batch_size=16)) > 30


def test_a_seed_gives_the_same_weights_again_and_another_seed_others(parts):
    one = trained(parts)
    torch.rand(1)  # what others draw in between does not count
    again, other = trained(parts), trained(parts, Recipe(epochs=3, lr=0.1, batch_size=32, seed=1))
    assert torch.equal(one[2].weight, again[2].weight) and not torch.equal(one[2].weight, other[2].weight)


def test_training_leaves_the_random_state_and_evaluation_mode(parts):
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    model = trained(parts)
    assert torch.equal(torch.get_rng_state(), states[0]) and np.random.get_state()[1].tolist() == states[1]
    assert not any(part.training for part in model.modules())


def test_training_on_adversarial_examples_makes_robust(parts):
    images, attack, recipe = next(parts[0].batches(100)), PGD(eps=0.15, steps=5), Recipe(epochs=15, lr=0.1, batch_size=32)
    right = []
    for trained_on in (None, attack):
        model = classifier()
        train(model, parts[1], validation=parts[0], recipe=recipe, objective=trained_on and Adversarial(trained_on))
        right.append(int((model(attack(model, images.x, images.y)).argmax(1) == images.y).sum()))
    assert right[1] > 2 * right[0] and right[1] > right[0] + 10


def test_the_budget_of_the_examples_grows_over_the_first_third(parts, monkeypatch):
    seen, craft = [], FGSM.craft

    def watched(self, model, x, y, eps, generator):
        assert not self.early_stop and not model.training
        seen.append(float(eps[0]))
        return craft(self, model, x, y, eps, generator)

    monkeypatch.setattr(FGSM, "craft", watched)
    model = classifier()
    train(model, parts[1], validation=parts[0], recipe=QUICK, objective=Adversarial(FGSM(eps=0.2)))  # 10 steps an epoch
    np.testing.assert_allclose(seen, [0.2 * min(1, step / 10) for step in range(1, 31)], rtol=1e-6)


def softmax_regression(x, y, w, rates, *, momentum=0.0, decay=0.0, smoothing=0.0, ema=0.0) -> np.ndarray:
    """Nesterov's momentum on the mean cross-entropy of all of x, from its formula; or the average of the weights."""
    velocity, average = np.zeros_like(w), w
    target = (1 - smoothing) * np.eye(len(w))[y] + smoothing / len(w)
    for step, lr in enumerate(rates):
        p = np.exp(x @ w.T)
        p /= p.sum(1, keepdims=True)
        gradient = (p - target).T @ x / len(x) + decay * w
        velocity = momentum * velocity + gradient
        w = w - lr * (gradient + momentum * velocity)
        average = w if step == 0 else ema * average + (1 - ema) * w
    return average if ema else w


def cosine(lr: float, steps: int) -> list[float]:
    return [lr * (1 + np.cos(np.pi * step / steps)) / 2 for step in range(steps)]


def one_cycle(lr: float, steps: int) -> list[float]:
    """Smith and Topin 2018 as PyTorch has it: up from lr / 25 over 30 % of the steps, down to lr / 250,000, along cosines."""
    top = 0.3 * steps - 1

    def between(low: float, high: float, share: float) -> float:
        return high + (low - high) * (1 + np.cos(np.pi * share)) / 2

    rising = [between(lr / 25, lr, step / top) for step in range(steps) if step <= top]
    return rising + [between(lr, lr / 25e4, (step - top) / (steps - 1 - top)) for step in range(len(rising), steps)]


@pytest.mark.parametrize(
    ("settings", "rates", "twin"),
    [
        ({"momentum": 0.9}, [0.3] * 5, {"momentum": 0.9}),
        ({"momentum": 0.0}, [0.3] * 5, {}),
        ({"momentum": 0.9, "weight_decay": 0.1}, [0.3] * 5, {"momentum": 0.9, "decay": 0.1}),
        ({"momentum": 0.0, "label_smoothing": 0.2}, [0.3] * 5, {"smoothing": 0.2}),
        ({"momentum": 0.0, "ema": 0.7}, [0.3] * 5, {"ema": 0.7}),
        ({"momentum": 0.0, "schedule": "cosine"}, cosine(0.3, 5), {}),
        ({"momentum": 0.9, "schedule": "one-cycle", "epochs": 10}, one_cycle(0.3, 10), {"momentum": 0.9}),
    ],
)
def test_steps_follow_the_formulas(settings, rates, twin):
    x, y = torch.rand(20, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3, bias=False)).double()
    expected = softmax_regression(x.flatten(1).numpy(), y.numpy(), model[1].weight.detach().numpy(), rates, **twin)
    data = Data.from_tensors(x, y)
    train(model, data, validation=data, recipe=Recipe(**{"epochs": 5, "lr": 0.3, "batch_size": 20} | settings))
    np.testing.assert_allclose(model[1].weight.detach().numpy(), expected, rtol=1e-10)


def test_images_are_moved_and_mirrored_each_in_its_own_way():
    x = torch.rand(200, 2, 5, 6)
    assert augmented(x, 0, False) is x
    torch.manual_seed(0)
    moved = augmented(x, 2, True)
    wide = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    ways = set()
    for i in range(200):
        windows = {(d, r): wide[i, :, d : d + 5, r : r + 6] for d in range(5) for r in range(5)}
        found = [(d, r, m) for (d, r), w in windows.items() for m in (1, -1) if np.array_equal(w[..., ::m], moved[i].numpy())]
        assert len(found) == 1, i
        ways.add(found[0])
    assert len(ways) > 45  # of 50
    torch.manual_seed(0)
    assert torch.equal(augmented(x, 2, True), moved)


@pytest.mark.parametrize("side", [3, 4])
def test_cutout_loses_one_square_around_any_pixel(side):
    x = torch.rand(300, 2, 6, 7)
    torch.manual_seed(0)
    cut, centres = augmented(x, 0, False, side), set()
    for i in range(300):
        holes = {}
        for d in range(6):
            for r in range(7):
                expected = x[i].clone()
                top, left = d - side // 2, r - side // 2
                expected[:, max(top, 0) : top + side, max(left, 0) : left + side] = x[i].mean((1, 2))[:, None, None]
                holes[d, r] = expected
        found = [centre for centre, expected in holes.items() if torch.allclose(expected, cut[i], atol=1e-6)]
        assert len(found) == 1, i
        centres.add(found[0])
    assert len(centres) == 42


FULL = Recipe(epochs=4, lr=0.1, batch_size=32, schedule="cosine", weight_decay=1e-3, crop=1, flip=True, cutout=5, ema=0.9)


@pytest.mark.parametrize("objective", [None, Adversarial(PGD(eps=0.1, steps=2))])
def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted(parts, tmp_path, monkeypatch, objective):
    whole, again = classifier(), classifier()
    score = train(whole, parts[1], validation=parts[0], recipe=FULL, objective=objective)
    file, calls = tmp_path / "weights.partial", []

    def killed(model, data, **rest):
        calls.append(len(calls))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return accuracy(model, data, **rest)

    monkeypatch.setattr("sanact.training.loop.accuracy", killed)
    with pytest.raises(KeyboardInterrupt):
        train(again, parts[1], validation=parts[0], recipe=FULL, objective=objective, checkpoint=file)
    again = classifier()
    assert train(again, parts[1], validation=parts[0], recipe=FULL, objective=objective, checkpoint=file) == score
    assert len(calls) == 5  # two epochs before, the second of them in vain, and three after
    assert torch.equal(whole[2].weight, again[2].weight)
    finished = classifier()
    assert train(finished, parts[1], validation=parts[0], recipe=FULL, objective=objective, checkpoint=file) == score
    assert torch.equal(whole[2].weight, finished[2].weight)


def test_a_flipped_bit_of_a_checkpoint_is_seen(tmp_path):
    path, weights = tmp_path / "training", torch.arange(1000.0)
    write_checkpoint({"identity": "mine", "model": {"w": weights}, "epoch": 3, "best": [0.5, None]}, path)
    assert torch.equal(read_checkpoint(path, "mine", "recipe")["model"]["w"], weights)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(weights.numpy().tobytes()) + 2001] ^= 4
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match="training' is not as it was written: delete it to begin again"):
        read_checkpoint(path, "mine", "recipe")


def test_a_checkpoint_of_another_training_is_refused(parts, tmp_path):
    file = tmp_path / "weights.partial"
    train(classifier(), parts[1], validation=parts[0], recipe=QUICK, checkpoint=file)
    with pytest.raises(
        ValueError, match="is of a training with another recipe, data, objective or start: delete it to begin again"
    ):
        train(classifier(), parts[1], validation=parts[0], recipe=FULL, checkpoint=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"weights.partial' holds no training to continue, delete it"):
        train(classifier(), parts[1], validation=parts[0], recipe=QUICK, checkpoint=file)


class Steep(nn.Module):
    """ReLU with the slope of the left side as a number, of which no state dict knows."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.slope * x)


def steep(slope: float) -> nn.Module:
    network = classifier()
    network.append(Steep(slope))
    return network


class Back(PGD):
    """PGD of the user's own, which walks back."""

    def craft(self, model, x, y, eps, generator):
        return x


class Forth(PGD):
    def craft(self, model, x, y, eps, generator):
        return super().craft(model, x, y, eps, generator)


Forth.__qualname__ = "Back"


def test_a_checkpoint_of_a_network_attack_or_data_that_differ_in_anything_is_refused(parts, tmp_path):
    file, attack = tmp_path / "weights.partial", {"objective": Adversarial(Back(eps=0.1, steps=1))}
    train(steep(0.1), parts[1], validation=parts[0], recipe=QUICK, checkpoint=file, **attack)
    train(steep(0.1), parts[1], validation=parts[0], recipe=QUICK, checkpoint=file, **attack)
    batch = next(parts[1].batches(len(parts[1])))
    images = batch.x.clone()
    images[-1, 0, 0, 0] = 1 - images[-1, 0, 0, 0]
    other = replace(parts[1], images=Data.from_tensors(images, batch.y).images, index=np.arange(len(images)))
    for network, data, changed in (
        (steep(0.2), parts[1], attack),
        (steep(0.1), parts[1], {"objective": Adversarial(Forth(eps=0.1, steps=1))}),
        (steep(0.1), other, attack),
    ):
        with pytest.raises(ValueError, match="of a training with another recipe, data, objective or start"):
            train(network, data, validation=parts[0], recipe=QUICK, checkpoint=file, **changed)


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    script = """if True:
        import resource, signal, sys
        from pathlib import Path
        from torch import nn
        from sanact.training import Recipe, save_trained
        from sanact.training.loop import _Run
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        network, folder = nn.Linear(100, 100), Path(sys.argv[1])
        for write in (
            lambda: save_trained(network, folder / "w.safetensors", {}),
            lambda: _Run(network, Recipe(), 9).save(folder / "w.partial", ""),
        ):
            try:
                write()
            except OSError as error:
                print(error)
    """
    ended = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert [f"File too large: '{tmp_path / name}'" in ended.stdout for name in ("w.safetensors", "w.partial")] == [True, True]
    assert not list(tmp_path.iterdir())


class Seeing(nn.Module):
    """A linear classifier that remembers in which form its images and its output came."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 10)
        self.seen: set[tuple[torch.dtype, bool]] = set()

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x)
        if self.training:
            self.seen.add((a.dtype, x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()))
        return self.linear(a.flatten(1))


@pytest.mark.parametrize(
    ("settings", "seen", "apart"),
    [
        ({}, (torch.float32, False), 0),
        ({"channels_last": True}, (torch.float32, True), 1e-5),
        ({"mixed_precision": True}, (torch.bfloat16, False), 2e-2),
    ],
)
def test_what_makes_training_faster_changes_weights_by_rounding_only(settings, seen, apart):
    data = load_data("digits", "train", shape=(3, 8, 8))[:96]
    models = []
    for chosen in ({}, settings):
        torch.manual_seed(0)
        models.append(Seeing())
        train(models[-1], data, validation=data, recipe=Recipe(**{"epochs": 3, "lr": 0.01, "batch_size": 32} | chosen))
    assert models[1].seen == {seen} and models[1].linear.weight.dtype == torch.float32
    torch.testing.assert_close(models[1].conv.weight, models[0].conv.weight, rtol=0, atol=apart)
    if settings.get("mixed_precision"):
        assert (models[1].conv.weight != models[0].conv.weight).any()


def test_a_compiled_network_is_trained_like_any_other(parts, monkeypatch):
    compiled, compile = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or compile(model, backend="aot_eager"))
    plain, faster = classifier(), classifier()
    for model, recipe in ((plain, QUICK), (faster, replace(QUICK, compile=True))):
        train(model, parts[1], validation=parts[0], recipe=recipe)
    assert compiled == [faster]
    torch.testing.assert_close(plain[2].weight, faster[2].weight)


def test_each_epoch_is_told(parts, tmp_path):
    model, told = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), []
    with torch.no_grad():
        images = next(parts[1].batches(300))
        loss, right = F.cross_entropy(model(images.x), images.y).item(), accuracy(model, parts[1])
    still = Recipe(epochs=2, lr=1e-12, batch_size=70, schedule="cosine")
    file = tmp_path / "weights.partial"
    score = train(model, parts[1], validation=parts[0], recipe=still, checkpoint=file, watch=told.append)
    assert [entry["epoch"] for entry in told] == [1, 2]
    for entry in told:
        assert entry["loss"] == pytest.approx(loss, rel=1e-5) and entry["training accuracy"] == pytest.approx(right)
        assert entry["validation accuracy"] == score == accuracy(model, parts[0]) and entry["minutes"] > 0
    assert told[0]["step size"] == pytest.approx(0.5e-12)  # half way down the cosine
    again: list[Mapping[str, float]] = []
    train(model, parts[1], validation=parts[0], recipe=still, checkpoint=file, watch=again.append)
    assert again == told


def test_metrics_are_written_as_csv_and_for_tensorboard(user_model, tmp_path):
    out = tmp_path / "w.safetensors"
    train_and_save(user_model, "digits", out, Recipe(epochs=2, batch_size=500), tensorboard=tmp_path / "board")
    with out.with_suffix(".csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [row["epoch"] for row in rows] == ["1", "2"] and set(board.Tags()["scalars"]) == set(rows[0])
    for name in rows[0]:
        assert [event.step for event in board.Scalars(name)] == [1, 2]
        assert [event.value for event in board.Scalars(name)] == pytest.approx([float(row[name]) for row in rows], rel=1e-6)


def test_tensorboard_that_is_not_there_is_asked_for_before_any_work(user_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"need it: pip install 'sanact\[tensorboard\]'"):
        train_and_save(user_model, "digits", tmp_path / "w.safetensors", Recipe(lr=1e38), tensorboard=tmp_path)


def test_each_epoch_sees_every_image_once_in_another_order(parts):
    seen: list[Tensor] = []

    class Watching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(x.flatten(1).sum(1))
            return super().forward(x.flatten(1))

    train(Watching(784, 10), parts[1], validation=parts[0], recipe=Recipe(epochs=2, batch_size=70))
    assert [len(batch) for batch in seen] == [70, 70, 70, 70, 20] * 2
    first, second = torch.cat(seen[:5]), torch.cat(seen[5:])
    assert not torch.equal(first, second) and torch.equal(first.sort().values, second.sort().values)


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(9, 4, [4, 5]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 1, 1]), (5, 4, [5])],
)
def test_a_last_example_joins_the_batch_before_it(count, size, expected):
    seen: list[int] = []

    class Watching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(len(x))
            return super().forward(x.flatten(1))

    data = Data.from_tensors(torch.rand(count, 1, 2, 2), torch.arange(count) % 2)
    train(Watching(4, 2), data, validation=data, recipe=Recipe(epochs=1, batch_size=size))
    assert seen == expected


def test_batch_norm_of_vectors_is_trained_whatever_the_number_of_images():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    data = Data.from_tensors(torch.rand(13, 1, 2, 2), torch.arange(13) % 3)
    train(model, data, validation=data, recipe=Recipe(epochs=2, batch_size=6, schedule="one-cycle"))
    assert model[2].num_batches_tracked == 4


def test_a_loss_that_is_no_number_stops_the_training(parts):
    with pytest.raises(ValueError, match=r"^the loss became (nan|inf) in epoch \d; try an lr below 1e\+38$"):
        train(classifier(), parts[1], validation=parts[0], recipe=Recipe(lr=1e38))


def test_nothing_to_train_on_is_refused(parts):
    with pytest.raises(ValueError, match=r"need images, got 0 and 100 \(data 'digits'\)"):
        train(classifier(), parts[1][:0], validation=parts[0], recipe=QUICK)
    with pytest.raises(ValueError, match="need images, got 300 and 0"):
        train(classifier(), parts[1], validation=parts[0][:0], recipe=QUICK)


@pytest.mark.parametrize("batch_size", [1, 3, 500])
def test_accuracy_is_the_share_of_right_answers_in_percent(batch_size):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False))
    nn.init.eye_(model[1].weight)
    x = torch.eye(4).reshape(4, 1, 2, 2).repeat(2, 1, 1, 1)
    data = Data.from_tensors(x, torch.tensor([0, 1, 2, 3, 0, 1, 0, 0]))
    assert accuracy(model, data, batch_size=batch_size) == 75


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, r"^epochs must be positive, got 0 \(recipe\)$"),
        ({"batch_size": -1}, "batch_size must be positive, got -1"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"lr": float("nan")}, "lr must be positive, got nan"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, "got -0.1"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -1e-4}, "weight_decay must not be negative, got -0.0001"),
        ({"schedule": "step"}, "schedule must be one of constant, cosine, one-cycle, got 'step'"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


CARD = {"model": "tiny", "test accuracy": "50.00 % of 10 images", "command": "sanact train 'my net.py:make'"}


def test_weights_and_card_are_saved_together(tmp_path):
    model = classifier()
    save_trained(model, tmp_path / "w.safetensors", CARD)
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert json.loads(file.metadata()["card"]) == CARD
    assert torch.equal(load_file(tmp_path / "w.safetensors")["2.weight"], model[2].weight)
    assert (tmp_path / "w.md").read_text(encoding="utf-8").splitlines() == [
        "# w",
        "",
        "- **model**: tiny",
        "- **test accuracy**: 50.00 % of 10 images",
        "- **command**: sanact train 'my net.py:make'",
    ]


def test_shared_and_strided_weights_can_be_saved(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[0].bias = nn.Parameter(torch.rand(6)[::2])
    save_trained(model, tmp_path / "w.safetensors", CARD)
    state = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_a_full_disk_leaves_the_old_weights_and_card(tmp_path, monkeypatch):
    save_trained(classifier(), tmp_path / "w.safetensors", CARD)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(os, "fsync", lambda _: os.write(full, b"any"))
    with pytest.raises(OSError, match="No space left"):
        save_trained(nn.Linear(2, 2), tmp_path / "w.safetensors", {"model": "other"})
    os.close(full)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_card_is_true(user_model, tmp_path):
    out, states = tmp_path / "new" / "w.safetensors", torch.get_rng_state()
    recipe = Recipe(epochs=1, seed=3)
    card = train_and_save(user_model, "digits", out, recipe, validation=48, device="cpu", command="sanact train …")
    assert torch.equal(torch.get_rng_state(), states)
    assert sorted(path.name for path in out.parent.iterdir()) == ["w.csv", "w.md", "w.safetensors"]
    model, test = load_model(user_model, weights=out), load_data("digits", "test")
    held_out = load_data("digits", "train").sample(48, seed=3)
    assert card["test accuracy"] == f"{accuracy(model, test):.2f} % of 449 images"
    assert card["validation accuracy"] == f"{accuracy(model, held_out):.2f} % of 48 training images held out"
    assert card["model"] == f"{user_model}, {4 * 9 + 4 + 4 * 26 * 26 * 10 + 10:,} parameters"
    assert card["data"] == "digits, 1,300 images of its training split"
    assert card["recipe"] == (
        "epochs 1, lr 0.01, momentum 0.9, batch_size 128, seed 3, schedule constant, weight_decay 0.0, label_smoothing 0.0, "
        "crop 0, flip False, cutout 0, ema 0.0, mixed_precision False, channels_last False, compile False"
    )
    assert card["command"] == "sanact train …" and re.fullmatch(r"cpu, \d+ threads, 0 minutes", card["device"])
    assert f"torch {torch.__version__.split('+')[0]}" in card["versions"]


def test_the_card_says_on_whose_examples(user_model, tmp_path):
    attack = FGSM(eps=0.1)
    card = train_and_save(user_model, "digits", tmp_path / "w.safetensors", Recipe(epochs=1), objective=Adversarial(attack))
    assert card["trained on"] == f"examples of {attack!r}, its budget growing over the first third"


def test_a_part_of_the_data_is_trained_and_tested_on(user_model, tmp_path):
    out, few = tmp_path / "w.safetensors", ("3", "7")
    card = train_and_save(user_model, "digits", out, Recipe(epochs=1), validation=20, examples=50, classes=few)
    test = load_data("digits", "test").only(few)
    assert card["data"] == "digits, 50 images of its training split, only 3, 7"
    assert card["test accuracy"] == f"{accuracy(load_model(user_model, weights=out), test):.2f} % of {len(test)} images"


def test_weights_in_16_bits_have_the_accuracy_on_their_card(user_model, tmp_path):
    cards = {}
    for half in (False, True):
        out = tmp_path / f"{half}.safetensors"
        cards[half] = train_and_save(user_model, "digits", out, Recipe(epochs=1), half=half)
    whole, rounded = load_file(tmp_path / "False.safetensors"), load_file(out)
    assert {name: value.half() for name, value in whole.items()}.keys() == rounded.keys()
    assert all(torch.equal(value.half(), rounded[name]) for name, value in whole.items())
    stated = cards[True]["test accuracy"].partition(" ")[0]
    assert f"{accuracy(load_model(user_model, weights=out), load_data('digits', 'test')):.2f}" == stated
    assert cards[True]["precision"] == "16 bits" and "precision" not in cards[False]


def test_accuracy_among_the_likeliest():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False))
    nn.init.eye_(model[1].weight)
    x = torch.tensor([[0.9, 0.8, 0.7, 0.6]]).reshape(1, 1, 2, 2).repeat(4, 1, 1, 1)
    data = Data.from_tensors(x, torch.arange(4))
    assert [accuracy(model, data, top=top) for top in (1, 2, 4)] == [25, 50, 100]


def test_a_training_goes_on_from_other_weights(user_model, tmp_path):
    first, second, still = tmp_path / "first.safetensors", tmp_path / "second.safetensors", Recipe(epochs=1, lr=1e-12)
    train_and_save(user_model, "digits", first, Recipe(epochs=1), command="sanact train …")
    card = train_and_save(user_model, "digits", second, still, start=first, command="sanact train --lr 1e-12 …")
    for name, value in load_file(first).items():
        torch.testing.assert_close(load_file(second)[name], value)
    assert card["started from"] == f"{first}, by sanact train …"
    again = train_and_save(user_model, "digits", tmp_path / "third.safetensors", still, start=second)
    assert again["started from"] == f"{second}, by sanact train --lr 1e-12 …; started from {first}, by sanact train …"
    with pytest.raises(ValueError, match="no weights at"):
        train_and_save(user_model, "digits", second, still, start=tmp_path / "nowhere.safetensors")


def test_a_checkpoint_of_other_weights_to_start_from_is_refused(parts, tmp_path):
    file, other = tmp_path / "weights.partial", classifier()
    train(classifier(), parts[1], validation=parts[0], recipe=QUICK, checkpoint=file)
    other[2].weight.data.mul_(1.01)
    with pytest.raises(ValueError, match="another recipe, data, objective or start"):
        train(other, parts[1], validation=parts[0], recipe=QUICK, checkpoint=file)


def test_an_attack_without_a_budget_is_no_use_for_training(user_model, tmp_path):
    with pytest.raises(ValueError, match=r"training needs an attack with a budget, got CW\("):
        train_and_save(user_model, "digits", tmp_path / "w.safetensors", QUICK, objective=Adversarial(CW()))
    assert not list(tmp_path.glob("w.*"))


def test_training_from_scratch_starts_from_the_seed(user_model, tmp_path):
    weights = []
    for number, seed in enumerate([0, 0, 1]):
        out = tmp_path / f"{number}.safetensors"
        torch.rand(1)
        train_and_save(user_model, "digits", out, Recipe(epochs=1, batch_size=500, seed=seed))
        weights.append(load_file(out)["0.weight"])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_network_is_trained_on_the_shape_it_was_made_for(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Small(nn.Sequential):\n"
        "    input_shape = (3, 8, 8)\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(192, 10))\n"
    )
    card = train_and_save(f"{tmp_path}/mine.py:Small", "digits", tmp_path / "w.safetensors", QUICK)
    assert float(card["test accuracy"].split()[0]) > 50


@pytest.mark.parametrize("out", ["weights", "weights.pt", "runs/"])
def test_weights_that_could_not_be_read_again_are_refused_before_any_work(tmp_path, out):
    with pytest.raises(ValueError, match=rf"out must be a file that ends in \.safetensors, got '.*{out.strip('/')}'"):
        train_and_save("no such model", "no such data", tmp_path / out, QUICK)


def test_data_without_a_test_split_are_refused_before_any_work(tmp_path, user_model, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("a", "b"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        Image.new("L", (28, 28)).save(tmp_path / "data" / "train" / name / "0.png")
    with pytest.raises(ValueError, match="no split 'test' in data set '.*'; it has: train"):
        train_and_save(user_model, str(tmp_path / "data"), tmp_path / "w.safetensors", Recipe(lr=1e38))
    assert not list(Path(tmp_path).glob("w.*"))


def test_more_images_held_out_than_there_are_is_refused(tmp_path, user_model):
    with pytest.raises(ValueError, match=r"examples must be in 1\.\.1348, got 5000"):
        train_and_save(user_model, "digits", tmp_path / "w.safetensors", QUICK, validation=5000)


def test_a_plain_network_is_fitted_kept_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr("sanact.training.plain.PASSES", 1)  # which leaves the five epochs that are the least
    images, test = (load_data("digits", split) for split in ("train", "test"))
    state = torch.get_rng_state()
    net = plain_network(images, kept=tmp_path / "plain.safetensors")
    assert torch.equal(torch.get_rng_state(), state) and not net.training
    assert accuracy(net, test) > 80
    again = plain_network(images[:1], kept=tmp_path / "plain.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
