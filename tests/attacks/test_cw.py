from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sanact.attacks import CW
from tests.conftest import Linear


def by_hand(model: nn.Module, x: Tensor, y: int, attack: CW) -> Tensor:
    """One example (C, H, W), as in the paper, with PyTorch's Adam and without ending early."""
    best, nearest = x, math.inf
    low, high, c = 0.0, math.inf, attack.initial_c
    for _ in range(attack.search_steps):
        w = torch.atanh((2 * x - 1) * (1 - 1e-6)).requires_grad_()
        adam, found = torch.optim.Adam([w], lr=attack.step_size), False
        for _ in range(attack.steps):
            candidate = (torch.tanh(w) + 1) / 2
            logits = model(candidate[None])[0]
            own, other = logits[y], max(logits[i] for i in range(5) if i != y)
            lead = other - own if attack.targeted else own - other
            squared = ((candidate - x) ** 2).sum()
            if lead < 0 and lead <= -attack.confidence:
                found = True
                if squared < nearest:
                    best, nearest = candidate.detach(), squared.item()
            adam.zero_grad()
            (squared + c * max(lead + attack.confidence, 0 * lead)).backward()
            adam.step()
        low, high = (low, min(high, c)) if found else (max(low, c), high)
        c = 10 * c if math.isinf(high) else (low + high) / 2
    return best


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("confidence", [0.0, 0.2])
@pytest.mark.parametrize("initial_c", [0.01, 5.0])
def test_every_example_has_the_search_and_the_steps_of_the_paper(model, x, targeted, confidence, initial_c):
    y = (model(x).argmax(1) + targeted) % 5
    attack = CW(
        targeted=targeted,
        search_steps=4,
        steps=40,
        step_size=0.05,
        confidence=confidence,
        initial_c=initial_c,
        abort_early=False,
    )
    expected = torch.stack([by_hand(model, example, int(label), attack) for example, label in zip(x, y, strict=True)])
    assert not torch.equal(expected, x)
    torch.testing.assert_close(attack(model, x, y), expected, rtol=0, atol=1e-8)


def test_confidence_moves_on_to_its_margin(linear, points):
    y = linear(points).argmax(1)
    adversarial = CW(confidence=1.0, initial_c=0.1, steps=400)(linear, points, y)
    lead = linear.margin(adversarial) * (1 - 2 * y)  # how far the logit of the other class is above that of y
    assert lead.min() >= 1
    expected = (linear.margin(points).abs() + 1) / linear.w.norm()
    ratio = (adversarial - points).flatten(1).norm(dim=1) / expected
    assert ratio.min() >= 1 and ratio.max() < 1.03


def test_an_example_that_finds_nothing_is_returned_as_it_was(model, x):
    assert torch.equal(CW(search_steps=1, steps=20, initial_c=1e-9)(model, x, model(x).argmax(1)), x)


def test_an_example_already_misclassified_hardly_moves(model, x):
    y = (model(x).argmax(1) + 1) % 5
    adversarial = CW(search_steps=2, steps=50)(model, x, y)
    torch.testing.assert_close(adversarial, x, rtol=0, atol=1e-5)
    assert (model(adversarial).argmax(1) != y).all()


def test_a_longer_search_never_ends_further_away(model, x):
    y = model(x).argmax(1)
    few, many = ((CW(search_steps=n, steps=50, initial_c=10.0)(model, x, y) - x).flatten(1).norm(dim=1) for n in (1, 6))
    assert (many <= few).all() and (many < few).any()


def test_reaches_black_and_white_pixels(linear):
    x = torch.randint(0, 2, (16, 1, 4, 4), generator=torch.Generator().manual_seed(0)).double()
    y = linear(x).argmax(1)
    adversarial = CW(step_size=0.1, steps=200, initial_c=1.0)(linear, x, y)
    assert (linear(adversarial).argmax(1) != y).all()
    assert adversarial.min() >= 0 and adversarial.max() <= 1


def steps_taken(attack: CW, flat: list[bool]) -> list[int]:
    """How many examples each step saw; for a flat one the model is deaf."""
    sizes: list[int] = []
    x = torch.where(torch.tensor(flat), 0.9, 0.1).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).double()

    def model(candidate: Tensor) -> Tensor:
        sizes.append(len(candidate))
        mean = candidate.flatten(1).mean(1)
        return torch.stack([torch.where(mean > 0.8, 2 + 0 * mean, 2 - mean), 0 * mean], dim=1)

    attack(model, x, torch.zeros(len(flat), dtype=torch.long))
    return sizes


def test_an_example_without_progress_ends_alone():
    early = CW(search_steps=1, steps=500, step_size=1e-3, initial_c=10.0)
    assert steps_taken(early, [True, False, True]) == [3] * 100 + [1] * 400
    assert steps_taken(early, [True, True]) == [2] * 100
    assert steps_taken(CW(search_steps=1, steps=500, abort_early=False), [True]) == [1] * 500


def test_few_steps_are_never_cut_short():
    assert len(steps_taken(CW(search_steps=1, steps=99), [True])) == 99


def test_has_no_budget_and_replays_as_it_is():
    attack = CW()
    assert attack.budget == ("L2", None) and attack.for_replay() is attack


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search_steps": 0}, "search_steps must be a whole number ≥ 1, got 0"),
        ({"steps": 1.5}, r"steps must be a whole number ≥ 1, got 1\.5"),
        ({"step_size": 0.0}, r"step_size must be a positive number, got 0\.0"),
        ({"step_size": math.inf}, "step_size must be a positive number, got inf"),
        ({"initial_c": -1}, "initial_c must be a positive number, got -1"),
        ({"confidence": -0.5}, r"confidence must be a number ≥ 0, got -0\.5"),
        ({"confidence": math.nan}, "confidence must be a number ≥ 0, got nan"),
    ],
    ids=str,
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=rf"{message} \(attack 'cw'\)"):
        CW(**change)


@pytest.mark.parametrize("initial_c", [1e-3, 1e9])
def test_c_stays_finite_however_often_it_is_raised(linear: Linear, points: Tensor, initial_c):
    """Class 0 wins by a margin that no image makes up for: c grows tenfold 60 times."""
    asked: list[Tensor] = []

    def unbeatable(x: Tensor) -> Tensor:
        asked.append(x.detach())
        return linear(x.double()).float() + torch.tensor([1e3, 0.0])

    x = points.float()
    found = CW(search_steps=60, steps=2, initial_c=initial_c)(unbeatable, x, torch.zeros(len(x), dtype=torch.long))
    assert torch.equal(found, x) and len(asked) == 120 and all(point.isfinite().all() for point in asked)


def test_logits_of_half_precision_do_not_overflow_on_the_way_back(linear: Linear, points: Tensor):
    x, y = points.float(), linear(points).argmax(1)
    found = CW(initial_c=1e6, search_steps=3, steps=50, step_size=0.1)(lambda x: linear(x.double()).half(), x, y)
    assert found.isfinite().all() and (linear(found.double()).argmax(1) != y).double().mean() > 0.9
