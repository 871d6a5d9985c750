"""Budgets are found where the undefended net lands on the paper's figures, or on the same shares where those are lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sanact.experiments import EXPERIMENTS, Setting
from sanact.experiments.setting import SOURCES
from tests.conftest import load_or_skip


@pytest.mark.parametrize("figures", [{"clean": 98.65, "fgsm": 70.53, "pgd": 53.47}, {"clean": 90.67}])
def test_two_neighbouring_budgets_enclose_the_figure(figures, tmp_path, monkeypatch):
    load_or_skip("mnist", "test")
    monkeypatch.setitem(SOURCES, "mnist", replace(SOURCES["mnist"], grain=0.05, paper={"none": figures}))
    monkeypatch.setattr("sanact.engine.work.diagnosed", lambda *_, **__: [])  # which take longer than all the rest
    for grid in EXPERIMENTS["budgets"](Setting(data="mnist", out=tmp_path, examples=10)):
        clean, *found = [result for row in grid.rows.values() for result in row if result]
        for family, share in (("FGSM", 70.53 / 98.65), ("PGD-40", 53.47 / 98.65)):
            low, high = (result for result in found if result.family.startswith(family))
            aim = figures.get("fgsm" if family == "FGSM" else "pgd", share * clean.accuracy.value)
            assert high.eps - low.eps == pytest.approx(0.05)
            assert low.accuracy.value > aim >= high.accuracy.value


@pytest.mark.parametrize(("data", "clean", "aims"), [("mnist", 99.0, (70.53, 53.47)), ("cifar10", 98.65 / 2, (35.265, 26.735))])
def test_lost_figures_are_the_same_shares_as_on_mnist(data, clean, aims):
    assert SOURCES[data].undefended(clean) == pytest.approx(aims)


@pytest.mark.parametrize(
    ("data", "sanitizer", "clean", "aims"),
    [
        ("mnist", "median", 99.0, [75.27, 82.94, 77.32]),
        ("cifar10", "mask", 95.0, [76.18, 80.21, 78.34]),
        ("cifar10", "median", 95.0, [76.18, 80.21, 78.34]),
        ("tiny-imagenet", "mask", 83.29 / 2, [33.685, 36.92, 34.625]),
    ],
)
def test_a_sanitizer_aims_at_the_papers_figures_as_shares_of_the_clean_accuracy(data, sanitizer, clean, aims):
    assert SOURCES[data].aims(sanitizer, clean) == pytest.approx(aims)


def test_the_clean_accuracy_that_the_papers_mask_costs():
    assert [SOURCES[data].drop for data in ("mnist", "cifar10", "tiny-imagenet")] == pytest.approx([2.41, 1.41, 1.09])
