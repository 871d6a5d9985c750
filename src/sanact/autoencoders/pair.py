"""MagNet's two autoencoders: one with pooling, which reforms and detects, and one without, which detects."""

from __future__ import annotations

from torch import Tensor, nn

from sanact.values import Whole

CHANNELS = Whole(1, 4096)
WIDTH = Whole(1, 4096)


class Autoencoder(nn.Module):
    """Convolutions of 3x3, each followed by a sigmoid: x (N, C, H, W) in [0, 1] → the same shape and range.

    pools: whether to average images over 2x2 pixels after the first convolution, and enlarge them again two layers later.  An
        odd row or column is padded with the last one.
    """

    def __init__(self, channels: int, width: int, *, pools: bool) -> None:
        super().__init__()
        hidden = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3 if pools else 1)]
        self.layers = nn.ModuleList(
            [nn.Conv2d(channels, width, 3, padding=1), *hidden, nn.Conv2d(width, channels, 3, padding=1)]
        )
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if pools else None
        for layer in self.layers:  # Keras' defaults, which the authors used
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        a = x
        for number, layer in enumerate(self.layers):
            a = layer(a).sigmoid()
            if self.pool is not None and number == 0:
                a = self.pool(a)
            if self.pool is not None and number == 2:
                a = nn.functional.interpolate(a, scale_factor=2)[..., : x.shape[2], : x.shape[3]]
        return a


class Pair(nn.Module):
    """MagNet's two autoencoders for MNIST.

    channels: of the images.  width: of the hidden layers.  pooled: with pooling.  plain: without.
    Paper: Meng and Chen 2017, arXiv:1705.09064.
    """

    def __init__(self, channels: int = 1, width: int = 3) -> None:
        super().__init__()
        self.channels, self.width = CHANNELS(channels, "channels", "autoencoders"), WIDTH(width, "width", "autoencoders")
        self.pooled = Autoencoder(self.channels, self.width, pools=True)
        self.plain = Autoencoder(self.channels, self.width, pools=False)
