"""Strengths that a training moves: attached with the network, saved with it, and refused where nobody trained them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sanact import FGSM, DenoisingBlock, SmoothMask, SoftShrink, load, sanitize
from sanact.data import Data
from sanact.evaluation.cell import Cell
from sanact.evaluation.judge import judge
from sanact.sanitizers import Sanitizer

LEARNABLE = [SmoothMask(learnable=True), SoftShrink(learnable=True), DenoisingBlock()]
X = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def net(width: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 5), nn.ReLU(), nn.Linear(5, 3)]
        return nn.Sequential(*layers).eval()


def cell(model: nn.Module, defense: Sanitizer | None) -> Cell:
    data = Data.from_tensors(X, torch.tensor([0, 1, 2, 0, 1, 2]), classes=("a", "b", "c"))
    return Cell(data=data, model=model, model_name="net", defense=defense, attack=FGSM(eps=0.1), knowledge="white-box")


@pytest.mark.parametrize("sanitizer", LEARNABLE, ids=repr)
def test_there_is_a_strength_a_channel_and_a_unit(sanitizer):
    parts = list(sanitize(net(), sanitizer).sanitizers.values())
    assert [max(len(value) for value in part.parameters() if value.ndim) for part in parts] == [4, 5]


@pytest.mark.parametrize("sanitizer", LEARNABLE, ids=repr)
def test_what_was_learned_is_saved_with_the_plan(sanitizer, tmp_path):
    defended = sanitize(net(), sanitizer)
    with torch.no_grad():
        for number, value in enumerate(defended.parameters()):
            value.add_(0.05 * (number + 1))
    defended.save(tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors", net())
    assert torch.equal(again(X), defended(X)) and again.plan == defended.plan
    assert not any(part.untrained for part in again.sanitizers.values())
    with pytest.raises(ValueError, match="do not fit Sequential"):
        load(tmp_path / "a.safetensors", net(width=3))


@pytest.mark.parametrize("sanitizer", LEARNABLE, ids=repr)
def test_the_judge_refuses_strengths_that_nobody_trained(sanitizer):
    never = (
        rf"sanitizer '{sanitizer.name}' on '0' has strengths to be learned, which were never trained: sanact train MODEL --plan"
    )
    for one in (cell(net(), sanitizer), cell(sanitize(net(), sanitizer), None)):
        with pytest.raises(ValueError, match=never):
            judge(one, device="cpu")
    defended = sanitize(net(), sanitizer)
    with torch.no_grad():
        for part in defended.sanitizers.values():
            for value in part.parameters():
                value.add_(0.1)
    assert len(judge(cell(defended, None), device="cpu")) == 6


def test_rounding_to_16_bits_is_no_training():
    defended = sanitize(net(), SmoothMask(0.3, 0.07, learnable=True))
    assert all(part.untrained for part in defended.half().float().sanitizers.values())
