"""PixelDefend's purification: each pixel becomes the likeliest level within reach, given the purified ones before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sanact.density.pixel_cnn import ABOVE, BESIDE, LEFT, LEVELS, PixelCNN, check_images, framed
from sanact.values import BATCH_SIZE, Number

SLACK = 1e-4  # of a level: more than float32's error in a multiple of 1/255
EPS = Number(0, 1)


@torch.no_grad()
def purify(model: PixelCNN, x: Tensor, eps: float, *, batch_size: int = 100) -> Tensor:
    """PixelDefend's greedy walk over the pixels in raster order, and over the channels of each.

        x'_i = argmax_z p(z | x'_<i)        over the levels z = 0, 1/255, … 1 with |z - x_i| ≤ eps

    x: (N, C, H, W) in [0, 1], multiples of 1/255 or not.  eps: input units, in [0, 1]; the paper takes 16/255 on CIFAR-10.
    Returns images like x.  If no level is within reach, x_i stays.  Among equally likely levels the lowest is taken.
    batch_size: images at a time, which affects time and memory only.

    The vertical stack of the network runs once per row, the horizontal one once per pixel, on stored values of the pixels
    before it, so no layer is computed twice at any place.  Most of the time goes into comparing levels, and grows with eps.
    All is in float64: in float32, rounding would sometimes choose a neighbouring level for another batch size.
    Raises ValueError and TypeError for an invalid model, images or eps.
    Paper: Song et al. 2018, arXiv:1710.10766, algorithm 1.
    """
    if not isinstance(model, PixelCNN):
        raise TypeError(f"model must be a PixelCNN, got {type(model).__name__} (purify)")
    check_images(x, model.channels, "purify")
    eps, size = EPS(eps, "eps", "purify"), BATCH_SIZE(batch_size, "batch_size", "purify")
    return torch.cat([_purified(model, part, eps) for part in torch.split(x, size)]) if x.numel() else x.clone()


def _purified(model: PixelCNN, x: Tensor, eps: float) -> Tensor:
    exact = x.double()
    lowest = ((exact - eps) * (LEVELS - 1) - SLACK).ceil().clamp(0, LEVELS - 1)  # (N, C, H, W), of the window
    highest = ((exact + eps) * (LEVELS - 1) + SLACK).floor().clamp(0, LEVELS - 1)
    within = highest >= lowest  # elsewhere eps is below half a level, and there is no choice of levels
    levels = torch.arange(int((highest - lowest).max().clamp(min=0)) + 1, device=x.device)
    out, stacks = x.clone(), _Stacks(model, exact)
    for row in range(x.shape[2]):
        stacks.enter(row)
        for column in range(x.shape[3]):
            mixture = model.mixture(stacks.look(column))
            log_weights, pixel = mixture.log_weights, exact.new_zeros(x.shape[:2])  # (N, K), (N, C)
            for channel in range(model.channels):
                place = slice(None), channel, row, column
                logistics = mixture.component(channel, pixel)
                outside = levels > (highest[place] - lowest[place])[:, None]  # (N, L)
                level = lowest[place] + _likeliest(log_weights, logistics.log_probs(lowest[place], len(levels)), outside)
                log_weights = log_weights + logistics.log_prob(level[:, None])
                pixel[:, channel] = level / (LEVELS - 1)
                out[place] = torch.where(within[place], level.to(x.dtype) / (LEVELS - 1), x[place])
            stacks.put(row, column, pixel)
    return out


def _likeliest(log_weights: Tensor, log_probs: Tensor, outside: Tensor) -> Tensor:
    """The likeliest level of the mixture: (N, K), (N, K, L), and (N, L), which levels to leave out → (N,)."""
    joint = (log_probs + log_weights[..., None]).masked_fill_(outside[:, None], -torch.inf)
    return torch.exp(joint - joint.amax((1, 2), keepdim=True)).sum(1).argmax(1)


class _Stacks:
    """Both stacks of a network along the pixels of a batch x, (N, C, H, W), each computed once, in the dtype of x.

    For each row call `enter`; for each of its pixels call `look`, then `put` with the new value of the pixel.
    Channels are innermost, and convolutions are matrix products.
    """

    def __init__(self, model: PixelCNN, x: Tensor) -> None:
        n, channels, height, width = x.shape
        weights = {name: weight.to(x) for name, weight in model.named_parameters()}
        self.bias = {name: weight for name, weight in weights.items() if weight.ndim == 1}
        self.matrix = {  # (inputs, outputs), ordered by an input's column, then its row, then its channel
            name: weight.permute(3, 2, 1, 0).flatten(0, 2) for name, weight in weights.items() if weight.ndim == 4
        }
        self.image = x.new_zeros(n, BESIDE + width + BESIDE, ABOVE + height, channels + 1)
        self.row = x.new_zeros(n, LEFT + width, channels + 1)
        self.above = [x.new_zeros(n, 1 + width + 1, 2, model.width) for _ in model.blocks]  # elu(v): the row above, this row
        self.beside = [x.new_zeros(n, 2 + width, model.width) for _ in model.blocks]  # elu(h): this row
        self.crossing: list[Tensor] = []  # what h gets from v: (W, N, width) for the first layer and for each block

    def enter(self, row: int) -> None:
        """Run the vertical stack on the whole row."""
        v = self._linear("above", _windows(self.image[:, :, row : row + ABOVE], 2 * BESIDE + 1))  # (N, W, width)
        self.crossing = [self._across("", v)]
        for i, above in enumerate(self.above):
            name = f"blocks.{i}."
            above[:, :, 0] = above[:, :, 1]
            above[:, 1:-1, 1] = F.elu(v)
            v = v + F.glu(self._linear(name + "gate_v", F.elu(self._linear(name + "above", _windows(above, 3)))))
            self.crossing.append(self._across(name, F.elu(v)))

    def look(self, column: int) -> Tensor:
        """The raw parameters of a pixel of this row, (N, P), from those before it."""
        h = torch.addmm(self.crossing[0][column], self.row[:, column : column + LEFT].flatten(1), self.matrix["left.weight"])
        for i, beside in enumerate(self.beside):
            name = f"blocks.{i}."
            beside[:, column + 2] = F.elu(h)
            before = beside[:, column : column + 3].flatten(1)  # (N, 3 width)
            inner = torch.addmm(self.crossing[i + 1][column], before, self.matrix[name + "left.weight"])
            h = h + F.glu(self._linear(name + "gate_h", F.elu(inner)))
        return self._linear("readout", F.elu(h))

    def put(self, row: int, column: int, pixel: Tensor) -> None:
        seen = framed(pixel)  # (N, C + 1)
        self.image[:, BESIDE + column, ABOVE + row] = seen
        self.row[:, LEFT + column] = seen

    def _linear(self, name: str, a: Tensor) -> Tensor:
        """A convolution as a matrix product over inputs laid side by side: (…, inputs) → (…, outputs)."""
        made = torch.addmm(self.bias[name + ".bias"], a.flatten(0, -2), self.matrix[name + ".weight"])
        return made.reshape(*a.shape[:-1], -1)

    def _across(self, name: str, v: Tensor) -> Tensor:
        """The input of h from v, plus h's own bias, (W, N, width)."""
        columns = v.transpose(0, 1)
        crossed = torch.addmm(self.bias[name + "left.bias"], columns.flatten(0, 1), self.matrix[name + "across.weight"])
        return crossed.reshape(*columns.shape[:2], -1)


def _windows(a: Tensor, size: int) -> Tensor:
    """Each ``size`` neighbouring columns of (N, W, rows, channels), side by side: (N, W - size + 1, size rows channels)."""
    return a.flatten(2).unfold(1, size, 1).transpose(2, 3).flatten(2)
