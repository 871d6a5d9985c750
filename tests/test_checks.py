from __future__ import annotations

import warnings
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sanact.attacks import CW, ILCM, PGD
from sanact.checks import ProbabilitiesWarning, check_inputs, check_logits, check_mode, gradient_of, logits_of

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
        (X.numpy(), Y, TypeError, "x must be a tensor, got ndarray"),
        (X, Y.tolist(), TypeError, "y must be a tensor, got list"),
        (X, Y + 0j, TypeError, r"y must hold class indices, got torch\.complex64"),
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
    with pytest.warns(ProbabilitiesWarning, match="probabilities in place of logits.*remove the softmax"):
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
    attacks = (PGD(eps=0.01, steps=40, restarts=2, early_stop=False), ILCM(eps=0.01), CW(search_steps=2, steps=5))

    def attack_all(model: nn.Module) -> None:
        for attack in attacks:
            for batch in X.split(2):
                attack(model, batch, torch.zeros(2).long())

    attack_all(nn.Flatten().eval())  # modules that are imported meanwhile make Python forget what it has shown
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")
        attack_all(nn.Sequential(nn.Flatten(), nn.Softmax(1)).eval())
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


Output = namedtuple("Output", "scores features")


@pytest.mark.parametrize(
    ("output", "came"),
    [
        ((LOGITS, X), "got a tuple of 2; return the logits alone"),
        ([LOGITS], "got a list of 1; return the logits alone"),
        ({"scores": LOGITS, "aux": X}, "got a dict with 'scores', 'aux'; return its logits alone"),
        (Output(LOGITS, X), "got a Output of 2; return the logits alone"),
        (SimpleNamespace(logits=LOGITS), "got SimpleNamespace; return the logits alone"),
        (LOGITS.numpy(), "got ndarray"),
        (None, "got NoneType"),
        (0.5, "got float"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_tensor_is_named(output, came):
    with pytest.raises(TypeError, match=rf"the model must return a tensor of logits \(4, classes\), {came} \(here\)"):
        check_logits(output, Y, "here")


@pytest.mark.parametrize("logits", [LOGITS.long(), LOGITS > 0, LOGITS + 0j], ids=lambda logits: str(logits.dtype))
def test_logits_are_floats(logits):
    with pytest.raises(TypeError, match=rf"must return logits of a float dtype, got {logits.dtype} \(here\)"):
        check_logits(logits, Y, "here")


def test_logits_are_where_the_images_are():
    with pytest.raises(ValueError, match="must return logits on cpu, where x and y are, got meta"):
        check_logits(LOGITS.to("meta"), Y, "here")
    with pytest.raises(ValueError, match="x and y must be on one device, got meta and cpu"):
        check_inputs(X.to("meta"), Y, "here")


@pytest.mark.parametrize("shape", [(4, 1), (4, 0), (4,)], ids=str)
def test_with_one_logit_nothing_can_be_misclassified(shape):
    with pytest.raises(
        ValueError, match=r"two logits or more .*, got \(4,.*\): with a single column nothing .*torch\.cat.*\(here\)"
    ):
        check_logits(torch.zeros(shape), torch.zeros(4, dtype=torch.long), "here")


@pytest.mark.parametrize(
    ("row", "message"), [([1.0, torch.inf, 0.0], r"\+inf logits for 1 of 4"), ([-torch.inf] * 3, "only -inf logits for 1 of 4")]
)
def test_infinite_logits_that_mean_nothing(row, message):
    with pytest.raises(ValueError, match=f"the model returned {message} examples"):
        check_logits(torch.cat([LOGITS[:3], torch.tensor([row])]), Y, "here")


def test_nan_of_an_attack_is_not_blamed_on_the_model():
    def model(x):
        return x.flatten(1)[:, :3]

    with pytest.raises(ValueError, match="the attack itself moved 1 of 4 examples to NaN or infinity"):
        logits_of(model, X.index_fill(0, torch.tensor(2), torch.nan), Y, "here")
    with pytest.raises(ValueError, match="the model returned NaN logits for 4 of 4"):
        logits_of(lambda x: model(x) * torch.nan, X, Y, "here")


def test_a_model_may_write_into_what_it_is_given_and_still_be_differentiated():
    point = X.clone().requires_grad_()
    logits = logits_of(lambda x: x.sub_(0.5).mul_(4).flatten(1)[:, :3], point, Y, "here")
    assert torch.equal(point.detach(), X) and torch.equal(logits.detach(), (4 * (X - 0.5)).flatten(1)[:, :3])
    assert set(gradient_of(logits.sum(1), point, "here").flatten(1)[0].tolist()) == {0.0, 4.0}


def test_logits_of_half_precision_come_back_in_float32():
    assert logits_of(lambda x: LOGITS.half(), X, Y, "here").dtype == torch.float32
    assert logits_of(lambda x: LOGITS.double(), X, Y, "here").dtype == torch.float64


def test_classes_left_out_come_back_finite_and_last_without_a_gradient():
    left_out = torch.tensor([[False, False, True], [True, False, False], [False, False, False], [False, True, True]])
    point = LOGITS.clone().requires_grad_()
    logits = logits_of(lambda x: x.masked_fill(left_out, -torch.inf), point, torch.zeros(4).long(), "here")
    assert logits.isfinite().all() and torch.equal(logits[~left_out], LOGITS[~left_out])
    for row, out in zip(logits, left_out, strict=True):
        assert not out.any() or row[out].max() < row[~out].min() - 9000
    assert torch.equal(gradient_of(logits.sum(1), point, "here"), 1.0 - left_out.float())


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (
            nn.Linear(9, 3),
            X.flatten(1).double(),
            r"x is torch\.float64, which the model whose weights are torch\.float32 .*convert x, or",
        ),
        (nn.Linear(9, 3).double(), X.flatten(1), r"x is torch\.float32, which the model whose weights are torch\.float64 "),
        (nn.Linear(9, 3).half(), X.flatten(1), r"whose weights are torch\.float16 .*; let the model convert its input"),
        (lambda x: x @ torch.rand(9, 3), X.flatten(1).double(), r"x is torch\.float64, which the model does not take"),
    ],
    ids=["float64", "float32", "half", "function"],
)
def test_another_dtype_than_the_model_takes_is_named(model, x, message):
    with pytest.raises(TypeError, match=message):
        logits_of(model, x, Y, "here")


def test_other_errors_inside_a_model_are_its_own():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        logits_of(nn.Linear(7, 3), X.flatten(1), Y, "here")


def test_inference_mode_is_named():
    with torch.inference_mode():
        made = nn.Sequential(nn.Linear(9, 3)).eval()
    with pytest.raises(ValueError, match=r"the model's '0\.weight' was made in torch\.inference_mode.*\(here\)"):
        check_mode(made, "here")
    point = X.flatten(1).requires_grad_()
    with pytest.raises(ValueError, match="weights were made in torch.inference_mode"):
        logits_of(lambda x: made(x), point, Y, "here")
    with pytest.raises(ValueError, match="the model computes in torch.inference_mode"):
        logits_of(torch.inference_mode()(nn.Linear(9, 3)), point, Y, "here")
    with torch.no_grad():
        logits_of(torch.inference_mode()(nn.Linear(9, 3)), point, Y, "here")


def test_what_cannot_be_called_is_no_model():
    with pytest.raises(TypeError, match=r"model must be a module or a function, images → logits, got str \(here\)"):
        check_mode("resnet", "here")


def test_images_a_rounding_outside_pass_and_others_are_shown_to_the_last_digit():
    x = X.clone()
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 1 + 1.2e-7, -3e-8
    check_inputs(x, Y, "here")
    x[0, 0, 0, 0] = 1.00001
    with pytest.raises(ValueError, match=r"got \[-2\.9\d+e-08, 1\.0000100\d*\]; .*x\.clamp\(0, 1\)"):
        check_inputs(x, Y, "here")


def test_an_infinite_entry_counts_as_much_as_the_largest_finite_one():
    point = torch.tensor([[0.0, 0.25, 1.0], [0.0, 0.0, 0.0], [0.25, 1.0, 0.01]], requires_grad=True)
    gradient = gradient_of((point.sqrt() * torch.tensor([-1.0, 1.0, 2.0])).sum(1), point, "here")
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [-1.0, 0.5, 10.0]]))


def test_huge_finite_gradients_stay_as_they_are():
    point = torch.rand(2, 4, requires_grad=True)
    assert (gradient_of((3e38 * point).sum(1), point, "here") == 3e38).all()


def test_nan_in_a_gradient_is_traced_to_the_model_or_the_loss():
    point = torch.zeros(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match="NaN for 2 of 2 examples, from the model's backward pass"):
        gradient_of((0 * point.sqrt()).sum(1), point, "here")
    with pytest.raises(ValueError, match="NaN for 2 of 2 examples, from the loss, which is not finite"):
        gradient_of(((point + 1) / 0 * 0).sum(1), point, "here")
