"""Positive controls: broken defenses must fall to the adaptive attacker, and an honest model must not be called broken.

A change that weakens the suite turns one of them red; three such bugs are planted here to see it.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from sanact import CW, KWTA, PGD, Mask, MeanSparse, Sanitizer, calibrate, sanitize
from sanact.attacks.gradient import Search
from sanact.data import Batch
from sanact.defenses import FeatureSqueezing
from sanact.evaluation.adaptive import Adaptive
from sanact.evaluation.diagnostics import _silent, diagnose, verdict
from sanact.models import load_model
from sanact.transforms import BitDepth
from tests.conftest import load_or_skip

EPS = 0.2
ATTACK = PGD(eps=EPS, steps=40)
ADAPTIVE = Adaptive(eps=EPS, effort="quick")


class Measured(NamedTuple):
    defended: nn.Module
    oblivious: float
    white_box: float
    adaptive: float


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return 100 * float((model(x).argmax(1) == y).float().mean())


@pytest.fixture(scope="module")
def few(images: Batch) -> tuple[Tensor, Tensor]:
    return images.x[:30], images.y[:30]


@pytest.fixture(scope="module")
def undefended(net, few) -> float:
    return accuracy(net, ATTACK(net, *few), few[1])


@pytest.fixture(scope="module", params=[Mask(0.3, "max"), MeanSparse(0.5), KWTA(0.1)], ids=lambda sanitizer: sanitizer.name)
def measured(request: pytest.FixtureRequest, net: nn.Module, few: tuple[Tensor, Tensor]) -> Measured:
    sanitizer: Sanitizer = request.param
    defended, (x, y) = sanitize(net, sanitizer), few
    calibrate(defended, next(load_or_skip("mnist", "train").sample(200).batches(200)).x)
    attacks = (ATTACK.for_replay()(net, x, y), ATTACK(defended, x, y), ADAPTIVE(defended, x, y))
    return Measured(defended, *(accuracy(defended, examples, y) for examples in attacks))


def test_replayed_examples_flatter_the_defense(measured, undefended):
    assert measured.oblivious >= undefended + 20


def test_the_adaptive_attacker_leaves_far_less(measured):
    assert measured.adaptive <= min(measured.oblivious, measured.white_box) - 20


def test_nothing_is_left_where_the_undefended_model_has_nothing(measured, net, few):
    larger = Adaptive(eps=0.3, effort="quick")
    assert accuracy(net, larger(net, *few), few[1]) == 0
    assert accuracy(measured.defended, larger(measured.defended, *few), few[1]) <= 4


def test_the_plain_white_box_number_is_suspect(measured, few):
    assert verdict(list(diagnose(ATTACK, measured.defended, *few))).startswith("suspect: ")


def undefended_falls(net: nn.Module, x: Tensor, y: Tensor) -> None:
    assert accuracy(net, Adaptive(eps=EPS, effort="quick")(net, x, y), y) <= 10


def nothing_is_lost(net: nn.Module, x: Tensor, y: Tensor) -> None:
    attack = PGD(eps=0.15, steps=5, restarts=5)
    assert _silent(attack, net, x, y) == 0


def test_the_undefended_model_falls(net, few):
    undefended_falls(net, few[0][:10], few[1][:10])


def test_a_detached_gradient_turns_the_controls_red(net, few, monkeypatch):
    for module in ("gradient", "apgd"):
        monkeypatch.setattr(f"sanact.attacks.{module}.steepest", lambda gradient, norm: torch.zeros_like(gradient))
    with pytest.raises(AssertionError):
        undefended_falls(net, few[0][:10], few[1][:10])


def test_a_projection_that_returns_the_input_turns_the_controls_red(net, few, monkeypatch):
    for module in ("gradient", "apgd", "square"):
        monkeypatch.setattr(f"sanact.attacks.{module}.project", lambda moved, x, eps, norm: x)
    with pytest.raises(AssertionError):
        undefended_falls(net, few[0][:10], few[1][:10])


def test_the_last_iterate_in_place_of_the_best_turns_the_controls_red(net, few, monkeypatch):
    visit = Search.visit

    def keep_the_last(self, index, here, **options):
        loss, won, gradient = visit(self, index, here, **options)
        self.best[index], self.won[index] = here, False
        return loss, torch.zeros_like(won), gradient

    nothing_is_lost(net, *few)
    monkeypatch.setattr(Search, "visit", keep_the_last)
    with pytest.raises(AssertionError):
        nothing_is_lost(net, *few)


def test_an_honestly_robust_model_is_judged_reliable(few):
    """Ours, trained on PGD's examples at 0.3: most of its accuracy survives, and no check fails."""
    robust = load_model("mnist-cnn", weights="mnist-pgd")
    x, y = few
    assert accuracy(robust, ADAPTIVE(robust, x, y), y) >= 80
    assert verdict(list(diagnose(ATTACK, robust, x, y))) == "reliable"


def squeezing_falls(net: nn.Module, x: Tensor, y: Tensor) -> None:
    squeezed, knows = FeatureSqueezing(bits=1)(net), Adaptive(norm="L2", eps=2.5, effort="quick")
    assert accuracy(squeezed, knows(squeezed, x, y), y) <= accuracy(net, knows(net, x, y), y) + 10


def test_squeezing_gains_where_nobody_knows_of_it_and_falls_where_somebody_does(net, few):
    x, y = few[0][:10], few[1][:10]
    nearest = CW(search_steps=3, steps=60, step_size=0.1, initial_c=1.0)(net, x, y)
    assert accuracy(net, nearest, y) == 0 and accuracy(FeatureSqueezing(bits=1)(net), nearest, y) >= 60
    squeezing_falls(net, x, y)


def test_a_detached_surrogate_turns_the_controls_red(net, few, monkeypatch):
    monkeypatch.setattr(BitDepth, "choices", property(lambda part: ("sigmoid",)))
    monkeypatch.setattr(
        BitDepth, "surrogates", property(lambda part: {"sigmoid": lambda x: 0 * x + part.transform(x.detach())})
    )
    with pytest.raises(AssertionError):
        squeezing_falls(net, few[0][:10], few[1][:10])
