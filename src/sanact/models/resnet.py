"""ResNet-18 for small images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.values import CLASSES, Whole

WIDTH = Whole(1, 512, words="be at least 1")  # with 512 the weights take 3 GB
SHIFT, SCALE = 0.5, 4.0  # of pixels: photographs then have about mean 0 and standard deviation 1


class Block(nn.Module):
    """Two convolutions beside a shortcut; where the shape changes, the shortcut is a 1x1 convolution."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, a: Tensor) -> Tensor:
        b = F.relu(self.bn1(self.conv1(a)))
        return F.relu(self.bn2(self.conv2(b)) + self.shortcut(a))


class ResNet18(nn.Module):
    """Eight blocks of two convolutions, after a 3x3 convolution in place of ImageNet's 7x7 convolution and pooling.

    forward: x (N, 3, 32, 32) in [0, 1] → logits (N, classes).  11,173,962 parameters with ten classes.
    width: channels of the first blocks; the last have eight times as many.
    Paper: He et al. 2016, arXiv:1512.03385.  Deviation: the stem for small images.
    """

    input_shape = (3, 32, 32)

    def __init__(self, classes: int = 10, width: int = 64) -> None:
        super().__init__()
        width, classes = WIDTH(width, "width", "resnet18"), CLASSES(classes, "classes", "resnet18")
        self.conv1 = nn.Conv2d(3, width, 3, self.input_shape[1] // 32, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width * share for share in (1, 1, 1, 2, 2, 4, 4, 8, 8)]
        pairs = zip(widths, widths[1:], strict=False)
        self.blocks = nn.Sequential(*(Block(before, after, after // before) for before, after in pairs))
        self.logits = nn.Linear(widths[-1], classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn1(self.conv1((x - SHIFT) * SCALE)))
        a = torch.mean(self.blocks(a), dim=(2, 3))  # (N, 8 width)
        logits: Tensor = self.logits(a)
        return logits


class ResNet18For64(ResNet18):
    """The same network for x (N, 3, 64, 64): its first convolution has stride 2.  11,271,432 parameters with 200 classes."""

    input_shape = (3, 64, 64)

    def __init__(self, classes: int = 200, width: int = 64) -> None:
        super().__init__(classes, width)
