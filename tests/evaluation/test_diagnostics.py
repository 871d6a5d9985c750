"""Each check fires on a model or an attack made to fail it, and none on an honest one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from sanact import CW, FGSM, PGD, Mask, sanitize
from sanact.attacks import AutoAttack, GradientAttack
from sanact.evaluation.diagnostics import Check, diagnose, verdict
from sanact.parts import Part
from tests.evaluation.test_honesty import with_backward
from tests.evaluation.test_judge import images, tiny

ATTACK = PGD(eps=0.05, steps=20, loss="margin")
X, Y = images(40).images.x, torch.from_numpy(images(40).labels)


def checks(model: nn.Module, attack=ATTACK, x: Tensor = X, y: Tensor = Y) -> dict[str, Check]:
    return {check.name: check for check in diagnose(attack, model.eval(), x, y)}


class Wrapped(nn.Module):
    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network or tiny()


class Noisy(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) + 0.01 * torch.randn(1)


class Purifies(Wrapped):
    """Takes a step of its own on the input."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            own = x.detach().requires_grad_()
            (step,) = torch.autograd.grad(self.network(own).logsumexp(1).sum(), own)
        return self.network(x + 1e-4 * step)


class Shattered(Wrapped):
    """Rounds its input: the gradient is zero everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 32).round() / 32)


class Drowned(Wrapped):
    """What it sees moves logits of 1000 by millionths."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e-6 * self.network(x).double() + 1000


class Ignores(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return 0 * self.network(x) + torch.tensor([3.0, 1.0, 0.0])


@dataclass(frozen=True, kw_only=True)
class ForgetsTheBest(GradientAttack):
    """Random points of the ball, of which the first is returned."""

    def craft(self, model, x, y, eps, generator):
        points = [(x + self.eps * (2 * torch.rand(x.shape, generator=generator) - 1)).clamp(0, 1) for _ in range(300)]
        for point in points:
            model(point)
        return x + 0.01 * (points[0] - x)


@dataclass(frozen=True, kw_only=True)
class Idle(GradientAttack):
    """Hardly moves."""

    def craft(self, model, x, y, eps, generator):
        return (x + 1e-4).clamp(0, 1)


def test_an_honest_attack_on_a_linear_model_is_reliable():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    with torch.no_grad():
        y = model(X).argmax(1)
    found = list(diagnose(PGD(eps=0.02, steps=40, loss="margin"), model, X, y))
    assert verdict(found) == "reliable"
    assert {"outputs differ", "vanishing gradient at the input", "silent success", "no bound", "larger budget"} <= {
        c.name for c in found
    }


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Noisy(), "outputs differ"),
        (Purifies(), "gradients in the forward pass"),
        (Shattered(), "vanishing gradient at the input"),
        (Drowned(), "vanishing gradient at the input"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_model_that_hides_its_gradient_is_named(model, name):
    with torch.random.fork_rng(devices=[]):
        found = checks(model)
    assert found[name].failed and name in verdict(list(found.values()))


def test_a_gradient_whose_small_entries_lie_is_named():
    """Random directions show the large entries; the sign of a step shows all alike."""
    model = with_backward(lambda g: torch.where(g.abs() < g.flatten(1).abs().quantile(0.55, 1)[:, None, None, None], -g, g))
    found = checks(model)
    assert found["gradient against finite differences, its own steps"].failed
    assert 0.4 < found["gradient against finite differences, its own steps"].figure < 0.5
    assert not found["gradient against finite differences, random directions"].failed


class Rewinds(Part):
    """Says that it draws at random, and draws from a generator of its own."""

    randomized, removable, size = True, False, 0.01

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny()
        self.rewind()

    def rewind(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        noise = self.size * torch.randn(x.shape, generator=self.generator)
        return self.network((x + noise).clamp(0, 1))


def test_random_draws_that_are_told_and_begin_again_are_no_reason_for_doubt():
    assert not checks(Rewinds())["outputs differ"].failed

    class DoesNot(Rewinds):
        def rewind(self) -> None:
            self.generator = torch.Generator().manual_seed(torch.seed())

    with torch.random.fork_rng(devices=[]):
        assert checks(DoesNot())["outputs differ"].failed


def test_one_draw_is_beaten_by_the_mean_of_several():
    model = Rewinds()
    model.size = 0.3
    few = PGD(eps=0.05, steps=5, loss="margin", random_start=False)
    assert checks(model, few)["beaten by the mean of 10 draws"].failed
    assert not checks(model, replace(few, draws=10, early_stop=False)).get("beaten by the mean of 10 draws")


def test_a_model_that_ignores_its_input_is_named():
    found = checks(Ignores(), y=torch.zeros(40, dtype=torch.long))
    assert found["vanishing gradient at the input"].figure == 1 and found["no bound"].failed


def test_an_attack_that_does_nothing_is_beaten_by_everything():
    found = checks(tiny(), Idle(eps=0.1))
    for name in ("random noise", "one step", "queries without gradients"):
        assert found[f"beaten by {name}"].failed
    assert found["no bound"].failed


def test_an_attack_that_returns_another_point_than_the_best_is_a_silent_success():
    assert checks(tiny(), ForgetsTheBest(eps=0.3))["silent success"].failed
    assert not checks(tiny())["silent success"].failed


def test_an_unfinished_attack_is_beaten_by_twice_its_steps():
    slow = PGD(eps=0.1, steps=2, step_size=0.01, random_start=False)
    assert checks(tiny(), slow)["beaten by twice the steps"].failed
    assert not checks(tiny(), replace(slow, steps=60))["beaten by twice the steps"].failed


class Saturated(Wrapped):
    """So sure of itself that the cross-entropy rounds to zero, with its gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.network(x)


def test_a_loss_that_rounds_to_zero_is_beaten_by_the_margin():
    honest = replace(ATTACK, loss="ce", eps=0.03)
    assert checks(Saturated(), honest)["beaten by the margin loss"].failed
    assert not checks(tiny(), honest)["beaten by the margin loss"].failed
    assert "beaten by the margin loss" not in checks(tiny())


def test_queries_that_win_what_gradients_do_not_make_a_suite_suspect():
    won, alone = (
        checks(model, AutoAttack(eps=0.1, steps=5, queries=200))["won by queries without gradients alone"]
        for model in (tiny(), Shattered())
    )
    assert not won.failed and alone.failed


def test_a_mask_whose_gradient_is_masked_is_beaten_by_replay_or_a_surrogate(net, images):
    defended = sanitize(net, Mask(0.3, "max"))
    found = checks(defended, PGD(eps=0.2, steps=10), images.x[:30], images.y[:30])
    assert any(check.failed for name, check in found.items() if name.startswith("beaten by the "))


def test_an_attack_without_a_budget_that_leaves_examples_is_suspect():
    assert checks(tiny(), CW(search_steps=1, steps=2))["no bound"].failed


def test_fgsm_is_not_compared_with_itself():
    assert "beaten by one step" not in checks(tiny(), FGSM(eps=0.05))


def test_a_model_that_is_always_wrong_proves_nothing():
    (check,) = diagnose(ATTACK, tiny(), X, (Y + 1) % 3)
    assert check.failed and check.name == "no example is classified correctly"


def test_what_was_won_is_taken_from_the_rows_and_not_measured_again():
    def beaten(by: str) -> float:
        found = {check.name: check for check in diagnose(ATTACK, tiny(), X, Y, by=[by] * 20 + ["clean"] * 20)}
        return found["beaten by twice the steps"].figure

    assert beaten("") > 0.2 and beaten("pgd") == 0  # the rows of an attack that failed, and of one that won everything
    (check,) = diagnose(ATTACK, tiny(), X, Y, by=["clean"] * 40)
    assert check.name == "no example is classified correctly"


def test_verdict_names_the_checks_that_failed_with_their_figures():
    assert verdict([Check("a", 0.01, 0.02), Check("b", 0.125, 0.02), Check("c", float("nan"), 0.0)]) == (
        "suspect: b (0.125), c (nan)"
    )
    assert verdict([Check("a", 0.02, 0.02)]) == "reliable"
