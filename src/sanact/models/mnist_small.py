"""A small network for MNIST, on which bounds can be trained and computed in minutes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.values import CLASSES


class MNISTSmall(nn.Module):
    """Two strided convolutions and two linear layers: the network on which provable defenses are compared.

    forward: x (N, 1, 28, 28) in [0, 1] → logits (N, classes).  166,406 parameters with ten classes.
    Paper: Wong and Kolter 2018, arXiv:1711.00851.
    """

    input_shape = (1, 28, 28)

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        classes = CLASSES(classes, "classes", "mnist-small")
        self.conv1 = nn.Conv2d(1, 16, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2, padding=1)
        self.fc3 = nn.Linear(32 * 7 * 7, 100)
        self.logits = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.conv1(x))  # (N, 16, 14, 14)
        a = F.relu(self.conv2(a))  # (N, 32, 7, 7)
        a = F.relu(self.fc3(torch.flatten(a, 1)))  # (N, 100)
        logits: Tensor = self.logits(a)  # (N, classes)
        return logits
