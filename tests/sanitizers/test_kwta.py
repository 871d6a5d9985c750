from __future__ import annotations

import numpy as np
import pytest
import torch

from sanact import KWTA
from tests import reference

A = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("share", [0.001, 0.2, 0.29, 0.5, 0.99])
def test_formula(share):
    volume = [reference.k_wta(maps, share) for maps in A.numpy()]
    single = [[reference.k_wta(m, share) for m in maps] for maps in A.numpy()]
    np.testing.assert_array_equal(KWTA(share)(A).numpy(), np.array(volume))
    np.testing.assert_array_equal(KWTA(share, "map")(A).numpy(), np.array(single))


def test_known_answer():
    a = torch.tensor([[[[5.0, -9.0]], [[4.0, 3.0]]]])
    assert KWTA(0.5)(a).tolist() == [[[[5.0, 0.0]], [[4.0, 0.0]]]]
    assert KWTA(0.75)(a).tolist() == [[[[5.0, 0.0]], [[4.0, 3.0]]]]
    assert KWTA(0.5, "map")(-a).tolist() == [[[[0.0, 9.0]], [[0.0, -3.0]]]]
    assert KWTA(0.25)(torch.tensor([[1.0, 4.0, 2.0, 3.0]])).tolist() == [[0.0, 4.0, 0.0, 0.0]]


def test_at_least_one_wins_and_ties_stay():
    assert KWTA(0.01)(A).flatten(1).count_nonzero(1).tolist() == [1, 1]
    assert KWTA(0.2)(torch.tensor([[1.0, 3.0, 2.0, 3.0, 3.0]])).tolist() == [[0.0, 3.0, 0.0, 3.0, 3.0]]


def test_behind_a_relu_that_leaves_fewer_nothing_changes():
    a = (A - 1).relu()
    assert torch.equal(KWTA(0.5)(a), a) and not torch.equal(KWTA(0.05)(a), a)


def test_a_larger_share_keeps_more():
    assert [int(KWTA(share)(A[:1]).count_nonzero()) for share in (0.1, 0.5, 0.9)] == [9, 45, 81]


def test_nan_is_not_hidden():
    a = A.clone()
    a[0, 0, 0, 0] = float("nan")
    assert KWTA(0.2)(a)[0, 0, 0, 0].isnan()


def test_gradient_passes_to_the_winners():
    a = A.clone().requires_grad_()
    KWTA(0.2)(a).sum().backward()
    assert a.grad is not None and torch.equal(a.grad, (KWTA(0.2)(A) != 0).double())


def test_surrogates_by_hand():
    a = torch.tensor([[[[2.0, 1.0, -4.0]]]], dtype=torch.float64)  # τ = 2, T = 0.12
    stand_ins = KWTA(0.34).surrogates
    torch.testing.assert_close(stand_ins["sigmoid"](a), a / (1 + torch.exp((2 - a) / 0.12)))
    torch.testing.assert_close(stand_ins["moving sigmoid"](a), stand_ins["sigmoid"](a))
    torch.testing.assert_close(stand_ins["leaky"](a), a * torch.tensor([1, 0.3, 0.3]))
    gradients = []
    for name in ("sigmoid", "moving sigmoid"):
        here = a.clone().requires_grad_()
        stand_ins[name](here).sum().backward()
        gradients.append(here.grad)
    gate = torch.sigmoid((a - 2) / 0.12)
    slope = a * gate * (1 - gate) / 0.12
    torch.testing.assert_close(gradients[0], gate + slope)
    moved = torch.tensor([[[[1.0, 0.0, 0.0]]]]) * slope.sum()  # τ is the first element
    torch.testing.assert_close(gradients[1], gate + slope - moved)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0.0}, r"share must be in \(0, 1\), got 0.0 \(sanitizer 'k-wta'\)"),
        ({"share": 1}, "got 1"),
        ({"share": float("nan")}, "got nan"),
        ({"over": "channel"}, "over must be one of volume, map, got 'channel'"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        KWTA(**arguments)
