from __future__ import annotations

import numpy as np
import pytest
import torch

from sanact.sanitizers import Mask
from tests import reference

A = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def thresholds(reading: str, strength: float, maps: np.ndarray) -> np.ndarray:
    """τ of each map of one example, from the definitions in the docstring."""
    magnitude = np.abs(maps)
    return np.array(
        [
            {
                "fixed": strength,
                "max": strength * m.max(),
                "max_all": strength * magnitude.max(),
                "quantile": np.sort(m, axis=None)[int(np.ceil(strength * m.size)) - 1],
                "mean_std": m.mean() + strength * m.std(),
            }[reading]
            for m in magnitude
        ]
    )


@pytest.mark.parametrize(
    ("reading", "strength"), [("fixed", 0.7), ("max", 0.3), ("max_all", 0.25), ("quantile", 0.6), ("mean_std", 0.5)]
)
def test_formula(reading, strength):
    expected = [
        [reference.mask(m, tau) for m, tau in zip(maps, thresholds(reading, strength, maps), strict=True)] for maps in A.numpy()
    ]
    np.testing.assert_array_equal(Mask(strength, reading)(A).numpy(), np.array(expected))


def test_known_answer():
    a = torch.tensor([[0.25, -1.0, 2.0, 0.5]])
    assert Mask(0.5)(a).tolist() == [[0.0, -1.0, 2.0, 0.0]]
    assert Mask(0.25, "max")(a).tolist() == [[0.0, -1.0, 2.0, 0.5]]


def test_default_is_the_reading_that_the_experiment_chose():
    assert Mask().config == {"name": "mask", "strength": 0.4, "reading": "fixed"}


def test_ties_stay_and_an_all_zero_map_is_left_alone():
    assert torch.equal(Mask(1.0, "max")(torch.full((1, 1, 2, 2), 3.0)), torch.full((1, 1, 2, 2), 3.0))
    assert torch.equal(Mask(0.3, "max")(torch.zeros(1, 1, 2, 2)), torch.zeros(1, 1, 2, 2))


def test_strength_0_keeps_everything():
    for reading in ("fixed", "max", "max_all", "quantile"):
        assert torch.equal(Mask(0.0, reading)(A), A)


def test_more_strength_drops_more():
    for reading in ("fixed", "max", "max_all", "quantile", "mean_std"):
        kept = [int(Mask(strength, reading)(A).count_nonzero()) for strength in (0.1, 0.4, 0.8)]
        assert kept[0] > kept[1] > kept[2]


def test_nan_is_not_hidden():
    a = A.clone()
    a[0, 0, 0, 0] = float("nan")
    assert Mask(0.5, "fixed")(a)[0, 0, 0, 0].isnan()


def test_calibrated_threshold_is_mean_and_deviation_of_each_channel():
    mask = Mask(0.5, "calibrated")
    mask.calibrate(A.split(1))
    magnitude = A.abs().transpose(0, 1).flatten(1).numpy()
    tau = magnitude.mean(1) + 0.5 * magnitude.std(1)
    expected = [[reference.mask(m, t) for m, t in zip(maps, tau, strict=True)] for maps in A.numpy()]
    np.testing.assert_array_equal(mask(A).numpy(), np.array(expected))


def test_calibrated_on_vectors():
    mask, a = Mask(0.0, "calibrated"), A.flatten(1)
    mask.calibrate([a])
    np.testing.assert_array_equal(mask(a).numpy(), torch.where(a.abs() >= a.abs().mean(0), a, 0).numpy())


def test_calibration_is_saved_with_the_weights():
    mask, again = Mask(0.5, "calibrated"), Mask(0.5, "calibrated")
    mask.calibrate([A])
    again.load_state_dict(mask.state_dict())
    assert torch.equal(again(A), mask(A))


def test_calibrated_without_data_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"sanact\.calibrate"):
        Mask(0.5, "calibrated")(A)


@pytest.mark.parametrize(
    ("strength", "reading", "message"),
    [
        (-0.1, "max", r"strength must be in \[0, 1\] for reading 'max', got -0.1"),
        (1.1, "max_all", "got 1.1"),
        (1.0, "quantile", r"in \[0, 1\)"),
        (float("nan"), "fixed", "got nan"),
        (0.3, "median", "reading must be one of fixed, max, max_all, quantile, mean_std, calibrated, got 'median'"),
    ],
)
def test_bad_input(strength, reading, message):
    with pytest.raises(ValueError, match=message):
        Mask(strength, reading)
