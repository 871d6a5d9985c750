"""A small undefended network for any images, which is fitted quickly."""

from __future__ import annotations

from torch import nn


class PlainCNN(nn.Sequential):
    """Three convolutions with batch norm, global average pooling, and a linear layer.

    forward: x (N, channels, H, W) in [0, 1], of any size → logits (N, classes).  About 93,000 parameters.
    """

    def __init__(self, channels: int, classes: int) -> None:
        widths = (channels, 32, 64, 128)
        blocks = [
            layer
            for number, (before, after) in enumerate(zip(widths, widths[1:], strict=False))
            for layer in (
                nn.Conv2d(before, after, 3, stride=1 if number == 0 else 2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            )
        ]
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
