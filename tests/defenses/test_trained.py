"""Defenses that train: what each trains, by the one loop, from the command line, and with which weights it is judged."""

from __future__ import annotations

import json

import pytest
import torch

from sanact.cli import main
from sanact.defenses import (
    DefensiveDistillation,
    EnsembleAdversarialTraining,
    InputGradientRegularization,
    KWTANetwork,
    NaiveAdversarialTraining,
    Trained,
    UnifiedGradientRegularization,
    defend,
)
from sanact.models import build_model, load_model, read_card
from sanact.objectives import GradientPenalty, Linearized, Mixed, Narrowing, Tempered
from sanact.parts import removable
from sanact.sanitizers import sanitizers_of
from sanact.training import Recipe, accuracy, save_trained, train_and_save
from tests.conftest import load_or_skip

ONCE = Recipe(epochs=1, batch_size=50, lr=0.01)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Trains MNIST-CNN for a defense, on a few digits; returns the file of its weights."""
    folder = tmp_path_factory.mktemp("weights")

    def trained(defense: Trained | None, name: str) -> str:
        out = folder / f"{name}.safetensors"
        train_and_save("mnist-cnn", "digits", out, ONCE, examples=100, validation=50, defense=defense, device="cpu")
        return str(out)

    return trained


@pytest.mark.parametrize(
    ("defense", "objective"),
    [
        (NaiveAdversarialTraining(eps=0.3), Mixed),
        (EnsembleAdversarialTraining(eps=0.3, sources="mnist-cnn"), Mixed),
        (UnifiedGradientRegularization(eps=1.5), Linearized),
        (InputGradientRegularization(strength=1.0), GradientPenalty),
        (DefensiveDistillation(), Tempered),
        (KWTANetwork(share=0.2), Narrowing),
    ],
    ids=str,
)
def test_each_drives_down_its_own_objective(defense, objective, net):
    assert isinstance(defense.objective(net), objective)


def test_a_network_is_trained_for_a_defense_and_judged_with_its_weights(digits, net):
    weights = digits(NaiveAdversarialTraining(eps=0.25), "naive")
    card = read_card(weights)
    assert json.loads(card["defense"])["eps"] == 0.25 and card["trained on"].startswith("half images, half examples of FGSM")
    x = torch.rand(3, 1, 28, 28)
    defended = defend(net, NaiveAdversarialTraining(eps=0.25, weights=weights))
    torch.testing.assert_close(defended(x), load_model("mnist-cnn", weights=weights)(x))
    with pytest.raises(ValueError, match=r"were trained with weight 0.3, not 0.5"):
        defend(net, NaiveAdversarialTraining(eps=0.25, weight=0.5, weights=weights))


def test_sources_are_named_networks_with_our_weights_or_of_a_file(tmp_path):
    save_trained(build_model("mnist-cnn"), tmp_path / "other.safetensors", {})
    names = f"mnist-cnn + mnist-cnn@{tmp_path}/other.safetensors"
    objective = EnsembleAdversarialTraining(eps=0.3, sources=names).objective(build_model("mnist-cnn"))
    ours, other = objective.sources.values()
    assert torch.equal(ours.conv1.weight, load_model("mnist-cnn").conv1.weight) and not ours.training
    assert not torch.equal(ours.conv1.weight, other.conv1.weight)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("", "its examples are made on other networks: give sources"),
        ("mnist-cnn@nowhere.safetensors", "no weights at 'nowhere"),
    ],
)
def test_an_ensemble_without_sources_is_refused(sources, message, net):
    with pytest.raises(ValueError, match=message):
        EnsembleAdversarialTraining(eps=0.3, sources=sources).objective(net)


def test_a_student_needs_a_teacher_of_its_temperature_and_a_teacher_is_no_student(digits, net):
    teacher = digits(DefensiveDistillation(temperature=20.0), "teacher")
    student = digits(DefensiveDistillation(temperature=20.0, teacher=teacher), "student")
    assert read_card(student)["trained on"] == "what its teacher says at temperature 20"
    defend(net, DefensiveDistillation(temperature=20.0, weights=student))
    with pytest.raises(ValueError, match="were trained as a teacher, on labels"):
        defend(net, DefensiveDistillation(temperature=20.0, weights=teacher))
    with pytest.raises(ValueError, match="the teacher must have been trained with --defense distillation:temperature=30"):
        DefensiveDistillation(temperature=30.0, teacher=teacher).objective(net)
    with pytest.raises(ValueError, match="no weights at 'nowhere'"):
        DefensiveDistillation(teacher="nowhere").objective(net)


def test_a_k_wta_network_has_as_many_winners_as_it_was_trained_with(digits, net):
    weights = digits(KWTANetwork(share=0.3), "kwta")
    defended, x = defend(net, KWTANetwork(share=0.3, weights=weights)), torch.rand(4, 1, 28, 28)
    active = []
    for part in sanitizers_of(defended):
        part.register_forward_hook(lambda module, given, output: active.append((output != 0).flatten(1).double().mean(1)))
    defended(x)
    assert len(active) == 6 and all(share.max() <= 0.3 + 1e-9 for share in active)
    assert any(share.max() > 0.25 for share in active) and removable(defended) == []
    with pytest.raises(ValueError, match="were trained with share 0.3, not 0.1"):
        defend(net, KWTANetwork(share=0.1, weights=weights))


def test_the_command_line_trains_for_a_defense(tmp_path, monkeypatch, user_model):
    out = tmp_path / "w.safetensors"
    arguments = f"--data digits --defense input-gradient:strength=0.5 --epochs 1 --examples 60 --validation 50 --out {out} -q"
    monkeypatch.setattr("sys.argv", ["sanact", "train", user_model, *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert json.loads(read_card(out)["defense"]) == {"name": "input-gradient", "strength": 0.5, "weights": "ours"}


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (NaiveAdversarialTraining, {"eps": 0}, "eps must be a positive number, got 0"),
        (NaiveAdversarialTraining, {"eps": 0.3, "targeted": "no"}, "targeted must be True or False, got 'no'"),
        (UnifiedGradientRegularization, {"eps": 1, "norm": "L3"}, "norm must be one of Linf, L2, L1, got 'L3'"),
        (InputGradientRegularization, {"strength": -1}, "strength must be a positive number, got -1"),
        (DefensiveDistillation, {"temperature": 0}, "temperature must be a positive number, got 0"),
        (KWTANetwork, {"share": 1}, r"share must be in \(0, 1\), got 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(kind, given, message):
    with pytest.raises(ValueError, match=message):
        kind(**given)


OURS = {  # with the least accuracy on test images, in percent
    NaiveAdversarialTraining(eps=0.3): 97,
    EnsembleAdversarialTraining(eps=0.3): 97,
    UnifiedGradientRegularization(eps=1.5): 97,
    InputGradientRegularization(strength=10): 93,
    DefensiveDistillation(): 95,
    KWTANetwork(): 96,
}


@pytest.mark.parametrize("defense", OURS, ids=lambda one: one.name)
def test_our_weights_come_with_a_card_that_is_true(defense, net):
    data = load_or_skip("mnist", "test").sample(500)
    (path,) = defense._ours()
    card, right = read_card(path), accuracy(defend(net, defense), data)
    assert path.stat().st_size < 1e6 and card["command"].startswith("sanact train mnist-cnn --data mnist ")
    assert right >= OURS[defense] and right == pytest.approx(float(card["test accuracy"].split()[0]), abs=3)
