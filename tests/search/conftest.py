"""A small network that has its images right by construction, and whose layers matter to whoever attacks it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sanact import FGSM
from sanact.data import Data
from sanact.search.objective import Objective


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.linear = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6 * 4 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv2(self.conv1(x).relu()).relu().flatten(1))


def images_of(model: nn.Module, seed: int, count: int = 40) -> Data:
    """Noise, with the labels that the model gives it."""
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Data.from_tensors(x, model(x).argmax(1), name=f"noise {seed}", classes=["a", "b", "c"])


@pytest.fixture(scope="session")
def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Small().eval().requires_grad_(False)
        model.linear.bias -= model(torch.rand(1000, 1, 8, 8)).mean(0)  # so that it says each class now and then
    return model


@pytest.fixture(scope="session")
def seen(small: nn.Module) -> Data:
    return images_of(small, 0)


@pytest.fixture(scope="session")
def unseen(small: nn.Module) -> Data:
    return images_of(small, 1)


@pytest.fixture
def objective(small: nn.Module, seen: Data, tmp_path: Any) -> Objective:
    return Objective(
        model=small,
        model_name="small",
        data=seen,
        attacks=(FGSM(eps=0.02),),
        knowledge="oblivious",
        effort="quick",
        drop=5.0,
        overhead=False,
        calibration=None,
        folder=tmp_path / "rows",
        device="cpu",
        seed=0,
        first=10,
    )
