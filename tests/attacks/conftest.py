from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def model() -> nn.Module:
    """Five classes, smooth, float64."""
    generator = torch.Generator().manual_seed(5)
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)).double()
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2
    return layers.eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
