from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from sanact.attacks.losses import cross_entropy, dlr, dlr_towards, likeliest_others, margin, targeted_dlr

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


def test_dlr_is_a_ratio_of_differences():
    expected = []
    for row, label in zip(LOGITS.tolist(), Y.tolist(), strict=True):
        down = sorted(row, reverse=True)
        other = max(value for i, value in enumerate(row) if i != label)
        expected.append(-(row[label] - other) / (down[0] - down[2]))
    np.testing.assert_allclose(dlr(LOGITS, Y).numpy(), expected)


def test_targeted_dlr_is_a_ratio_of_differences():
    expected = []
    target = (Y + 2) % 7
    for row, label, wanted in zip(LOGITS.tolist(), Y.tolist(), target.tolist(), strict=True):
        down = sorted(row, reverse=True)
        expected.append(-(row[label] - row[wanted]) / (down[0] - (down[2] + down[3]) / 2))
    np.testing.assert_allclose(targeted_dlr(LOGITS, Y, target).numpy(), expected)


def test_dlr_sees_neither_shift_nor_scale_and_has_the_sign_of_the_margin():
    torch.testing.assert_close(dlr(3 * LOGITS + 7, Y), dlr(LOGITS, Y))
    torch.testing.assert_close(targeted_dlr(3 * LOGITS + 7, Y, 6 - Y), targeted_dlr(LOGITS, Y, 6 - Y))
    assert torch.equal(dlr(LOGITS, Y) > 0, margin(LOGITS, Y) > 0)


@pytest.mark.parametrize("classes", [2, 3])
def test_dlr_of_few_classes_is_a_margin(classes):
    logits, y = LOGITS[:, :classes], Y % classes
    target = (y + 1) % classes
    lead = logits.gather(1, target[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]
    assert torch.equal(targeted_dlr(logits, y, target), lead)
    assert torch.equal(dlr(logits, y), margin(logits, y)) == (classes == 2)


def test_dlr_of_equal_logits_is_finite_and_has_a_gradient():
    for loss in (dlr(flat := torch.zeros(2, 5, requires_grad=True), Y[:2]), targeted_dlr(flat, Y[:2] % 5, Y[2:4] % 5)):
        (gradient,) = torch.autograd.grad(loss.sum(), flat)
        assert loss.isfinite().all() and gradient.isfinite().all() and gradient.any()


def test_likeliest_others_are_all_but_y_in_the_order_of_their_logits():
    for row, label, others in zip(LOGITS, Y.tolist(), likeliest_others(LOGITS, Y, 3).tolist(), strict=True):
        assert others == [i for i in row.argsort(descending=True).tolist() if i != label][:3]
    assert likeliest_others(LOGITS, Y, 99).shape == (20, 6)


def test_dlr_towards_a_class_ranks_the_others_alone():
    expected = []
    for row, target in zip(LOGITS.tolist(), Y.tolist(), strict=True):
        others = sorted((value for i, value in enumerate(row) if i != target), reverse=True)
        expected.append((row[target] - others[0]) / (others[0] - others[2]))
    np.testing.assert_allclose(dlr_towards(LOGITS, Y).numpy(), expected)
    assert torch.equal(dlr_towards(LOGITS, Y) > 0, LOGITS.argmax(1) == Y)
    assert torch.equal(dlr_towards(LOGITS[:, :3], Y % 3), -margin(LOGITS[:, :3], Y % 3))


@pytest.mark.parametrize("rank", range(7))
def test_dlr_towards_a_class_climbs_whatever_its_rank(rank):
    logits = LOGITS.clone().requires_grad_()
    target = LOGITS.argsort(1, descending=True)[:, rank]
    (gradient,) = torch.autograd.grad(dlr_towards(logits, target).sum(), logits)
    assert (gradient.gather(1, target[:, None]) > 0).all()
