"""The density model of PixelDefend: an autoregressive network over the pixels of an image, and its probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.checks import ROUNDING
from sanact.values import Whole

LEVELS = 256
STEP = 2 / (LEVELS - 1)  # distance of two levels, where the lowest is -1 and the highest 1
NARROWEST = -7.0  # log of the scale of a logistic, as in PixelCNN++
WIDE = -1.5  # the same before training
ABOVE, BESIDE, LEFT = 4, 3, 4  # pixels that the first convolutions see: rows above, columns to either side, on the same row


class PixelCNN(nn.Module):
    """p(x) as a product over pixels in raster order, each given those before it: mixtures of logistics over 256 levels.

        p(x) = Π_i Σ_k π_k Π_c [ σ((x_ic + ½ - μ_kc) / s_kc) - σ((x_ic - ½ - μ_kc) / s_kc) ]        (½ of a level)

    A network computes π, s and μ of a pixel from the pixels above it and, on its row, to its left.  In colour, μ is also
    linear in the channels before: μ_g = m_g + a r, μ_b = m_b + b r + c g.  The lowest and the highest level take the tails.
    The network is a vertical and a horizontal stack of shifted convolutions with gated residual blocks; its receptive field is
    ``depth`` + 4 rows above, ``depth`` + 3 columns to the right, and 2 ``depth`` + 4 pixels to the left.

    forward: x (N, C, H, W) in [0, 1], of any height and width → the raw parameters of each pixel, (N, P, H, W); see `mixture`.
    channels: 1 (grey) or 3.  width: of the hidden layers.  depth: blocks.  mixtures: logistics.  Raises ValueError for others.
    Papers: Salimans et al. 2017, arXiv:1701.05517; van den Oord et al. 2016, arXiv:1606.05328 (two stacks).
    Deviation: no downsampling, no shortcuts between resolutions, no dropout, a receptive field that is bounded.
    """

    def __init__(self, channels: int = 1, width: int = 32, depth: int = 5, mixtures: int = 5) -> None:
        super().__init__()
        where = "pixel-cnn"
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels} ({where})")
        self.channels = int(channels)
        self.width = Whole(1, 4096)(width, "width", where)
        self.depth = Whole(0, 1000)(depth, "depth", where)
        self.mixtures = Whole(1, 1000)(mixtures, "mixtures", where)
        self.above = nn.Conv2d(self.channels + 1, self.width, (ABOVE, 2 * BESIDE + 1))
        self.left = nn.Conv2d(self.channels + 1, self.width, (1, LEFT))
        self.across = nn.Conv2d(self.width, self.width, 1, bias=False)
        self.blocks = nn.ModuleList(Block(self.width) for _ in range(self.depth))
        numbers = 1 + 2 * self.channels + self.channels * (self.channels - 1) // 2  # of a logistic
        self.readout = nn.Conv2d(self.width, self.mixtures * numbers, 1)
        nn.init.normal_(self.readout.weight, std=0.1 / math.sqrt(self.width))
        means = torch.linspace(-1, 1, self.mixtures + 2)[1:-1].repeat(self.channels)  # spread over the levels
        bias = [torch.zeros(self.mixtures), means, torch.full_like(means, WIDE)]
        bias.append(torch.zeros(self.mixtures * numbers - sum(map(len, bias))))
        self.readout.bias = nn.Parameter(torch.cat(bias))

    def forward(self, x: Tensor) -> Tensor:
        image = framed(x)  # (N, C + 1, H, W)
        v = self.above(F.pad(image, (BESIDE, BESIDE, ABOVE, -1)))  # (N, width, H, W), from rows above only
        h = self.left(F.pad(image, (LEFT, -1))) + self.across(v)  # (N, width, H, W), from all pixels before
        for block in self.blocks:
            v, h = block(v, h)
        raw: Tensor = self.readout(F.elu(h))
        return raw  # (N, P, H, W)

    def mixture(self, raw: Tensor) -> Mixture:
        """The mixture that raw parameters describe: (…, P) → a mixture with the leading dimensions of ``raw``."""
        k, c, shape = self.mixtures, self.channels, raw.shape[:-1]
        logits, means, log_scales, slopes = torch.split(raw, [k, c * k, c * k, raw.shape[-1] - k - 2 * c * k], -1)
        return Mixture(
            F.log_softmax(logits, -1),
            means.reshape(*shape, c, k),
            log_scales.reshape(*shape, c, k).clamp(min=NARROWEST),
            slopes.tanh().reshape(*shape, c * (c - 1) // 2, k),
        )

    def log_prob(self, x: Tensor, *, rounded: bool = True) -> Tensor:
        """The logarithm of the probability of each image, in nats: (N, C, H, W) in [0, 1] → (N,).

        x counts by its nearest levels, multiples of 1/255.  Each pixel is conditioned on x itself, so the gradient comes from
        the conditioning alone.
        rounded: False takes the probability within half a level of x itself, which is the same for levels and has the whole
            gradient.
        Raises ValueError for another shape.
        """
        check_images(x, self.channels, "log_prob")
        mixture = self.mixture(self(x).permute(0, 2, 3, 1))  # (N, H, W, …)
        values = x.permute(0, 2, 3, 1)  # (N, H, W, C)
        joint = mixture.log_weights
        for channel in range(self.channels):
            value = values[..., channel, None]
            level = nearest(value) if rounded else value * (LEVELS - 1)
            joint = joint + mixture.component(channel, values).log_prob(level)
        return joint.logsumexp(-1).sum((1, 2))

    def bits_per_dimension(self, x: Tensor, *, rounded: bool = True) -> Tensor:
        """-log2 p(x) divided by the number of values in an image: (N, C, H, W) → (N,); uniform noise has 8."""
        return -self.log_prob(x, rounded=rounded) / (x[0].numel() * math.log(2))


class Block(nn.Module):
    """A gated residual step of both stacks: v sees one row more than before; h sees two pixels more, and v.

        v ← v + gate(elu(conv 2x3(elu v)))          h ← h + gate(elu(conv 1x3(elu h) + across(elu v)))

    forward: (N, width, H, W) twice → the same.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.above = nn.Conv2d(width, width, (2, 3))
        self.left = nn.Conv2d(width, width, (1, 3))
        self.across = nn.Conv2d(width, width, 1, bias=False)
        self.gate_v = nn.Conv2d(width, 2 * width, 1)
        self.gate_h = nn.Conv2d(width, 2 * width, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        v = v + F.glu(self.gate_v(F.elu(self.above(F.pad(F.elu(v), (1, 1, 1, 0))))), 1)
        inner = self.left(F.pad(F.elu(h), (2, 0))) + self.across(F.elu(v))
        return v, h + F.glu(self.gate_h(F.elu(inner)), 1)


@dataclass(frozen=True)
class Logistics:
    """Logistic distributions over the 256 levels, which span [-1, 1]: mean and log_scale (…, K), K for each place."""

    mean: Tensor
    log_scale: Tensor

    def log_prob(self, level: Tensor) -> Tensor:
        """The log-probability of levels 0 … 255, whole numbers in a tensor that broadcasts to (…, K) → (…, K).

        σ(b) - σ(a) is computed as σ(b) σ(-a) (1 - exp(a - b)), which keeps its digits far from the mean.
        """
        sharpness, level = torch.exp(-self.log_scale), level.to(self.mean)
        low = ((level - 0.5) * STEP - 1 - self.mean) * sharpness
        high = low + STEP * sharpness
        below_high, above_low = F.logsigmoid(high), F.logsigmoid(-low)
        inside = below_high + above_low + torch.log(-torch.expm1(-STEP * sharpness))
        return torch.where(level <= 0, below_high, torch.where(level >= LEVELS - 1, above_low, inside))

    @torch.no_grad()
    def log_probs(self, lowest: Tensor, count: int) -> Tensor:
        """The log-probabilities of ``count`` levels from ``lowest`` (…) upward: (…, K, count), -inf above 255.

        The same as `log_prob`, without a gradient, and with terms shared by neighbouring levels computed once.
        """
        levels = lowest.to(self.mean)[..., None] + torch.arange(count + 1, device=lowest.device)
        edges = (levels - 0.5) * STEP - 1  # (…, count + 1)
        edges = edges.masked_fill(levels <= 0, -torch.inf).masked_fill(levels >= LEVELS, torch.inf)[..., None, :]
        sharpness = torch.exp(-self.log_scale)[..., None]
        at = (edges - self.mean[..., None]) * sharpness  # (…, K, count + 1)
        rest = torch.log1p(torch.exp(-at.abs()))
        below, above = at.clamp(max=0) - rest, at.clamp(min=0) + rest
        inside = (levels[..., :-1] > 0) & (levels[..., :-1] < LEVELS - 1)
        width = torch.log(-torch.expm1(-STEP * sharpness))
        return torch.addcmul(below[..., 1:] - above[..., :-1], width, inside[..., None, :].to(width.dtype))


class Mixture(NamedTuple):
    """log_weights (…, K); means and log_scales (…, C, K); slopes, of r in g, r in b and g in b, (…, 3, K); grey has none."""

    log_weights: Tensor
    means: Tensor
    log_scales: Tensor
    slopes: Tensor

    def component(self, channel: int, values: Tensor) -> Logistics:
        """The logistics of a channel, given the channels before it in ``values``, (…, C) in [0, 1]."""
        mean = self.means[..., channel, :]  # (…, K)
        first = channel * (channel - 1) // 2
        for before in range(channel):
            mean = mean + self.slopes[..., first + before, :] * (2 * values[..., before, None] - 1)
        return Logistics(mean, self.log_scales[..., channel, :])


def framed(x: Tensor) -> Tensor:
    """Images as the network takes them: in [-1, 1], with a channel of ones that tells black from the outside."""
    return torch.cat([2 * x - 1, torch.ones_like(x[:, :1])], 1)


def nearest(x: Tensor) -> Tensor:
    """The level 0 … 255 nearest to x in [0, 1], without a gradient."""
    return (x.detach() * (LEVELS - 1)).round().clamp(0, LEVELS - 1)


def check_images(x: Tensor, channels: int, where: str) -> None:
    """Raise ValueError for anything but images in [0, 1], up to `ROUNDING`; TypeError for a dtype other than float."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a tensor of a float dtype, got {kind} ({where})")
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"x must be (N, {channels}, H, W), got {tuple(x.shape)} ({where})")
    if x.numel() and not (x.min() >= -ROUNDING and x.max() <= 1 + ROUNDING):  # also False for NaN
        raise ValueError(f"x must lie in [0, 1], got [{float(x.min()):.9g}, {float(x.max()):.9g}] ({where})")
