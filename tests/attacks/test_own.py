"""Attacks of the user's own: what they are given, and that the judge treats them as ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.attacks import FGSM, PGD, as_attack, own_attack
from sanact.data import Data
from sanact.evaluation.cell import Cell
from sanact.evaluation.diagnostics import diagnose
from sanact.evaluation.judge import judge
from sanact.passes import counting

X = 0.3 + 0.4 * torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def signs(model: nn.Module, x: Tensor, y: Tensor, eps: float = 0.1) -> Tensor:
    """FGSM as a newcomer writes it."""
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y).backward()
    return (x + eps * x.grad.sign()).clamp(0, 1)


def fixed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return signs(model, x, y, 0.05)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()


@pytest.fixture
def data(model) -> Data:
    return Data.of(X, model(X).argmax(1))


def cell(data: Data, model: nn.Module, attack, **more) -> Cell:
    return Cell(data=data, model=model, model_name="net", defense=None, attack=attack, knowledge="white-box", **more)


def test_a_function_finds_what_our_attack_finds(model, data):
    theirs, ours = (judge(cell(data, model, attack)) for attack in (own_attack(signs, eps=0.1), FGSM(eps=0.1)))
    assert theirs["prediction"].to_pylist() == ours["prediction"].to_pylist()
    assert theirs["linf"].to_pylist() == ours["linf"].to_pylist()
    assert set(theirs["by"].to_pylist()) == {"signs", ""}


def test_it_is_given_a_model_copies_gradients_and_the_budget(model, data):
    seen = {}

    def look(model, x, y, *, eps, norm, steps=3):
        seen.update(model=model, x=x, y=y, eps=eps, norm=norm, steps=steps, gradients=torch.is_grad_enabled())
        x.zero_()
        return X[: len(x)].numpy()

    x, y = X.clone(), data.labels
    own_attack(look, eps=0.2, norm="L2", steps=7)(model, x, torch.from_numpy(y))
    assert seen["model"] is model and torch.equal(x, X) and seen["y"].tolist() == y.tolist()
    assert (seen["eps"], seen["norm"], seen["steps"], seen["gradients"]) == (0.2, "L2", 7, True)


def test_it_leaves_no_trace(model, data):
    y = torch.from_numpy(data.labels)
    with counting(X) as passes:
        own_attack(signs, eps=0.1)(model, X, y)
    assert passes.tolist() == [1] * 12 and not model._forward_pre_hooks
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters()) and not model.training


def test_a_model_that_is_a_function_comes_as_a_module(model, data):
    found = own_attack(signs, eps=0.1)(lambda x: model(x), X, torch.from_numpy(data.labels))
    assert torch.equal(found, FGSM(eps=0.1)(model, X, torch.from_numpy(data.labels)))


def test_what_leaves_the_ball_wins_nothing(model, data):
    rows = judge(cell(data, model, own_attack(lambda model, x, y: signs(model, x, y, 0.1), eps=0.05, title="signs")))
    assert rows["prediction"] == rows["clean_prediction"]
    assert all("attack 'signs' went 0.1 away in Linf, its budget is 0.05" in why for why in rows["failed"].to_pylist())


def test_an_error_of_the_function_is_in_the_rows(model, data):
    def broken(model, x, y):
        raise KeyError("alpha")

    rows = judge(cell(data, model, own_attack(broken)))
    assert rows["failed"][0].as_py() == "broken: KeyError: 'alpha'" and set(rows["by"].to_pylist()) == {""}


REFUSED = [
    (lambda model, x, y: None, TypeError, r"must return examples like x, float \(12, 1, 4, 4\), got NoneType"),
    (lambda model, x, y: x[:3], TypeError, r"got torch.float32 \(3, 1, 4, 4\)"),
    (lambda model, x, y: x > 0.5, TypeError, r"got torch.bool \(12, 1, 4, 4\)"),
    (lambda model, x, y: x / 0 * 0, ValueError, "returned NaN or infinity in 12 of 12 examples"),
]


@pytest.mark.parametrize(("function", "kind", "message"), REFUSED)
def test_what_is_no_examples_is_refused(model, data, function, kind, message):
    with pytest.raises(kind, match=message):
        own_attack(function)(model, X, torch.from_numpy(data.labels))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: own_attack(3), TypeError, "a function must be callable, got 3"),
        (
            lambda: own_attack(lambda model: model),
            TypeError,
            r"the function takes \(model\), which does not fit the call: too many",
        ),
        (lambda: own_attack(signs, steps=3), TypeError, r"takes \(model, x, y, eps\).* unexpected keyword argument 'steps'"),
        (lambda: own_attack(signs, norm="L2"), ValueError, "a norm needs a budget: give eps, too"),
        (lambda: own_attack(signs, eps=0.1, norm="L3"), ValueError, "norm must be one of Linf, L2, L1, got 'L3'"),
        (lambda: as_attack("pdg:eps=0.1"), ValueError, r"attack must be one of .*, got 'pdg'; did you mean 'pgd'\?"),
        (lambda: as_attack("pgd:eps=0.1,step=3"), ValueError, r"did you mean 'steps'\?"),
        (lambda: as_attack(PGD), TypeError, "an attack must be an Attack, its text, .*, or a function, got"),
        (lambda: as_attack("nowhere.py:signs"), ValueError, "no file 'nowhere.py' to take 'signs' from"),
    ],
)
def test_what_is_no_attack_is_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_attacks_as_text_are_those_of_the_command_line(tmp_path, model, data):
    (tmp_path / "mine.py").write_text(
        "def nearest(model, x, y, pull=0.5, eps=None):\n    return x + (eps or 0) * 0 + 0 * pull\n"
    )
    file = tmp_path / "mine.py"
    assert as_attack("pgd:eps=8/255") == PGD(eps=8 / 255) == as_attack(PGD(eps=8 / 255))
    assert as_attack(f"{file}:nearest").config == {"name": "nearest"}
    ball = as_attack(f"{file}:nearest:eps=1/4,norm=L2,pull=0.25")
    assert ball.config == {"name": "nearest", "pull": 0.25, "eps": 0.25, "norm": "L2"} and ball.budget == ("L2", 0.25)
    with pytest.raises(ValueError, match=r"takes \(model, x, y, pull, eps\).*unexpected keyword argument 'push'"):
        as_attack(f"{file}:nearest:push=1")


def test_another_code_is_another_cell(model, data):
    one, other = own_attack(signs, eps=0.1, title="mine"), own_attack(fixed, eps=0.1, title="mine")
    slugs = [cell(data, model, attack).slug for attack in (one, other, one)]
    assert slugs[0] == slugs[2] != slugs[1]


def test_checks_at_other_budgets_are_for_those_who_take_an_eps(model, data):
    x, y = X, torch.from_numpy(data.labels)
    scales, stays = ({check.name for check in diagnose(own_attack(f, eps=0.05), model, x, y)} for f in (signs, fixed))
    assert scales - stays == {"larger budget", "no bound"}
    assert {"beaten by random noise", "beaten by one step", "beaten by queries without gradients"} <= stays


def test_several_budgets_at_once_are_refused(model, data):
    eps = torch.linspace(0.1, 0.2, 12)
    with pytest.raises(ValueError, match="takes one eps for all examples, got several"):
        own_attack(signs, eps=0.1)(model, X, torch.from_numpy(data.labels), eps=eps)
    half = own_attack(signs, eps=0.1)(model, X, torch.from_numpy(data.labels), eps=torch.full((12,), 0.05))
    np.testing.assert_allclose((half - X).abs().amax(), 0.05, rtol=1e-5)
