from __future__ import annotations

import numpy as np
import pytest
import torch

from sanact import DenoisingBlock
from tests import reference

A = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MIXING = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def block(variant="median", kernel_size=3, mixing=MIXING) -> DenoisingBlock:
    made = DenoisingBlock(variant, kernel_size)
    made.made_for(len(mixing), A)
    with torch.no_grad():
        made.mixing.copy_(mixing)
    return made


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_median_mixed_and_added(kernel_size):
    filtered = [np.array([reference.median_filter(m, kernel_size) for m in maps]) for maps in A.numpy()]
    expected = [reference.denoise(m, f, MIXING.numpy()) for m, f in zip(A.numpy(), filtered, strict=True)]
    np.testing.assert_allclose(block("median", kernel_size)(A).detach().numpy(), np.array(expected), rtol=1e-9)


def test_nl_means_mixed_and_added():
    filtered = [np.array([reference.nl_means(m, 0.5 * m.std(), 3, 3) for m in maps]) for maps in A.numpy()]
    expected = [reference.denoise(m, f, MIXING.numpy()) for m, f in zip(A.numpy(), filtered, strict=True)]
    np.testing.assert_allclose(block("nl-means")(A).detach().numpy(), np.array(expected), rtol=1e-6)


def test_known_answer():
    doubled = block(mixing=torch.eye(3).double())
    constant = torch.full((1, 3, 4, 4), 2.0).double()
    assert torch.equal(doubled(constant), 2 * constant)
    impulse = torch.zeros(1, 3, 5, 5).double()
    impulse[0, 0, 2, 2] = 1
    assert torch.equal(doubled(impulse), impulse)  # a median removes it, so that nothing is added


def test_vectors_are_mixed_unit_by_unit():
    vectors = A[:, :, 0, 0]
    filtered = np.array([reference.median_filter(v[None], 3)[0] for v in vectors.numpy()])
    np.testing.assert_allclose(block()(vectors).detach().numpy(), vectors.numpy() + filtered @ MIXING.numpy().T, rtol=1e-9)


def test_it_begins_near_the_network_without_it_and_knows_whether_it_was_trained():
    made = DenoisingBlock(strength=0.01)
    made.made_for(3, A)
    assert made.untrained and not block().untrained
    assert float((made(A) - A).detach().abs().max()) <= 0.01 * float(A.abs().max())


def test_mixing_gets_its_gradient():
    made = block()
    assert torch.autograd.gradcheck(lambda mixing: torch.func.functional_call(made, {"mixing": mixing}, (A,)), (made.mixing,))


def test_one_that_was_never_attached_says_so():
    with pytest.raises(RuntimeError, match=r"attach it with sanact\.sanitize and train \(sanitizer 'denoise'\)"):
        DenoisingBlock()(A)


def test_trained_for_another_number_of_channels():
    with pytest.raises(ValueError, match=r"it was trained for \(3, 3\) strengths, here are 4 channels \(sanitizer 'denoise'\)"):
        block().made_for(4, A)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be an odd whole number ≥ 3, got 4"),
        ({"variant": "mean"}, "variant must be one of median, nl-means, got 'mean'"),
        ({"strength": 0}, "strength must be a positive number, got 0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=rf"{message}.*\(sanitizer 'denoise'\)"):
        DenoisingBlock(**arguments)
