"""Error-correcting output codes: a network that answers with a codeword for each class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.defenses.base import Card
from sanact.defenses.head import head_of, with_head
from sanact.defenses.trained import Trained
from sanact.objectives import Objective, Step
from sanact.parts import Part
from sanact.values import NOT_NEGATIVE, SEED, Rules, Whole

MOST = 1024


def codewords(classes: int, bits: int, seed: int) -> Tensor:
    """Rows of a Hadamard matrix, ±1, (classes, bits): any two differ in about half of their bits.

    The first column of Sylvester's matrix is constant and carries no information, so its signs are made to alternate; then rows
    are shuffled.
    Raises ValueError for a number of bits that is not a power of two, or smaller than the number of classes.
    """
    if bits & (bits - 1):
        raise ValueError(f"bits must be a power of two, for there to be a Hadamard matrix, got {bits} (codewords)")
    if bits < classes:
        raise ValueError(
            f"bits must be at least the number of classes, {classes}: there are as many codewords, got {bits} (codewords)"
        )
    matrix = np.ones((1, 1), dtype=np.float32)
    while len(matrix) < bits:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    matrix[::2, 0] = -1
    return torch.from_numpy(np.random.default_rng(seed).permutation(matrix)[:classes].copy())


class Decoder(Part):
    """Correlates the signs of the bits, softened, with each codeword: z (N, bits) → (N, K).

        logit_k = Σ_j c_kj tanh z_j

    The largest is the class that the paper predicts.  Where tanh saturates, its gradient vanishes, so attackers differentiate
    the correlations before it, Σ_j c_kj z_j.
    """

    kind = "decoder"
    removable = False
    codes: Tensor

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)

    def forward(self, z: Tensor) -> Tensor:
        return self.differentiable(lambda z: z.tanh() @ self.codes.mT, z)

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {"correlations": lambda z: z @ self.codes.mT}

    @property
    def choices(self) -> tuple[str, ...]:
        return ("exact", *self.surrogates)

    def extra_repr(self) -> str:
        return "{} classes, {} bits".format(*self.codes.shape)


class Coded(nn.Module):
    """A network of bits, followed by a decoder that finds the class; in training mode it returns the bits, (N, bits)."""

    def __init__(self, network: nn.Module, codes: Tensor) -> None:
        super().__init__()
        self.network, self.decoder = network, Decoder(codes)

    def forward(self, x: Tensor) -> Tensor:
        bits: Tensor = self.network(x)
        return bits if self.training else self.decoder(bits)


@dataclass(frozen=True, kw_only=True)
class ECOC(Trained):
    """A network whose outputs are the bits of a codeword, trained by the hinge loss on noisy images.

        min_θ E mean_j max(0, 1 - c_yj z_j(x + noise))        class(x) = argmax_k Σ_j c_kj tanh z_j(x)

    bits: length of a codeword, a power of two, at least the number of classes.  seed: for the choice of codewords.  noise:
        standard deviation of the normal noise in training, in input units.  weights: see `Trained`.
    Raises ValueError for fewer codewords than classes, and for a network whose logits do not come from a linear layer.
    """

    bits: int = 16
    seed: int = 59
    noise: float = 0.3

    card: ClassVar[Card] = Card(
        paper="Verma, Swami 2019, NeurIPS 32, Error correcting output codes improve probability estimation and adversarial "
        "robustness",
        claim="MNIST and CIFAR-10, Linf and L2: more robust than anything before, without adversarial training",
        broken="Tramèr et al. 2020, arXiv:2002.08347: below 5 % on CIFAR-10 at 8/255, by the correlations before they saturate",
        surrogates="the correlations of the codewords with what is in front of tanh",
        needs="weights that were trained with it: ours, or a file",
        deviation="one network has all bits, where the paper has one for every four; no class blender; ours are fine-tuned "
        "from undefended weights",
    )
    rules: ClassVar[Rules] = {"bits": Whole(2, MOST), "seed": SEED, "noise": NOT_NEGATIVE}

    def architecture(self, network: nn.Module, example: Tensor | None = None) -> nn.Module:
        name, head = head_of(network, example)
        codes = codewords(head.out_features, self.bits, self.seed)
        return Coded(with_head(network, name, self.bits), codes).train(network.training)

    def objective(self, network: nn.Module) -> Objective:
        return CodeHinge(self.noise)


@dataclass(frozen=True)
class CodeHinge(Objective):
    """The hinge loss of the bits of a `Coded` network on images with normal noise; see `ECOC`."""

    noise: float

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        assert isinstance(step.model, Coded)
        noise = torch.randn(step.x.shape, generator=step.draws).to(step.x)
        bits, decoder = step.forward(step.x + self.noise * noise), step.model.decoder
        return F.relu(1 - decoder.codes[step.y] * bits).mean(), decoder(bits)

    @property
    def identity(self) -> Any:
        return ["ecoc", self.noise]

    @property
    def note(self) -> str:
        return f"images with normal noise of {self.noise:g}, by the hinge loss of each bit"
