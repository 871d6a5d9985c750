"""MNIST-CNN, the network of the paper's Table 1, and a wider version for colour images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.values import CLASSES


class MNISTCNN(nn.Module):
    """Four convolutions and three linear layers: the MNIST network of Carlini and Wagner, which the paper calls MNIST-CNN.

    forward: x (N, 1, 28, 28) in [0, 1] → logits (N, classes).  312,202 parameters with ten classes.
    The first operation shifts x to [-0.5, 0.5], as in the authors' training.
    Paper: Carlini and Wagner 2017, arXiv:1608.04644; `train_models.py` of their `nn_robust_attacks`.
    """

    input_shape = (1, 28, 28)
    widths = (32, 64, 200)

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        classes = CLASSES(classes, "classes", "mnist-cnn")
        channels, height, _ = self.input_shape
        first, second, hidden = self.widths
        left = ((height - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(channels, first, 3)
        self.conv2 = nn.Conv2d(first, first, 3)
        self.pool3 = nn.MaxPool2d(2)
        self.conv4 = nn.Conv2d(first, second, 3)
        self.conv5 = nn.Conv2d(second, second, 3)
        self.pool6 = nn.MaxPool2d(2)
        self.fc7 = nn.Linear(second * left**2, hidden)
        self.dropout = nn.Dropout(0.5)
        self.fc8 = nn.Linear(hidden, hidden)
        self.logits = nn.Linear(hidden, classes)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):  # Keras' defaults, which the authors used
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.conv1(x - 0.5))  # (N, 32, 26, 26)
        a = F.relu(self.conv2(a))  # (N, 32, 24, 24)
        a = self.pool3(a)  # (N, 32, 12, 12)
        a = F.relu(self.conv4(a))  # (N, 64, 10, 10)
        a = F.relu(self.conv5(a))  # (N, 64, 8, 8)
        a = self.pool6(a)  # (N, 64, 4, 4)
        a = F.relu(self.fc7(torch.flatten(a, 1)))  # (N, 200)
        a = F.relu(self.fc8(self.dropout(a)))  # (N, 200)
        logits: Tensor = self.logits(a)  # (N, classes)
        return logits


class CIFARCNN(MNISTCNN):
    """The same network with twice the channels: the CIFAR network of Carlini and Wagner.

    forward: x (N, 3, 32, 32) in [0, 1] → logits (N, classes).  1,147,978 parameters with ten classes.
    """

    input_shape = (3, 32, 32)
    widths = (64, 128, 256)
