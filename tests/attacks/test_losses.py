from __future__ import annotations

import numpy as np
import torch
from scipy.special import log_softmax

from sanact.attacks.losses import cross_entropy, margin

LOGITS = 5 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(0, 7, (20,), generator=torch.Generator().manual_seed(1))


def test_cross_entropy_is_that_of_scipy():
    expected = [-log_softmax(row)[label] for row, label in zip(LOGITS.numpy(), Y, strict=True)]
    np.testing.assert_allclose(cross_entropy(LOGITS, Y).numpy(), expected)


def test_margin_is_the_best_other_logit_less_the_own():
    expected = [
        max(value for i, value in enumerate(row) if i != label) - row[label]
        for row, label in zip(LOGITS.tolist(), Y.tolist(), strict=True)
    ]
    assert margin(LOGITS, Y).tolist() == expected


def test_margin_is_positive_where_misclassified():
    assert torch.equal(margin(LOGITS, Y) > 0, LOGITS.argmax(1) != Y)


def test_margin_has_gradients_plus_and_minus_one():
    logits = torch.tensor([[1.0, 4.0, 3.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(margin(logits, torch.tensor([1])).sum(), logits)
    assert gradient.tolist() == [[0.0, -1.0, 1.0]]
