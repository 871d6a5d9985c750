from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from sanact.attacks import CW, ILCM, PGD
from sanact.checks import ProbabilitiesWarning, check_inputs, check_logits, check_mode, gradient_of

X, Y = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
LOGITS = torch.tensor([[5.0, 0.0, -1.0]] * 4)


def test_a_model_in_evaluation_mode_or_any_callable_passes():
    check_mode(nn.Sequential(nn.Dropout()).eval(), "here")
    check_mode(lambda x: x, "here")


def test_training_mode_anywhere_is_named():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.Dropout(), nn.ReLU())).eval()
    model[1][0].train()
    with pytest.raises(
        ValueError, match=r"evaluation mode, got training mode in '1\.0' and 0 other .*model\.eval\(\) \(here\)"
    ):
        check_mode(model, "here")
    with pytest.raises(ValueError, match="training mode in 'Sequential' and 4 other modules"):
        check_mode(model.train(), "here")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_images_of_any_float_type_pass(dtype):
    check_inputs(X.to(dtype), Y, "here")
    check_inputs(X[:0].to(dtype), Y[:0], "here")
    check_inputs(X.round().to(dtype), Y.to(torch.uint8), "here")


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (X.long(), Y, TypeError, r"x must be of a float dtype, got torch\.int64"),
        (X > 0.5, Y, TypeError, r"x must be of a float dtype, got torch\.bool"),
        (X, Y.float(), TypeError, r"y must hold class indices, got torch\.float32"),
        (X, Y > 0, TypeError, r"y must hold class indices, got torch\.bool"),
        (X, Y[:3], ValueError, r"x must be \(N, C, H, W\) and y \(N,\), got \(4, 1, 3, 3\) and \(3,\)"),
        (X, torch.eye(4).long(), ValueError, r"got \(4, 1, 3, 3\) and \(4, 4\)"),
        (X[0, 0, 0], Y[:3], ValueError, r"got \(3,\) and \(3,\)"),
        (X.round() * 255, Y, ValueError, r"x must lie in \[0, 1\], got \[0, 255\]; normalization belongs"),
        (X.round() - 0.5, Y, ValueError, r"got \[-0\.5, 0\.5\]"),
        (X.index_fill(0, torch.tensor(2), torch.nan), Y, ValueError, r"got \[nan, nan\]"),
        (X.index_fill(0, torch.tensor(2), torch.inf), Y, ValueError, r"inf\]"),
    ],
)
def test_bad_examples(x, y, error, message):
    with pytest.raises(error, match=rf"{message}.*\(here\)"):
        check_inputs(x, y, "here")


def test_logits_pass_even_infinite_ones():
    check_logits(LOGITS, Y, "here")
    check_logits(torch.tensor([[5.0, 0.0, -torch.inf]] * 4), Y, "here")
    check_logits(LOGITS[:0], Y[:0], "here")


@pytest.mark.parametrize(
    ("logits", "y", "message"),
    [
        (LOGITS[0], Y, r"the model must return logits \(4, classes\), got \(3,\)"),
        (LOGITS[:2], Y, r"the model must return logits \(4, classes\), got \(2, 3\)"),
        (LOGITS[..., None], Y, r"the model must return logits \(4, classes\), got \(4, 3, 1\)"),
        (LOGITS.index_fill(0, torch.tensor([1, 2]), torch.nan), Y, "the model returned NaN logits for 2 of 4 examples"),
        (LOGITS, Y + 1, r"y must lie in 0\.\.2, got 1\.\.3"),
        (LOGITS, Y - 1, r"y must lie in 0\.\.2, got -1\.\.1"),
    ],
)
def test_bad_logits(logits, y, message):
    with pytest.raises(ValueError, match=rf"{message} \(here\)"):
        check_logits(logits, y, "here")


def test_probabilities_get_a_warning():
    with pytest.warns(ProbabilitiesWarning, match="probabilities where logits are due.*remove the softmax"):
        check_logits(LOGITS.softmax(1), Y, "here")


@pytest.mark.parametrize(
    "logits",
    [
        LOGITS,
        LOGITS.log_softmax(1),
        LOGITS.relu(),
        torch.cat([LOGITS[:3].softmax(1), LOGITS[3:].relu()]),
        torch.tensor([[1.2, -0.2, 0.0]] * 4),
        torch.ones(4, 2),
    ],
)
def test_what_are_no_probabilities_gets_none(logits):
    check_logits(logits, torch.zeros(4).long(), "here")


def test_probabilities_are_reported_once_a_run_whatever_meets_them():
    model = nn.Sequential(nn.Flatten(), nn.Softmax(1)).eval()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")
        for attack in (PGD(eps=0.01, steps=40, restarts=2, early_stop=False), ILCM(eps=0.01), CW(search_steps=2, steps=5)):
            for batch in X.split(2):
                attack(model, batch, torch.zeros(2).long())
    assert [warning.category for warning in heard] == [ProbabilitiesWarning]


def test_the_gradient_of_a_sum_is_that_of_each_example():
    point = torch.rand(4, 1, 3, 3, requires_grad=True)
    assert torch.equal(gradient_of(point.square().flatten(1).sum(1), point, "here"), 2 * point.detach())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda x, w: (x.detach() * w).flatten(1).sum(1), r"detached from its input: no gradient leads back.* \(here\)"),
        (lambda x, w: x.detach().flatten(1).sum(1), r"detached from its input"),
        (
            lambda x, w: (x * torch.tensor([1, 1, torch.nan, 1])[:, None, None, None]).flatten(1).sum(1),
            "NaN for 1 of 4 examples",
        ),
    ],
    ids=["a graph of weights only", "no graph", "nan"],
)
def test_no_gradient_is_an_error_and_not_a_zero(value, message):
    point, weight = torch.rand(4, 1, 3, 3, requires_grad=True), torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        gradient_of(value(point, weight), point, "here")
