from __future__ import annotations

import pytest
import torch

from sanact.density import p_values


def test_counts_what_is_at_most_as_likely():
    generator = torch.Generator().manual_seed(0)
    reference, new = (torch.randint(0, 20, (n,), generator=generator).double() for n in (30, 50))  # with ties
    expected = [(sum(float(r) <= float(value) for r in reference) + 1) / 31 for value in new]
    torch.testing.assert_close(p_values(reference, new), torch.tensor(expected).double())


def test_refuses_the_share_it_promises():
    draws = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    p = p_values(draws[:10_000], draws[10_000:])
    for share in (0.05, 0.5):
        assert (p <= share).double().mean().item() == pytest.approx(share, abs=0.015)


def test_ends():
    p = p_values(torch.tensor([-3.0, -2.0, -1.0]), torch.tensor([-4.0, -1.5, torch.inf]))
    assert p.tolist() == [1 / 4, 3 / 4, 1.0]


@pytest.mark.parametrize(
    "reference, new, told",
    [
        (torch.zeros(0), torch.zeros(1), "at least one"),
        (torch.zeros(2, 2), torch.zeros(1), r"reference must have one dimension, got \(2, 2\)"),
        (torch.zeros(2), torch.tensor([torch.nan, 0.0]), "log_probs must not hold NaN, got 1 of 2"),
    ],
)
def test_bad_input(reference, new, told):
    with pytest.raises(ValueError, match=told):
        p_values(reference, new)
