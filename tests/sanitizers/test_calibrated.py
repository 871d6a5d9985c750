"""What sanitizers that need clean data share."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from sanact import SANITIZERS, Mask, MeanSparse
from sanact.sanitizers.calibrated import Calibrated

A = 2 + torch.randn(6, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(params=[Mask(0.5, "calibrated"), MeanSparse(0.5)], ids=repr)
def sanitizer(request: pytest.FixtureRequest) -> Calibrated:
    return copy.deepcopy(request.param)


def statistics(sanitizer: Calibrated, activation: torch.Tensor) -> list[np.ndarray]:
    """Mean and standard deviation over all but the second dimension."""
    values = sanitizer.measured(activation).transpose(0, 1).flatten(1).numpy()
    return [values.mean(1), values.std(1)]


def found(sanitizer: Calibrated) -> list[np.ndarray]:
    assert sanitizer.mean is not None and sanitizer.std is not None
    return [sanitizer.mean.numpy(), sanitizer.std.numpy()]


@pytest.mark.parametrize("sizes", [[6], [1, 5], [2, 2, 2]], ids=str)
def test_statistics_are_those_of_all_batches_together(sanitizer, sizes):
    sanitizer.calibrate(A.float().split(sizes))
    np.testing.assert_allclose(found(sanitizer), statistics(sanitizer, A), rtol=1e-6)
    sanitizer.calibrate([A.flatten(1)])
    np.testing.assert_allclose(found(sanitizer), statistics(sanitizer, A.flatten(1)), rtol=1e-6)


def test_channels_are_found_where_they_are(sanitizer):
    sanitizer.channels_last = True
    sanitizer.calibrate([A.permute(0, 2, 3, 1)])
    np.testing.assert_allclose(found(sanitizer), statistics(sanitizer, A), rtol=1e-6)


def test_copies_and_saved_weights_carry_what_was_seen(sanitizer):
    sanitizer.calibrate([A])
    again = SANITIZERS[sanitizer.name](**{key: value for key, value in sanitizer.config.items() if key != "name"})
    again.load_state_dict(sanitizer.state_dict())
    for same in (again, copy.deepcopy(sanitizer), pickle.loads(pickle.dumps(sanitizer))):
        assert torch.equal(same(A), sanitizer(A)) and not torch.equal(same(A), A)


def test_without_data_it_says_what_to_do(sanitizer):
    assert sanitizer.needs_data
    with pytest.raises(RuntimeError, match=rf"sanact\.calibrate\(defended, images\) \(sanitizer '{sanitizer.name}'\)"):
        sanitizer(A)
    with pytest.raises(ValueError, match=f"needs at least one activation, got none .*{sanitizer.name}"):
        sanitizer.calibrate([])


def test_only_those_that_measure_need_data():
    needs = {name for name, kind in SANITIZERS.items() if kind().needs_data}
    assert needs == {"mean-sparse"}
