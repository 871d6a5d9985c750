from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torchattacks as ta
from torch import Tensor, nn

from sanact.attacks import Square
from sanact.attacks.square import pyramid, pyramids, tiles
from sanact.data import Batch
from tests.conftest import Linear

module = import_module("sanact.attacks.square")  # the package has the class under nearly the same name

EPS = {"Linf": 0.1, "L2": 1.0}
NORMS = pytest.mark.parametrize("norm", EPS)


@pytest.fixture
def model() -> nn.Module:
    """Four classes, smooth, float64, on images of three channels."""
    generator = torch.Generator().manual_seed(5)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 49, 4)).double()
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 5
    return layers.eval()


@pytest.fixture
def x() -> Tensor:
    """In the middle of [0, 1], so that no perturbation is clipped."""
    return 0.4 + 0.2 * torch.rand(6, 3, 9, 9, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def margins(z: Tensor, y: Tensor) -> Tensor:
    return torch.stack([max(v for i, v in enumerate(row) if i != c) - row[c] for row, c in zip(z, y.tolist(), strict=True)])


def proposals(attack: Square, model: nn.Module, x: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor]:
    """The points that the search drew, whether or not the model was asked about them, and what was returned."""
    points: list[Tensor] = []

    def watched(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*arguments: object) -> Tensor:
            points.append(draw(*arguments))
            return points[-1].clone()

        return run

    with ExitStack() as patches:
        for name in ("stripes", "tiles", "change_square", "change_window"):
            patches.enter_context(patch.object(module, name, watched(getattr(module, name))))
        returned = attack(model, x, y)
    return points[: attack.queries], returned


def trail(attack: Square, model: nn.Module, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The best point so far, by the margin, and the next that was tried."""
    points, returned = proposals(attack, model, x, y)
    assert len(points) == attack.queries
    best, steps = points[0], []
    for point in points[1:]:
        steps.append((best, point))
        better = margins(model(point), y) > margins(model(best), y)
        best = torch.where(better[:, None, None, None], point, best)
    assert torch.equal(returned, best)
    return steps


def test_a_square_that_changes_nothing_is_a_query_and_no_pass(model, x):
    y, passes = model(x).argmax(1), []
    attack = Square(eps=0.1, queries=400, early_stop=False)
    points, _ = proposals(attack, model, x, y)
    best, new = points[0], len(x) + len(x)  # x itself and the stripes
    for point in points[1:]:
        new += int((point != best).flatten(1).any(1).sum())
        best = torch.where((margins(model(point), y) > margins(model(best), y))[:, None, None, None], point, best)

    def counted(x: Tensor) -> Tensor:
        passes.append(len(x))
        return model(x)

    attack(counted, x, y)
    assert sum(passes) == new < len(x) * 401


def side_at(query: int, pixels: int) -> int:
    halvings = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]
    return max(1, round(math.sqrt(0.8 * pixels / 2 ** len([h for h in halvings if query > h]))))


def test_each_query_draws_one_square_and_a_better_one_stays(model, x):
    y = model(x).argmax(1)
    moved, places = 0, set()
    for query, (best, point) in enumerate(trail(Square(eps=0.1, queries=600, early_stop=False), model, x, y)):
        side = side_at(query, 81)
        for delta, change in zip(point - x, (point - best) != 0, strict=True):
            torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.1))
            rows, columns = (torch.nonzero(change.any(0).any(axis))[:, 0] for axis in (1, 0))
            if len(rows):
                moved += 1
                places.add((int(rows[0]), int(columns[0])))
                assert int(rows[-1] - rows[0]) < side and int(columns[-1] - columns[0]) < side
                if side == 1:
                    assert change.any(0).sum() == 1
    assert moved > 1000 and len(places) > 60 and {(0, 0), (7, 7)} < places  # in the end, everywhere


def test_squares_become_smaller_as_in_the_paper():
    """On 100 by 100 pixels, of which 0.8, 0.4, 0.2, … are covered."""
    wide = torch.empty(1, 1, 100, 100)
    sides = [Square(eps=0.1)._side(query, wide) for query in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8000, 8001)]
    assert sides == [89, 89, 63, 45, 32, 22, 16, 11, 8, 6, 6, 4]
    in_l2 = Square(eps=0.1, norm="L2")
    assert [in_l2._side(query, wide) for query in (0, 11, 201, 8001)] == [89, 63, 33, 5]


def test_squares_have_one_sign_a_channel(model, x):
    y = model(x).argmax(1)
    for best, point in trail(Square(eps=0.1, queries=100, early_stop=False), model, x, y):
        for delta, change in zip(point - x, (point - best) != 0, strict=True):
            for channel in range(3):
                assert len(delta[channel][change[channel]].sign().unique()) <= 1


def test_the_search_begins_with_vertical_stripes(model, x):
    (start, _), *_ = trail(Square(eps=0.1, queries=2, early_stop=False), model, x, model(x).argmax(1))
    sign = (start - x).sign()
    assert torch.equal(sign, sign[:, :, :1].expand_as(sign)) and sign.mean().abs() < 0.3


def test_in_l2_two_windows_change_and_the_whole_budget_is_spent(model, x):
    y = model(x).argmax(1)
    for query, (best, point) in enumerate(trail(Square(eps=0.3, norm="L2", queries=300, early_stop=False), model, x, y)):
        torch.testing.assert_close((point - x).flatten(1).norm(dim=1), torch.full((6,), 0.3).double())
        side = max(side_at(query, 81), 3)
        side += side % 2 == 0
        changed = ((point - best).abs() > 1e-12).any(1).sum((1, 2))
        assert (changed <= 2 * min(side, 9) ** 2).all() and changed.any()


def test_in_l2_the_search_begins_with_tiles_of_the_whole_budget():
    x = torch.full((5, 2, 28, 28), 0.5).double()
    eps = torch.linspace(0.1, 2, 5).double()
    delta = tiles(x, eps, torch.Generator().manual_seed(0)) - x
    torch.testing.assert_close(delta.flatten(1).norm(dim=1), eps)
    border = torch.ones(28, 28, dtype=torch.bool)
    border[1:26, 1:26] = False
    assert not delta[..., border].any()
    for tile in delta[:, :, 1:26, 1:26].unfold(2, 5, 5).unfold(3, 5, 5).flatten(0, 3):
        wanted = pyramids(5) * tile.norm()
        assert any(torch.allclose(tile, sign * form) for form in (wanted, wanted.T) for sign in (-1, 1))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 1), (5, 2), (5, 3), (6, 3), (9, 4), (9, 5)])
def test_pyramids_are_those_of_the_paper(height, width):
    n = height // 2
    expected = np.zeros((height, width))
    for r in range(1, height + 1):
        for s in range(1, width + 1):
            level = n - max(abs(r - n - 1), abs(s - width // 2 - 1))
            expected[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(level + 1))
    np.testing.assert_allclose(pyramid(height, width).numpy(), expected)


@NORMS
def test_stays_in_the_ball_and_in_the_range_at_walls(model, norm):
    x = torch.rand(6, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round()
    adversarial = Square(eps=EPS[norm], norm=norm, queries=300, early_stop=False)(model, x, model(x).argmax(1))
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    far = (adversarial - x).flatten(1).norm(p=torch.inf if norm == "Linf" else 2, dim=1)
    assert (far <= EPS[norm] * (1 + 1e-12)).all() and (far > 0).all()


def test_succeeds_just_beyond_the_boundary_and_not_before(linear: Linear, points: Tensor):
    y = linear(points).argmax(1)
    distance = linear.margin(points).abs() / linear.w.abs().sum()
    attack = Square(eps=1, queries=1500)
    outside, inside = (attack(linear, points, y, eps=share * distance) for share in (1.01, 0.99))
    assert (linear(outside).argmax(1) != y).all() and (linear(inside).argmax(1) == y).all()


def test_in_l2_succeeds_beyond_the_boundary_and_not_before(linear: Linear, points: Tensor):
    y = linear(points).argmax(1)
    distance = linear.margin(points).abs() / linear.w.norm()
    attack = Square(eps=1, norm="L2", queries=1000)
    outside, inside = (attack(linear, points, y, eps=share * distance) for share in (4, 0.99))
    assert (linear(outside).argmax(1) != y).all() and (linear(inside).argmax(1) == y).all()


def test_examples_that_are_won_leave_the_batch(linear: Linear, points: Tensor):
    drawn, adversarial = proposals(Square(eps=0.39), linear, points, linear(points).argmax(1))
    sizes = [len(proposal) for proposal in drawn]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) < 1000
    assert (linear(adversarial).argmax(1) != linear(points).argmax(1)).all()


def test_needs_no_gradient(model, x):
    def steps(x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return (10 * model(x)).round()

    y = (10 * model(x)).round().argmax(1)
    assert ((10 * model(Square(eps=0.3, queries=500)(steps, x, y))).round().argmax(1) != y).any()


@NORMS
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 5), (3, 7, 2), (1, 12, 4)], ids=str)
def test_images_of_any_size(norm, shape):
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(x[0].numel(), 3, generator=torch.Generator().manual_seed(1))
    model = lambda x: x.flatten(1) @ weights  # noqa: E731
    y = model(x).argmax(1)
    adversarial = Square(eps=0.2, norm=norm, queries=60, early_stop=False)(model, x, y)
    far = (adversarial - x).flatten(1).norm(p=torch.inf if norm == "Linf" else 2, dim=1)
    assert adversarial.shape == x.shape and (far <= 0.2 * (1 + 1e-6)).all()
    assert adversarial.min() >= 0 and adversarial.max() <= 1


def test_refuses_what_is_no_image():
    with pytest.raises(ValueError, match=r"x must be \(N, C, H, W\), got \(2, 5\) \(attack 'square'\)"):
        Square(eps=0.1)(lambda x: x, torch.rand(2, 5), torch.zeros(2).long())


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.25), ("L2", 3.0)])
def test_fools_as_many_as_that_of_torchattacks(net: nn.Module, images: Batch, norm: str, eps: float):
    x, y = images.x[:20], images.y[:20]
    with torch.random.fork_rng(devices=[]):
        theirs = net(ta.Square(net, norm=norm, eps=eps, n_queries=200, resc_schedule=False)(x, y)).argmax(1) != y
    mine = net(Square(eps=eps, norm=norm, queries=200)(net, x, y)).argmax(1) != y  # type: ignore[arg-type]
    assert mine.sum() >= theirs.sum() - 1 and theirs.sum() > 3  # the draws differ, so one example may


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": 0}, "queries must be a whole number ≥ 1, got 0"),
        ({"queries": 0.5}, r"queries must be a whole number ≥ 1, got 0\.5"),
        ({"p_init": 0}, r"p_init must be in \(0, 1\], got 0"),
        ({"p_init": 2}, r"p_init must be in \(0, 1\], got 2"),
        ({"norm": "L1"}, "norm must be one of Linf, L2, got 'L1'"),
    ],
    ids=str,
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=rf"{message} \(attack 'square'\)"):
        Square(**{"eps": 0.3, **change})
