"""What others put around a network is taken off, and what is inside computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sanact
from sanact.data import Data
from sanact.evaluation.cell import Cell
from sanact.evaluation.judge import judge
from sanact.models import MNISTCNN
from sanact.wrapping import in_float32, unwrapped

WRAPPERS = {
    "data parallel": nn.DataParallel,
    "compiled": torch.compile,
    "both": lambda model: torch.compile(nn.DataParallel(model)),
}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return MNISTCNN().eval()


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_the_network_inside_is_sanitized_listed_and_judged(model, wrap):
    wrapped, x = wrap(model), torch.rand(3, 1, 28, 28)
    assert unwrapped(wrapped) is model
    expected = sanact.sanitize(model, sanact.Mask(0.3))
    assert torch.equal(sanact.sanitize(wrapped, sanact.Mask(0.3))(x), expected(x))
    assert torch.equal(sanact.defend(wrapped, sanact.Mask(0.3))(x), expected(x))
    assert [layer.name for layer in sanact.list_layers(wrapped)] == [layer.name for layer in sanact.list_layers(model)]
    assert list(sanact.record(wrapped, x).after) == list(sanact.record(model, x).after)
    of = {"data": Data.of(x, torch.tensor([0, 1, 2])), "model_name": "net", "defense": None, "knowledge": "white-box"}
    one, other = (Cell(**of, model=each, attack=sanact.FGSM(eps=0.1)) for each in (model, wrapped))
    assert one.slug == other.slug and judge(other).num_rows == 3


def test_whatever_else_stays_as_it_is(model):
    class DataParallel(nn.Module):  # of the user's own
        module = model

    own = DataParallel()
    assert unwrapped(own) is own and unwrapped(model) is model and unwrapped(3) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_said(model, dtype):
    half = model.to(dtype)
    wide, note = in_float32(half)
    assert note == f"weights of {str(dtype).removeprefix('torch.')}, computed in float32"
    assert {weight.dtype for weight in wide.parameters()} == {torch.float32}
    assert {weight.dtype for weight in half.parameters()} == {dtype}
    assert all(torch.equal(a.float(), b) for a, b in zip(half.parameters(), wide.parameters(), strict=True))


def test_single_and_double_precision_stay(model):
    assert in_float32(model) == (model, "") and in_float32(model.double()) == (model, "")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused_by_name(model):
    for script in (torch.jit.script(model), torch.jit.trace(model, torch.rand(2, 1, 28, 28))):
        with pytest.raises(ValueError, match="is TorchScript, whose layers cannot be found; pass the original model"):
            sanact.sanitize(script, sanact.Mask(0.3))
