from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sanact import ASH
from tests import reference

A = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
VARIANTS = ["p", "b", "s"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("percentile", [0.1, 10, 65, 90, 99.9])
def test_formula_on_a_nonnegative_activation(percentile, variant):
    a = A.abs()
    expected = [reference.ash(maps, percentile, variant) for maps in a.numpy()]
    np.testing.assert_allclose(ASH(percentile, variant)(a).numpy(), np.array(expected), rtol=1e-12)


def test_known_answer():
    a = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    assert ASH(50, "p")(a).tolist() == [[[[0.0, 0.0]], [[3.0, 4.0]]]]
    assert ASH(50, "b")(a).tolist() == [[[[0.0, 0.0]], [[5.0, 5.0]]]]
    scaled = ASH(50, "s")(a)[0, 1, 0].tolist()
    assert scaled == [pytest.approx(3 * math.exp(10 / 7)), pytest.approx(4 * math.exp(10 / 7))]


def test_the_pruned_sum_is_made_up_for():
    torch.testing.assert_close(ASH(65, "b")(A.abs()).sum((1, 2, 3)), A.abs().sum((1, 2, 3)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_of_negative_elements_the_magnitude_counts_and_the_sign_is_kept(variant):
    torch.testing.assert_close(ASH(65, variant)(A), ASH(65, variant)(A.abs()) * A.sign())


@pytest.mark.parametrize("variant", VARIANTS)
def test_zeros_stay_zero(variant):
    a = (A - 1).relu()
    out = ASH(65, variant)(a)
    assert not out[a == 0].any() and bool((out[a > 0] > 0).all())
    assert not ASH(65, variant)(torch.zeros(2, 3, 4, 4)).any()


def test_zeros_do_not_count_as_survivors():
    assert ASH(25, "b")(torch.tensor([[0.0, 3.0, 0.0, 5.0]])).tolist() == [[0.0, 4.0, 0.0, 4.0]]


def test_ties_survive():
    a = torch.tensor([[1.0, 3.0, 3.0, 3.0]])
    assert ASH(75, "p")(a).tolist() == [[0.0, 3.0, 3.0, 3.0]]
    assert ASH(75, "b")(a).tolist() == [[0.0, pytest.approx(10 / 3), pytest.approx(10 / 3), pytest.approx(10 / 3)]]


def test_a_sum_beyond_half_precision():
    a = torch.full((1, 64, 40, 40), 4.0, dtype=torch.float16)
    torch.testing.assert_close(ASH(65, "s")(a), (a.float() * math.e).half())


@pytest.mark.parametrize("variant", VARIANTS)
def test_surrogates_by_hand(variant):
    a = torch.tensor([[[[1.0, 2.0, 4.0, 1.0]]]], dtype=torch.float64)  # τ = 2, T = 0.12
    scale = math.exp(8 / 6) if variant == "s" else 1.0
    stand_ins = ASH(50, variant).surrogates
    torch.testing.assert_close(stand_ins["sigmoid"](a), a / (1 + torch.exp((2 - a) / 0.12)) * scale)
    here = a.clone().requires_grad_()
    stand_ins["leaky"](here).sum().backward()
    torch.testing.assert_close(here.grad, scale * torch.tensor([[[[0.3, 1.0, 1.0, 0.3]]]]).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"percentile": 0}, r"percentile must be in \(0, 100\), got 0 \(sanitizer 'ash'\)"),
        ({"percentile": 100.0}, "got 100.0"),
        ({"percentile": float("nan")}, "got nan"),
        ({"variant": "r"}, "variant must be one of p, b, s, got 'r'"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        ASH(**arguments)
