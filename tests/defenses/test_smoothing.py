"""The smoothed network under the judge; its radius is tested with the certificates."""

from __future__ import annotations

import torch

from sanact import PGD
from sanact.defenses import Smoothing
from sanact.evaluation.adaptive import Adaptive
from sanact.evaluation.cell import Cell
from sanact.evaluation.judge import judge
from sanact.evaluation.rows import accuracy
from tests.certificates.test_intervals import Sum, images
from tests.certificates.test_smoothing import data_of


def test_the_judge_attacks_it_as_any_other():
    model = Sum().eval()
    data, distances = data_of(model)
    near = data[distances < 0.01]
    for attack, knowledge in ((PGD(eps=0.05, early_stop=False), "white-box"), (Adaptive(eps=0.05, effort="quick"), "adaptive")):
        cell = Cell(
            data=near[:10], model=model, model_name="sum", defense=Smoothing(sigma=0.05), attack=attack, knowledge=knowledge
        )  # type: ignore[arg-type]
        assert accuracy(judge(cell, device="cpu")).hits <= 2  # of 8: the judge draws other noise than the attack saw


def test_a_vote_of_one_copy_is_that_copy_s_class():
    smoothed = Smoothing(sigma=0.3, draws=1)(Sum().eval())
    x = images(20)
    noise = 0.3 * torch.randn(20, 1, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    assert torch.equal(smoothed(x).argmax(1), Sum().eval()(x + noise[:, 0]).argmax(1))
