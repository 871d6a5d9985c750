"""FGSM, BIM, ILCM, MIM and PGD: their steps by hand, what they keep of a search, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from sanact.attacks import APGD, BIM, FGSM, ILCM, MIM, PGD, GradientAttack
from sanact.attacks.gradient import Search

NORMS = pytest.mark.parametrize("norm", ["Linf", "L2"])
SMALL = {"Linf": 0.01, "L2": 0.04}  # so small that the loss climbs with every step


def gradient_at(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    loss = -model(x).log_softmax(1)[torch.arange(len(y)), y].sum()
    return torch.autograd.grad(loss, x)[0]


def direction(gradient: Tensor, norm: str) -> Tensor:
    return gradient.sign() if norm == "Linf" else gradient / gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)


def clip(moved: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    delta = moved - x
    delta = delta.clamp(-eps, eps) if norm == "Linf" else torch.stack([d * min(1, eps / d.norm().item()) for d in delta])
    return (x + delta).clamp(0, 1)


def by_hand(
    model: nn.Module, x: Tensor, y: Tensor, attack: GradientAttack, step_size: float, steps: int = 1, decay: float | None = None
) -> Tensor:
    here, running = x, torch.zeros_like(x)
    for _ in range(steps):
        gradient = (-1 if attack.targeted else 1) * gradient_at(model, here, y)
        if decay is not None:
            running = decay * running + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
            gradient = running
        here = clip(here + step_size * direction(gradient, attack.norm), x, attack.eps, attack.norm)
    return here


@NORMS
@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_is_one_step_to_the_border(model, x, norm, targeted):
    attack = FGSM(eps=SMALL[norm], norm=norm, targeted=targeted, early_stop=False)
    y = (model(x).argmax(1) + targeted) % 5
    torch.testing.assert_close(attack(model, x, y), by_hand(model, x, y, attack, attack.eps), rtol=0, atol=1e-12)


@NORMS
@pytest.mark.parametrize("targeted", [False, True])
def test_bim_is_fgsm_in_small_steps(model, x, norm, targeted):
    attack = BIM(eps=SMALL[norm], norm=norm, targeted=targeted, early_stop=False, steps=5)
    y = (model(x).argmax(1) + targeted) % 5
    expected = by_hand(model, x, y, attack, attack.eps / 5, steps=5)
    torch.testing.assert_close(attack(model, x, y), expected, rtol=0, atol=1e-12)


@NORMS
def test_a_step_size_of_its_own_is_taken(model, x, norm):
    attack = BIM(eps=SMALL[norm], norm=norm, early_stop=False, steps=3, step_size=SMALL[norm] / 2)
    y = model(x).argmax(1)
    expected = by_hand(model, x, y, attack, SMALL[norm] / 2, steps=3)
    torch.testing.assert_close(attack(model, x, y), expected, rtol=0, atol=1e-12)


@NORMS
@pytest.mark.parametrize("decay", [1.0, 0.3])
def test_mim_follows_a_decaying_sum_of_normalized_gradients(model, x, norm, decay):
    attack = MIM(eps=SMALL[norm], norm=norm, early_stop=False, steps=5, decay=decay)
    y = model(x).argmax(1)
    expected = by_hand(model, x, y, attack, attack.eps / 5, steps=5, decay=decay)
    torch.testing.assert_close(attack(model, x, y), expected, rtol=0, atol=1e-12)


@NORMS
def test_mim_without_memory_is_bim(model, x, norm):
    y = model(x).argmax(1)
    torch.testing.assert_close(MIM(eps=0.2, norm=norm, decay=0.0)(model, x, y), BIM(eps=0.2, norm=norm)(model, x, y))


@NORMS
def test_pgd_without_random_start_is_bim_with_longer_steps(model, x, norm):
    y = model(x).argmax(1)
    pgd = PGD(eps=0.2, norm=norm, steps=8, random_start=False)
    assert torch.equal(pgd(model, x, y), BIM(eps=0.2, norm=norm, steps=8, step_size=2.5 * 0.2 / 8)(model, x, y))


@NORMS
def test_ilcm_steps_towards_the_least_likely_class(model, x, norm):
    attack = ILCM(eps=SMALL[norm], norm=norm, early_stop=False, steps=5)
    y, least = model(x).argmax(1), model(x).argmin(1)
    towards = BIM(eps=SMALL[norm], norm=norm, targeted=True, steps=5)
    expected = by_hand(model, x, least, towards, attack.eps / 5, steps=5)
    torch.testing.assert_close(attack(model, x, y), expected, rtol=0, atol=1e-12)


def visited(attack: GradientAttack, model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    points: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        points.append(x.detach().clone())
        return model(x)

    attack(watched, x, y)
    return points


def test_pgd_tries_the_input_and_then_starts_anywhere_in_the_cube(model):
    x = torch.full((600, 1, 6, 6), 0.5).double()
    first, start, *_ = visited(PGD(eps=0.2, steps=1), model, x, model(x).argmax(1))
    assert torch.equal(first, x)
    assert kstest((start - x).flatten().numpy(), "uniform", (-0.2, 0.4)).pvalue > 1e-6


def test_pgd_starts_anywhere_in_the_l2_ball(model):
    x = torch.full((600, 1, 6, 6), 0.5).double()
    start, *_ = visited(PGD(eps=0.2, norm="L2", steps=1, early_stop=False), model, x, model(x).argmax(1))
    radius = (start - x).flatten(1).norm(dim=1) / 0.2
    assert kstest((radius**36).numpy(), "uniform").pvalue > 1e-6


def test_each_restart_starts_elsewhere(model, x):
    points = visited(PGD(eps=0.2, steps=1, restarts=3, early_stop=False), model, x, model(x).argmax(1))
    assert len(points) == 3 * 2
    assert len({tuple(start.flatten().tolist()) for start in points[::2]}) == 3


def test_another_seed_starts_elsewhere(model, x):
    y, attack = model(x).argmax(1), PGD(eps=0.2, early_stop=False)
    first, second = (attack(model, x, y, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert not torch.equal(first, second)


def needles(x: Tensor) -> Tensor:
    """Class 1 on narrow peaks of a wave, reached from nearby only."""
    pixel = x.flatten(1)[:, 0]
    return torch.stack([torch.zeros_like(pixel), torch.cos(40 * pixel) + pixel - 1.4], dim=1)


def test_restarts_win_more_and_lose_nobody():
    x, y = torch.full((200, 1, 1, 1), 0.3).double(), torch.zeros(200, dtype=torch.long)
    once = PGD(eps=0.25, steps=5, step_size=0.01)
    one, five = (needles(attack(needles, x, y)).argmax(1) == 1 for attack in (once, replace(once, restarts=5)))
    assert (five | ~one).all()
    assert five.sum() > 1.5 * one.sum() > 0


def hill(x: Tensor) -> Tensor:
    """One pixel: class 1 within 0.05 of 0.58, and the loss of class 0 falls on both sides of it."""
    pixel = x.flatten(1)[:, 0]
    return torch.stack([torch.zeros_like(pixel), 0.05 - (pixel - 0.58).abs()], dim=1)


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_best_point_visited_is_kept_and_the_last_is_visited(early_stop, steps):
    x = torch.full((1, 1, 1, 1), 0.5).double()
    walk = BIM(eps=0.3, steps=steps, step_size=0.1, early_stop=early_stop)  # 0.5, 0.6, 0.5, 0.6
    assert walk(hill, x, torch.tensor([0])).item() == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("start", "step_size", "highest"),
    [
        pytest.param(0.4, 0.12, 0.52, id="none is won"),  # 0.4, 0.52, 0.64, 0.52
        pytest.param(0.5, 0.045, 0.59, id="several are won"),  # 0.5, 0.545, 0.59, 0.545
    ],
)
def test_of_points_alike_the_one_with_the_highest_loss_is_kept(start, step_size, highest):
    x = torch.full((1, 1, 1, 1), start).double()
    walk = BIM(eps=0.3, steps=3, step_size=step_size, early_stop=False)
    assert walk(hill, x, torch.tensor([0])).item() == pytest.approx(highest)


def test_a_loss_that_rounds_to_zero_is_no_reason_to_stay():
    model = Sure().eval()
    x = torch.full((3, 1, 4, 4), 0.5)
    y = torch.zeros(3, dtype=torch.long)
    assert not nn.functional.cross_entropy(model(x), y).item()
    torch.testing.assert_close(FGSM(eps=0.1).for_replay()(model, x, y), x + 0.1)


class Sure(nn.Module):
    """So sure of class 0 that its cross-entropy is 0 in float32; brighter images are a little less so."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full((len(x),), 40.0), x.flatten(1).sum(1)], dim=1)


def test_what_is_won_is_kept_before_a_higher_loss():
    def tempting(x: Tensor) -> Tensor:
        """Class 1 between 0.5 and 0.6; beyond it class 0 again, yet among two rivals, so at a higher loss."""
        p = x.flatten(1)[:, :1]
        rivals = torch.where(p > 0.6, torch.cat([0 * p, 0 * p], 1) - 0.01, torch.cat([p - 0.5, 0 * p - 9], 1))
        return torch.cat([0 * p, rivals], 1)

    x, y = torch.full((1, 1, 1, 1), 0.45).double(), torch.tensor([0])
    walk = BIM(eps=0.2, steps=2, early_stop=False)  # 0.45, 0.55, 0.65
    assert walk(tempting, x, y).item() == pytest.approx(0.55)


def test_early_stop_ends_at_the_first_success_and_late_stop_at_the_highest_loss(linear, points):
    y = linear(points).argmax(1)
    early, late = (BIM(eps=0.39, steps=13, early_stop=stop)(linear, points, y) for stop in (True, False))
    steps = torch.ceil(linear.margin(points).abs() / linear.w.abs().sum() / 0.03)
    torch.testing.assert_close((early - points).flatten(1).abs().amax(1), 0.03 * steps)
    torch.testing.assert_close((late - points).flatten(1).abs().amax(1), torch.full((32,), 0.39).double())


def test_examples_that_are_won_leave_the_batch(linear, points):
    sizes = [len(part) for part in visited(BIM(eps=0.39, steps=13), linear, points, linear(points).argmax(1))]
    steps = torch.ceil(linear.margin(points).abs() / linear.w.abs().sum() / 0.03)
    assert sizes == [32, *(int((steps >= step).sum()) for step in range(1, int(steps.max()) + 1))]


def test_for_replay_goes_on_after_success():
    assert PGD(eps=0.3).for_replay() == PGD(eps=0.3, early_stop=False)


def test_the_margin_loss_climbs_where_cross_entropy_is_flat():
    """With logits ± 1,000 the softmax is 1 and 0 to the last digit."""

    def sure(x: Tensor) -> Tensor:
        return 1e4 * torch.stack([x.flatten(1).mean(1) - 0.4, 0.4 - x.flatten(1).mean(1)], dim=1)

    x, y = torch.full((2, 1, 3, 3), 0.5), torch.tensor([0, 0])
    assert torch.equal(PGD(eps=0.2, random_start=False)(sure, x, y), x)
    assert (sure(PGD(eps=0.2, random_start=False, loss="margin")(sure, x, y)).argmax(1) == 1).all()


def test_l2_attacks_climb_gradients_whose_square_underflows():
    def distant(x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([60 + 0 * mean, 600 * (mean - 0.5)], dim=1)

    x, y = torch.full((2, 1, 3, 3), 0.5), torch.tensor([0, 0])
    assert (distant(BIM(eps=0.5, norm="L2")(distant, x, y)).argmax(1) == 1).all()


class Moody:
    """A randomized model of two classes: the n-th draw at a point adds the n-th of these numbers to the logit of class 1."""

    def __init__(self, moods: list[float]) -> None:
        self.moods, self.calls = moods, 0

    def __call__(self, x: Tensor) -> Tensor:
        pixel = x.flatten(1)[:, 0]
        mood = self.moods[self.calls % len(self.moods)]
        self.calls += 1
        return torch.stack([0 * pixel, pixel * (1 + mood) - 0.5 + mood], dim=1)


@pytest.mark.parametrize(("moods", "won"), [([9, 9, -9], True), ([9, -9, -9], False), ([9, -9, 9, -9], False)])
def test_an_example_of_a_randomized_model_is_won_in_more_than_half_of_the_draws(moods, won):
    x, y = torch.full((4, 1, 1, 1), 0.5).double(), torch.zeros(4, dtype=torch.long)
    attack = BIM(eps=0.1, draws=len(moods))
    search = Search(attack, Moody(moods), x, y, torch.full((4,), 0.1), y, toward=False)
    assert (search.visit(torch.arange(4), x)[1] == won).all() and (search.won == won).all()


def test_loss_and_gradient_are_averaged_over_the_draws():
    moods = [0.3, -0.2, 0.5]
    x = torch.linspace(0.1, 0.9, 5, dtype=torch.float64).reshape(5, 1, 1, 1)
    y = torch.zeros(5, dtype=torch.long)
    search = Search(BIM(eps=0.1, draws=3), Moody(moods), x, y, torch.full((5,), 0.1), y, toward=False)
    loss, _, gradient = search.visit(torch.arange(5), x, slope=True)
    for i, pixel in enumerate(x.flatten().tolist()):
        lead = [pixel * (1 + mood) - 0.5 + mood for mood in moods]
        assert loss[i].item() == pytest.approx(sum(math.log(1 + math.exp(z)) for z in lead) / 3)
        slopes = [(1 + mood) / (1 + math.exp(-z)) for mood, z in zip(moods, lead, strict=True)]
        assert gradient[i].item() == pytest.approx(sum(slopes) / 3)


def test_search_starts_with_nothing_won():
    x = torch.zeros(3, 1, 2, 2)
    search = Search(BIM(eps=0.1), needles, x, torch.zeros(3).long(), torch.ones(3), torch.zeros(3).long(), toward=False)
    assert torch.equal(search.best, x) and not search.won.any() and search.open().tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", [FGSM, BIM, ILCM, MIM, PGD], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("eps", -0.1, "a positive number"),
        ("eps", 0, "a positive number"),
        ("eps", math.nan, "a positive number"),
        ("eps", math.inf, "a positive number"),
        ("eps", "0.3", "a positive number"),
        ("norm", "L7", "one of Linf, L2"),
        ("loss", "mse", "one of ce, margin, dlr"),
        ("draws", 0, "a whole number ≥ 1"),
    ],
)
def test_bad_settings_of_all(kind, field, value, allowed):
    with pytest.raises(ValueError, match=rf"{field} must be {allowed}, got {value!r} \(attack '{kind.__name__.lower()}'\)"):
        kind(**{"eps": 0.3, field: value})


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (BIM, {"steps": 0}, "steps must be a whole number ≥ 1, got 0"),
        (PGD, {"steps": 2.5}, r"steps must be a whole number ≥ 1, got 2\.5"),
        (BIM, {"step_size": 0}, "step_size must be a positive number or None, got 0"),
        (ILCM, {"step_size": math.inf}, "step_size must be a positive number or None, got inf"),
        (MIM, {"step_size": math.nan}, "step_size must be a positive number or None, got nan"),
        (MIM, {"decay": -1}, "decay must be a number ≥ 0, got -1"),
        (MIM, {"decay": math.inf}, "decay must be a number ≥ 0, got inf"),
        (PGD, {"restarts": 0}, "restarts must be a whole number ≥ 1, got 0"),
        (PGD, {"restarts": 2, "random_start": False}, "restarts must be 1 without random_start.*, got 2"),
        (ILCM, {"targeted": True}, "targeted must be False, because it chooses the target itself, got True"),
    ],
    ids=str,
)
def test_bad_settings_of_one(kind, change, message):
    with pytest.raises(ValueError, match=rf"{message} \(attack '{kind.__name__.lower()}'\)"):
        kind(eps=0.3, **change)


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        (torch.full((7,), 0.1), r"one number per example, \(8,\), got \(7,\)"),
        (torch.full((8, 1), 0.1), r"one number per example, \(8,\), got \(8, 1\)"),
        (torch.tensor([0.1] * 7 + [-0.5]), r"finite and ≥ 0, got -0\.5"),
        (torch.tensor([0.1] * 7 + [math.nan]), "finite and ≥ 0, got nan"),
        (torch.tensor([0.1] * 7 + [math.inf]), "finite and ≥ 0, got inf"),
    ],
)
def test_bad_budgets_per_example(model, x, eps, message):
    with pytest.raises(ValueError, match=rf"eps must (hold|be) {message} \(attack 'bim'\)"):
        BIM(eps=0.3)(model, x, model(x).argmax(1), eps=eps)


@pytest.mark.parametrize("kind", [PGD, APGD])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_targeted_the_dlr_reaches_what_the_margin_reaches(model, x, kind, rank):
    target = model(x).argsort(1, descending=True)[:, rank]
    attack = kind(eps=1.0, steps=40, targeted=True)
    by_dlr, by_margin = (model(replace(attack, loss=loss)(model, x, target)).argmax(1) == target for loss in ("dlr", "margin"))
    assert by_dlr.sum() >= by_margin.sum() - 1 and by_margin.sum() > 3


def test_of_three_classes_the_dlr_towards_the_least_likely_climbs():
    weights = torch.randn(36, 3, generator=torch.Generator().manual_seed(0))
    x = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    model = lambda x: x.flatten(1) @ weights  # noqa: E731
    least = model(x).argmin(1)
    towards = model(ILCM(eps=0.1, loss="dlr").for_replay()(model, x, model(x).argmax(1)))
    assert (towards.softmax(1).gather(1, least[:, None]) > model(x).softmax(1).gather(1, least[:, None])).all()


@pytest.mark.parametrize("kind", [BIM, MIM])
def test_a_slope_that_is_infinite_at_black_pixels_does_not_hold_up_the_others(kind):
    """Two classes by the mean of the roots: the gradient is infinite at the black half and points up everywhere."""
    x = torch.full((2, 1, 4, 4), 0.25)
    x[:, :, :2] = 0
    root = lambda x: torch.stack([0.6 - x.sqrt().flatten(1).mean(1), 0 * x.flatten(1).sum(1)], dim=1)  # noqa: E731
    moved = kind(eps=0.1, early_stop=False)(root, x, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(moved, x + 0.1)
