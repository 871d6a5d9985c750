"""The compiled kernels beside plain torch: the same results and gradients, and nobody who calls them sees a difference."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from sanact import Mask, MedianFilter, NonLocalMeans, Sanitizer
from sanact.gradients import gradient
from sanact.kernels import library, plain_torch

pytestmark = pytest.mark.skipif(library._library()[0] is None, reason="needs the compiled kernels, and so a C compiler")

EXACT: list[Sanitizer] = [
    *(Mask(0.3, "max"), Mask(0.25, "max_all"), Mask(0.6, "quantile"), Mask(0.0, "quantile"), Mask(0.97, "quantile")),
    *(MedianFilter(3), MedianFilter(5), MedianFilter(7)),
]
ROUNDED: list[Sanitizer] = [
    NonLocalMeans(),
    NonLocalMeans(0.5, 3, 3),
    NonLocalMeans(0.7, 5, 5, unit="absolute"),
    NonLocalMeans(0.4, 1, 9),
    NonLocalMeans(0.4, 7, 5, unit="absolute"),
]
SHAPES = [
    (2, 3, 9, 7),
    (2, 3, 2, 2),
    (2, 3, 1, 5),
    (2, 3, 5, 1),
    (2, 33, 4, 4),
    (3, 16, 8, 8),
    (1, 1, 17, 12),
    (2, 37),
    (20, 30),
]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda a: a,
    "channels-last": lambda a: a.contiguous(memory_format=torch.channels_last) if a.ndim == 4 else a,
    "every other": lambda a: torch.stack([a, -a], -1)[..., 0],
    "transposed": lambda a: a.transpose(-2, -1).contiguous().transpose(-2, -1),
    "expanded": lambda a: a[:1].expand(a.shape),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spoilt(a: Tensor) -> Tensor:
    """With some elements infinite or NaN, each in one example of two."""
    a = a.clone()
    a.view(-1)[1::29] = torch.inf
    a.view(-1)[2::31] = torch.nan
    a.view(-1)[3::37] = -torch.inf
    return a


VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "any": lambda a: a,
    "many ties": lambda a: (2 * a).round().relu(),
    "spoilt": spoilt,
    "far from zero": lambda a: 100 + a,
}


def both(sanitizer: Sanitizer, a: Tensor, choice: str = "exact") -> tuple[Tensor, Tensor]:
    """The output, and the gradient for a random direction."""
    here = a.detach().requires_grad_()
    with gradient(sanitizer, choice):
        out = sanitizer(here)
    (slope,) = torch.autograd.grad(out, here, draw(*a.shape, seed=1).to(a.dtype))
    return out.detach(), slope


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called in the library, from now on."""
    names: list[str] = []
    call = library.call
    for name in ("mask", "median", "nl_means"):
        module = sys.modules[f"sanact.kernels.{name}"]
        monkeypatch.setattr(module, "call", lambda function, *given: (names.append(function.__name__), call(function, *given)))
    return names


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sanitizer", EXACT, ids=repr)
def test_masks_and_medians_agree_to_the_bit(sanitizer, shape, layout, values, monkeypatch):
    a = layout(values(draw(*shape)))
    with plain_torch():
        expected, slope = both(sanitizer, a)
    called = calls(monkeypatch)
    found, found_slope = both(sanitizer, a)
    assert len(called) == 2
    assert torch.equal(sanitizer(a).nan_to_num(7), expected.nan_to_num(7))
    for ours, theirs in ((found, expected), (found_slope, slope)):
        assert torch.equal(ours.isnan(), theirs.isnan())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0 if isinstance(sanitizer, Mask) else 1e-6, equal_nan=True)
    assert torch.equal(found.nan_to_num(7), expected.nan_to_num(7))
    if isinstance(sanitizer, Mask):  # the signs of zeros as well
        assert torch.equal(found.signbit(), expected.signbit()) and torch.equal(found_slope.signbit(), slope.signbit())


@pytest.mark.parametrize("shape", [(3, 5, 9, 7), (3, 8)], ids=str)
def test_a_calibrated_mask_agrees_to_the_bit(shape):
    mask = Mask(0.3, "calibrated")
    mask.calibrate([draw(64, shape[1])])
    for a in (draw(*shape), spoilt(draw(*shape))):
        with plain_torch():
            expected = both(mask, a)
        for found, one in zip(both(mask, a), expected, strict=True):
            torch.testing.assert_close(found, one, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(RuntimeError, match="must match"):
        mask(draw(3, 7, 2, 2))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("strength", [-0.5, 0.5])
def test_a_threshold_by_mean_and_deviation_agrees_but_for_elements_at_the_threshold(strength, shape, layout):
    a, mask = layout(draw(*shape)), Mask(strength, "mean_std")
    exact = mask._threshold(a.double() if a.ndim == 4 else a.double()[:, None, None])
    near = ((a.double().abs().reshape(exact.shape[0], exact.shape[1], -1) / exact.flatten(2) - 1).abs() < 1e-5).reshape(a.shape)
    assert near.float().mean() < 0.01
    with plain_torch():
        expected = both(mask, a)
    for found, one in zip(both(mask, a), expected, strict=True):
        assert torch.equal(found[~near], one[~near])


@pytest.mark.parametrize("values", [VALUES["any"], VALUES["many ties"]], ids=["any", "many ties"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sanitizer", ROUNDED, ids=repr)
def test_non_local_means_are_those_of_double_precision(sanitizer, shape, layout, values, monkeypatch):
    a = layout(values(draw(*shape)))
    called = calls(monkeypatch)
    for choice in ("exact", "constant weights"):
        expected, slope = both(sanitizer, a.double(), choice)
        found, found_slope = both(sanitizer, a, choice)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-6)
        torch.testing.assert_close(found_slope.double(), slope, rtol=0, atol=2e-5 * float(slope.abs().max()))
    assert len(called) == 4
    torch.testing.assert_close(sanitizer(a), found, rtol=0, atol=0)


@pytest.mark.parametrize("sanitizer", ROUNDED, ids=repr)
def test_non_local_means_are_spoilt_where_those_of_plain_torch_are(sanitizer):
    a = draw(4, 3, 12, 12)
    a[0, 0, 3, 4], a[1, 1, 0, 0], a[2, 2, 7, 11] = torch.inf, torch.nan, -torch.inf
    with plain_torch():
        expected = both(sanitizer, a)
    for found, one in zip(both(sanitizer, a), expected, strict=True):
        assert one.isnan().any() and torch.equal(found.isnan(), one.isnan())
        torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("sanitizer", ROUNDED, ids=repr)
def test_a_mean_far_above_the_deviation_costs_no_accuracy(sanitizer):
    a = 100 + draw(2, 3, 12, 12)
    exact = both(sanitizer, a.double())
    with plain_torch():
        plain = both(sanitizer, a)
    for found, one, best in zip(both(sanitizer, a), plain, exact, strict=True):
        assert (found - best).abs().max() <= 2 * (one - best).abs().max() + 1e-7


@pytest.mark.parametrize("sanitizer", [*EXACT, *ROUNDED, Mask(0.3, "mean_std")], ids=repr)
def test_an_example_has_the_same_bits_in_any_batch_and_on_any_number_of_threads(sanitizer, two_threads):
    a = draw(40, 19, 26, 26)
    found = both(sanitizer, a)
    torch.set_num_threads(1)
    for one, same in zip(found, both(sanitizer, a), strict=True):
        assert torch.equal(one, same)
    alone = sanitizer(a[17:18])
    assert torch.equal(alone, found[0][17:18])
    assert torch.equal(sanitizer(a[17:18, 5:6]), found[0][17:18, 5:6]) or repr(sanitizer).endswith("reading='max_all')")


@pytest.mark.parametrize("sanitizer", [*EXACT, *ROUNDED], ids=repr)
def test_the_memory_format_is_kept(sanitizer):
    a = draw(2, 20, 6, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    out = sanitizer(a)
    (slope,) = torch.autograd.grad(out.sum(), a)
    for one in (out, slope, sanitizer(a.detach())):
        assert one.is_contiguous(memory_format=torch.channels_last) and not one.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sanitizer", [MedianFilter(5), NonLocalMeans()], ids=repr)
def test_half_precision_goes_by_way_of_single(sanitizer, dtype, monkeypatch):
    a = draw(2, 3, 9, 7).to(dtype)
    with plain_torch():
        expected = sanitizer(a)
    called = calls(monkeypatch)
    torch.testing.assert_close(sanitizer(a), expected, rtol=torch.finfo(dtype).eps, atol=0)
    assert len(called) == 1


@pytest.mark.parametrize("sanitizer", [*EXACT, *ROUNDED], ids=repr)
def test_plain_torch_takes_what_the_kernels_cannot(sanitizer, monkeypatch):
    called = calls(monkeypatch)
    a = draw(2, 3, 9, 7)
    sanitizer(a.double())
    sanitizer(a[:0])
    assert sanitizer(a.to("meta")).shape == a.shape
    with plain_torch():
        sanitizer(a)
    with monkeypatch.context() as patch:
        patch.setattr(library, "LARGEST", 62)
        sanitizer(a)
    assert called == []
    sanitizer(a)
    assert len(called) == 1


@pytest.mark.parametrize("sanitizer", [*EXACT, *ROUNDED], ids=repr)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*")
def test_whatever_traces_sees_operations_and_no_constant(sanitizer):
    a, other = draw(2, 3, 9, 7), draw(2, 3, 9, 7, seed=1)
    for traced in (make_fx(sanitizer)(a), torch.jit.trace(sanitizer, a)):
        torch.testing.assert_close(traced(other), sanitizer(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sanitizer", [*EXACT, *ROUNDED], ids=repr)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp", "twice"])
def test_transforms_do_what_they_do_in_plain_torch(sanitizer, transform):
    a = draw(2, 3, 9, 7)

    def result() -> Tensor | str:
        try:
            if transform == "grad":
                return torch.func.grad(lambda a: sanitizer(a).square().sum())(a)
            if transform == "vmap":
                return torch.func.vmap(sanitizer)(a[None])
            if transform == "jvp":
                with forward_ad.dual_level():
                    return forward_ad.unpack_dual(sanitizer(forward_ad.make_dual(a, draw(2, 3, 9, 7, seed=1)))).tangent
            here, direction = a.clone().requires_grad_(), draw(2, 3, 9, 7, seed=1).requires_grad_()
            (slope,) = torch.autograd.grad(sanitizer(here), here, direction, create_graph=True)
            return torch.autograd.grad(slope.square().sum() + direction.sum(), direction)[0]
        except RuntimeError:
            return "an error"

    with plain_torch():
        expected = result()
    found = result()
    assert type(found) is type(expected), (found, expected)
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_default_dtype_and_inference_mode_change_nothing():
    a = draw(2, 3, 9, 7)
    for sanitizer in (*EXACT, *ROUNDED):
        expected = sanitizer(a)
        torch.set_default_dtype(torch.float64)
        try:
            with torch.inference_mode():
                assert torch.equal(sanitizer(a), expected)
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("instructions", ["AVX2", "portable"])
def test_other_processors_agree_as_well(instructions):
    """The same tests, with the code for other processors chosen."""
    chosen = "import sanact.kernels as k; print(k.at_work())"
    environment = os.environ | {"SANACT_INSTRUCTIONS": instructions}
    said = subprocess.run([sys.executable, "-c", chosen], env=environment, capture_output=True, text=True, check=True).stdout
    if instructions not in said:
        pytest.skip(f"this processor has no {instructions}, or is none of x86: {said}")
    names = "to_the_bit or double_precision or spoilt or threshold or any_batch"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
