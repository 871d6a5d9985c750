"""What every sanitizer in SANITIZERS must do, whatever it computes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from sanact import sanitize
from sanact.gradients import gradient, gradient_choices
from sanact.sanitizers import (
    ASH,
    KWTA,
    SANITIZERS,
    DenoisingBlock,
    Mask,
    MedianFilter,
    NonLocalMeans,
    Sanitizer,
    SmoothMask,
    SoftShrink,
    bypass,
)

ALL: list[Sanitizer] = [
    *(kind() for kind in SANITIZERS.values()),
    *(Mask(s, r) for s, r in [(0.4, "fixed"), (0.2, "max_all"), (0.6, "quantile"), (0.3, "mean_std")]),  # type: ignore[arg-type]
    MedianFilter(5),
    Mask(0.3, "calibrated"),
    NonLocalMeans(0.7, patch_size=5, window_size=3, unit="absolute"),
    KWTA(0.5, over="map"),
    *(ASH(40, variant) for variant in ("p", "b")),  # type: ignore[arg-type]
    SmoothMask(0.3, learnable=True),
    SoftShrink(learnable=True),
    DenoisingBlock("nl-means"),
]
LOOKS_AT_ALL = ["Mask(strength=0.2, reading='max_all')", "KWTA(share=0.2, over='volume')", "SAP", "ASH"]
CHANGES_CONSTANTS = ["SAP", "ASH(percentile=65.0, variant='s')", "SoftShrink", "DenoisingBlock"]
SHAPES = [(2, 3, 9, 7), (2, 3, 2, 2), (2, 3, 1, 5), (2, 3, 1, 1), (2, 11)]


@pytest.fixture(params=ALL, ids=repr)
def sanitizer(request: pytest.FixtureRequest) -> Sanitizer:
    return prepared(copy.deepcopy(request.param))


def prepared(sanitizer: Sanitizer) -> Sanitizer:
    """One that may be called like any other: it has seen data, and each call draws what a new copy would."""
    sanitizer.register_forward_pre_hook(prepare)
    return sanitizer


def prepare(sanitizer: Sanitizer, inputs: tuple[Tensor]) -> None:
    sanitizer.rewind()
    if inputs[0].ndim in (2, 4):
        channels = inputs[0].shape[-1 if sanitizer.channels_last else 1]
        sanitizer.calibrate([draw(64, channels)])
        sanitizer.made_for(channels, torch.empty(0))


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_keeps_shape_and_dtype_and_leaves_its_input_alone(sanitizer: Sanitizer, shape: tuple[int, ...], dtype: torch.dtype):
    a = draw(*shape, dtype=dtype)
    before = a.clone()
    out = sanitizer(a)
    assert out.shape == a.shape and out.dtype == dtype
    assert torch.equal(a, before)
    assert out.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_close_to_double(sanitizer: Sanitizer, dtype: torch.dtype):
    a = draw(2, 3, 9, 7, dtype=dtype)
    out, exact = sanitizer(a).double(), sanitizer(a.double())
    different = ~torch.isclose(out, exact, rtol=0.01, atol=0.02)
    assert different.double().mean() < 0.02  # an element at the very threshold may fall either way


def test_runs_under_autocast(sanitizer: Sanitizer):
    a = draw(2, 3, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sanitizer(a.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient_is_that_of_finite_differences(sanitizer: Sanitizer, shape: tuple[int, ...]):
    if sanitizer.randomized:
        pytest.skip("says which gradient it has instead")
    assert torch.autograd.gradcheck(sanitizer, (draw(*shape).requires_grad_(),), atol=1e-6)


def test_memory_layout_does_not_matter(sanitizer: Sanitizer):
    a = draw(2, 4, 9, 7)
    expected = sanitizer(a)
    strided = torch.stack([a, -a], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    for same in (a.contiguous(memory_format=torch.channels_last), strided, a.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(sanitizer(same), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_stand_in_gives_its_gradient_and_leaves_the_output_alone(sanitizer: Sanitizer, shape: tuple[int, ...]):
    a, direction = draw(*shape), draw(*shape).flip(-1)
    maps = a if len(shape) == 4 and shape[2:] != (1, 1) else a.reshape(shape[0], 1, 1, shape[1])
    exact = sanitizer(a)
    stand_ins = {"identity": lambda maps: maps} | sanitizer.surrogates
    assert ["exact", *stand_ins] == gradient_choices(sanitizer) and len(stand_ins) > 1
    for choice, stand_in in stand_ins.items():
        here, there = a.clone().requires_grad_(), maps.clone().requires_grad_()
        with gradient(sanitizer, choice):
            out = sanitizer(here)
        assert torch.equal(out.view(torch.int64), exact.view(torch.int64)), choice  # bit for bit
        (found,) = torch.autograd.grad(out, here, direction)
        (expected,) = torch.autograd.grad(stand_in(there), there, direction.reshape(maps.shape))
        torch.testing.assert_close(found, expected.reshape(shape), msg=choice)
        assert bool(found.any()) and (choice != "identity" or torch.equal(found, direction)), choice


def test_a_stand_in_passes_a_gradient_where_the_sanitizer_interferes(sanitizer: Sanitizer):
    a = draw(2, 3, 9, 7)
    changed = sanitizer(a) != a
    for choice in gradient_choices(sanitizer)[1:]:
        here = a.clone().requires_grad_()
        with gradient(sanitizer, choice):
            (found,) = torch.autograd.grad(sanitizer(here).sum(), here)
        assert bool((found[changed] != 0).all()), choice


def test_examples_do_not_influence_each_other(sanitizer: Sanitizer):
    a = draw(5, 3, 9, 7)
    b = torch.cat([5 * a[:2], a[2:3], a[3:].flip(0)])
    torch.testing.assert_close(sanitizer(b)[2], sanitizer(a)[2])


def test_neither_size_nor_order_of_a_batch_matters(sanitizer: Sanitizer):
    if sanitizer.randomized:
        pytest.skip("each example has draws of its own, in the order in which they come")
    a = draw(5, 3, 9, 7)
    torch.testing.assert_close(sanitizer(a)[2:3], sanitizer(a[2:3]))
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(sanitizer(a[order]), sanitizer(a)[order])


def test_maps_do_not_influence_each_other(sanitizer: Sanitizer):
    a = draw(2, 5, 9, 7)
    b = torch.cat([3 * a[:, :3], a[:, 3:4], a[:, 4:] ** 3], 1)
    assert torch.allclose(sanitizer(a)[:, 3], sanitizer(b)[:, 3]) != repr(sanitizer).startswith(tuple(LOOKS_AT_ALL))


@pytest.mark.parametrize("shape", [(0, 3, 9, 7), (0, 11)], ids=str)
def test_takes_an_empty_batch(sanitizer: Sanitizer, shape: tuple[int, ...]):
    assert sanitizer(torch.empty(shape)).shape == shape


def test_a_constant_map_stays_as_it_is(sanitizer: Sanitizer):
    a = torch.full((2, 3, 9, 7), 2.5)
    assert torch.allclose(sanitizer(a), a) != repr(sanitizer).startswith(tuple(CHANGES_CONSTANTS))


DEGENERATE: dict[str, Tensor] = {
    "zeros": torch.zeros(2, 3, 5, 5),
    "constant": torch.full((2, 3, 5, 5), 2.5),
    "negative": torch.full((2, 3, 5, 5), -2.5),
    "one map constant": torch.cat([draw(2, 2, 5, 5, dtype=torch.float32), torch.zeros(2, 1, 5, 5)], 1),
    "one element in a map": torch.zeros(2, 3, 5, 5).index_fill(3, torch.tensor([2]), 1.0),
    "one element": torch.zeros(2, 3, 1, 1),
    "one row": torch.zeros(2, 3, 1, 5),
    "vectors": torch.zeros(2, 7),
    "a vector of one": torch.ones(2, 1),
    "tiny": torch.full((2, 3, 5, 5), 1e-42),
    "tiny and different": 1e-30 * draw(2, 3, 5, 5, dtype=torch.float32),
    "huge": 1e10 * draw(2, 3, 5, 5, dtype=torch.float32),
}


@pytest.mark.parametrize("a", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_outputs_and_gradients_of_degenerate_maps_are_finite(sanitizer: Sanitizer, a: Tensor):
    for choice in gradient_choices(sanitizer):
        here = a.clone().requires_grad_()
        with gradient(sanitizer, choice):
            out = sanitizer(here)
        (found,) = torch.autograd.grad(out.sum(), here)
        assert out.isfinite().all() and found.isfinite().all(), choice


def test_an_infinite_element_spoils_no_other_example(sanitizer: Sanitizer):
    a = draw(3, 3, 5, 5, dtype=torch.float32)
    spoilt = a.clone()
    spoilt[0, 1, 2, 2] = torch.inf
    for choice in gradient_choices(sanitizer):
        found = []
        for maps in (a, spoilt):
            here = maps.clone().requires_grad_()
            with gradient(sanitizer, choice):
                found.append(torch.autograd.grad(sanitizer(here)[1:].sum(), here)[0][1:])
        torch.testing.assert_close(found[0], found[1], msg=choice)


def test_does_something(sanitizer: Sanitizer):
    a = draw(2, 3, 9, 7)
    assert not torch.equal(sanitizer(a), a)


def test_pooled_maps_are_a_vector(sanitizer: Sanitizer):
    a = draw(2, 11)
    torch.testing.assert_close(sanitizer(a[:, :, None, None])[:, :, 0, 0], sanitizer(a))


def test_channels_last_activations_of_a_linear_layer(sanitizer: Sanitizer):
    a = draw(2, 4, 9, 7)
    expected = sanitizer(a).permute(0, 2, 3, 1)
    sanitizer.channels_last = True
    torch.testing.assert_close(sanitizer(a.permute(0, 2, 3, 1)), expected)


def test_bypass_returns_the_input_and_ends_with_the_block(sanitizer: Sanitizer):
    a = draw(2, 3, 9, 7)
    with pytest.raises(KeyError), bypass([sanitizer]):
        assert torch.equal(sanitizer(a), a)
        raise KeyError
    assert not torch.equal(sanitizer(a), a)


def test_config_makes_it_again(sanitizer: Sanitizer):
    config = sanitizer.config
    again = prepared(SANITIZERS[config.pop("name")](**config))
    assert again.config == sanitizer.config
    a = draw(2, 3, 9, 7)
    assert torch.equal(pickle.loads(pickle.dumps(sanitizer))(a), again(a))


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 3, 4, 4, 4)], ids=str)
def test_refuses_another_rank_by_name(sanitizer: Sanitizer, shape: tuple[int, ...]):
    sanitizer.where = "layer7"
    with pytest.raises(ValueError, match=rf"\(N, C, H, W\) or \(N, F\), got .*sanitizer '{sanitizer.name}' on 'layer7'"):
        sanitizer(torch.rand(shape))


class Halved(Sanitizer):
    """A subclass without an __init__ of its own."""

    def sanitize(self, maps: Tensor) -> Tensor:
        return maps / 2


class Scaled(Sanitizer):
    def __init__(self, factor: float = 3.0, *more: float) -> None:
        super().__init__()
        self.factor = factor


class Forgets(Sanitizer):
    def __init__(self, factor: float = 3.0) -> None:
        super().__init__()


def test_a_subclass_without_arguments_has_none_in_its_configuration():
    assert Halved().config == {"name": "Halved"} and repr(Halved()) == "Halved()"
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(18, 2)).eval()
    x = torch.rand(2, 1, 5, 5)
    defended = sanitize(net, Halved(), example=x)
    torch.testing.assert_close(defended(x), net[3](net[:3](x) / 2))
    assert defended.plan == {"*": {"name": "Halved"}}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Scaled, r"__init__ must name its arguments, so that they can be saved, got \*more: ?'?float'? \(Scaled\)"),
        (Forgets, r"every argument of __init__ must be an attribute of the same name, 'factor' is not \(Forgets\)"),
    ],
)
def test_a_configuration_that_cannot_be_saved_is_a_clear_error(kind: type[Sanitizer], message: str):
    with pytest.raises(TypeError, match=message):
        _ = kind().config


def test_refuses_integers(sanitizer: Sanitizer):
    with pytest.raises(TypeError, match=r"float dtype, got torch\.int64"):
        sanitizer(torch.ones(2, 3, 4, 4, dtype=torch.int64))
