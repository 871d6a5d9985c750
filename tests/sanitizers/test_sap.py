from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sanact import SAP, sanitize
from tests import reference

A = torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SAME = torch.tensor([[0.5, -0.25, 0.125, 0.125]], dtype=torch.float64).expand(100_000, 4)  # p = |a|


@pytest.mark.parametrize("draws", [0.1, 1.0, 2.0])
def test_formula(draws):
    sanitizer = SAP(draws)
    (first,) = [sanitizer(A)]
    uniform = torch.rand(A.shape, generator=first_generator(sanitizer))
    expected = [reference.sap(a, round(90 * draws), u) for a, u in zip(A.numpy(), uniform.double().numpy(), strict=True)]
    np.testing.assert_allclose(first.numpy(), np.array(expected), rtol=1e-9)


def first_generator(sanitizer: SAP) -> torch.Generator:
    """A generator in the state that the sanitizer's had before its first draw."""
    fresh = SAP(sanitizer.draws, sanitizer.seed)
    fresh(A[:0])
    (generator,) = fresh._generators.values()
    return generator


@pytest.mark.parametrize("draws", [0.5, 1.0])
def test_elements_are_kept_as_often_as_r_draws_with_replacement_would(draws):
    r = round(4 * draws)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(r, SAME[0].abs().numpy(), size=len(SAME)) > 0
    kept = (SAP(draws)(SAME) != 0).numpy()
    np.testing.assert_allclose(kept.mean(0), drawn.mean(0), atol=0.01)
    np.testing.assert_allclose(kept.mean(0), 1 - (1 - SAME[0].abs().numpy()) ** r, atol=0.005)


def test_the_expected_output_is_the_input():
    torch.testing.assert_close(SAP()(SAME).mean(0), SAME[0], rtol=0.02, atol=0)


def test_known_answer():
    assert SAP()(torch.tensor([[0.0, 3.0, 0.0]])).tolist() == [[0.0, 3.0, 0.0]]  # p = q = 1
    assert SAP()(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2
    out = SAP(0.01)(torch.ones(1000, 2))  # r = 1: q = 1/2
    assert set(out.unique().tolist()) == {0.0, 2.0}


def test_gradient_is_that_of_the_kept_elements_with_q_held_constant():
    a = A.clone().requires_grad_()
    out = SAP()(a)
    out.sum().backward()
    assert a.grad is not None
    torch.testing.assert_close(a.grad, out.detach() / A)
    zero = torch.zeros(1, 3, requires_grad=True)
    SAP()(zero).sum().backward()
    assert zero.grad is not None and zero.grad.isfinite().all()


def test_each_call_draws_anew_and_the_same_seed_draws_the_same():
    one, same, other = SAP(), SAP(), SAP(seed=1)
    first, second = one(A), one(A)
    assert not torch.equal(first, second) and not torch.equal(other(A), first)
    assert torch.equal(same(A), first) and torch.equal(same(A), second)
    one.rewind()
    assert torch.equal(one(A), first)


@pytest.mark.parametrize("sizes", [[1, 3], [2, 2], [1, 1, 1, 1]], ids=str)
def test_an_example_has_the_same_draws_in_batches_of_any_size(sizes):
    sanitizer = SAP()
    torch.testing.assert_close(torch.cat([sanitizer(part) for part in A.split(sizes)]), SAP()(A))


def test_large_batches_are_worked_on_in_parts():
    a = A.repeat(40, 8, 8, 8)
    assert a[0].numel() * len(a) > 2**17
    sanitizer = SAP()
    torch.testing.assert_close(torch.cat([sanitizer(part) for part in a.split(1)]), SAP()(a))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))], ids=["copy", "pickle"])
def test_a_copy_goes_on_from_where_the_original_is(again):
    sanitizer = SAP()
    sanitizer(A)
    copied = again(sanitizer)
    assert torch.equal(copied(A), sanitizer(A)) and torch.equal(copied(A), sanitizer(A))


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    SAP()(A)
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_draw_independently():
    """Also where the sanitizer that was attached had been used before."""
    used = SAP()
    used(A)
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(90, 2))
    parts = sanitize(network.eval(), used, example=torch.zeros(1, 1, 9, 10)).sanitizers
    kept = [part(A) != 0 for part in parts.values()]
    assert list(parts) == ["0", "2"] and not torch.equal(*kept)


def test_compiled_it_draws_the_same_and_exported_it_still_draws():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).eval()
    x = torch.rand(1, 1, 2, 2, generator=torch.Generator().manual_seed(0)).expand(20_000, 1, 2, 2)
    torch.compiler.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(sanitize(network, SAP()))(x[:9]), sanitize(network, SAP())(x[:9]))
        program = torch.export.export(sanitize(network, SAP()), (x[:9],), dynamic_shapes=({0: torch.export.Dim("n")},)).module()
        assert not torch.equal(program(x[:9]), program(x[:9]))
        torch.testing.assert_close(program(x).mean(0), network(x[:1])[0], rtol=0, atol=0.01)


def test_says_that_it_draws():
    assert SAP().randomized


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": 0.0}, r"draws must be a positive number, got 0.0 \(sanitizer 'sap'\)"),
        ({"draws": float("inf")}, "got inf"),
        ({"seed": 0.5}, r"seed must be a whole number ≥ 0, got 0.5 \(sanitizer 'sap'\)"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        SAP(**arguments)
