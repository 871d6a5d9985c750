"""What every transform in TRANSFORMS must do, whatever it computes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from sanact.gradients import gradient, gradient_choices
from sanact.parts import bypass
from sanact.transforms import TRANSFORMS, Transform

CLEAN = [torch.rand(20, 1, 10, 12, generator=torch.Generator().manual_seed(1))]


@pytest.fixture(params=TRANSFORMS)
def transform(request: pytest.FixtureRequest) -> Transform:
    made = TRANSFORMS[request.param]()
    made.calibrate(CLEAN)
    return made


def draw(n: int = 4) -> Tensor:
    return torch.rand(n, 1, 10, 12, generator=torch.Generator().manual_seed(0))


def anew(transform: Transform, x: Tensor) -> Tensor:
    """What a new copy would make of x."""
    transform.rewind()
    return transform(x)


def test_shape_and_dtype_are_as_declared_and_the_images_stay(transform: Transform):
    for n, dtype in ((4, torch.float32), (3, torch.float64), (0, torch.float32)):
        x = draw(n).to(dtype)
        before = x.clone()
        out = transform(x)
        assert out.shape == (n, transform.expansion, 10, 12) and out.dtype == dtype
        assert torch.equal(x, before)


def test_examples_do_not_depend_on_their_batch(transform: Transform):
    whole = anew(transform, draw())
    transform.rewind()
    torch.testing.assert_close(torch.cat([transform(part) for part in draw().split([1, 3])]), whole)


def test_memory_layout_does_not_matter(transform: Transform):
    x = draw()
    strided = torch.stack([x, -x], dim=-1)[..., 0]
    torch.testing.assert_close(anew(transform, strided), anew(transform, x))


def test_random_ones_say_so_draw_anew_and_can_be_rewound(transform: Transform):
    first, second = anew(transform, draw()), transform(draw())
    assert torch.equal(first, second) != transform.randomized
    assert torch.equal(anew(transform, draw()), first)


def test_the_global_random_state_is_left_alone(transform: Transform):
    before = torch.get_rng_state()
    transform(draw())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))], ids=["copy", "pickle"])
def test_a_copy_goes_on_from_where_the_original_is(transform: Transform, again):
    transform(draw())
    assert torch.equal(again(transform)(draw()), transform(draw()))


def test_every_gradient_leaves_the_output_as_it_is_and_reaches_the_image(transform: Transform):
    expected = anew(transform, draw())
    assert (expected.shape != draw().shape) or not torch.equal(expected, draw())
    for choice in gradient_choices(transform):
        x = draw().requires_grad_()
        with gradient(transform, choice):
            out = anew(transform, x)
            (slope,) = torch.autograd.grad(out, x, torch.linspace(1, 2, out.numel()).reshape(out.shape))
        torch.testing.assert_close(out.detach(), expected)
        assert slope.shape == x.shape and bool(slope.isfinite().all()) and bool(slope.any()), choice


def test_bypassed_it_returns_the_image(transform: Transform):
    x = draw()
    with bypass([transform]):
        assert transform(x) is x
