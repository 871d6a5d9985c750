from __future__ import annotations

import numpy as np
import torch

from sanact.density.pixel_cnn import PixelCNN


def drawn(channels: int, width: int = 4, depth: int = 2, mixtures: int = 3, seed: int = 0) -> PixelCNN:
    """A density model in float64 whose weights all matter."""
    model = PixelCNN(channels, width, depth, mixtures).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.3
    model.readout.bias.data[mixtures * (1 + channels) : mixtures * (1 + 2 * channels)] -= 1.5  # narrow logistics
    return model


def levels(*shape: int, seed: int = 0) -> torch.Tensor:
    """Images on multiples of 1/255, in float64, the ends among them."""
    x = torch.randint(-30, 286, shape, generator=torch.Generator().manual_seed(seed)).clamp(0, 255)
    return x.double() / 255


def arrays(model: PixelCNN) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in model.state_dict().items()}
