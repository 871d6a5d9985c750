"""Thermometer encoding: a network trained on images whose values are written in steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.defenses.base import Card
from sanact.defenses.trained import Trained
from sanact.defenses.transforming import Transformed
from sanact.objectives import Objective, Step
from sanact.transforms import ThermometerEncoding
from sanact.transforms.thermometer import LEVELS
from sanact.values import POSITIVE, Maybe, Rules, Whole

COOLING = 1 / 1.2  # factor of the temperature between steps of LS-PGA


@dataclass(frozen=True, kw_only=True)
class Thermometer(Trained):
    """A network with l times as many input channels, trained on encoded images; see `ThermometerEncoding`.

    levels: l, 2 to 256.  eps: budget of the LS-PGA examples in training, in input units; None trains on the images themselves.
        steps: of LS-PGA in training; see `LogitSpace`.
    weights: see `Trained`.
    Raises ValueError for a network without a convolution that takes the channels of its images.
    """

    levels: int = 16
    eps: float | None = None
    steps: int = 7

    card: ClassVar[Card] = Card(
        paper="Buckman, Roy, Raffel, Goodfellow 2018, OpenReview S18Su--CW",
        claim="CIFAR-10 at 8/255 with LS-PGA training: about 79 against white-box attackers",
        claimed={"cifar10": 79.0},
        broken="Athalye et al. 2018, arXiv:1802.00420, by ramps as gradient: at 0.031 on CIFAR-10 nothing is left of it alone, "
        "30 % with LS-PGA training, less than adversarial training leaves without it",
        surrogates="soft steps, or ramps from one step to the next",
        needs="weights that were trained with it: ours, or a file",
        deviation="training starts from our undefended network, whose first convolution sees the mean of the steps; steps "
        "of LS-PGA of 1 in logits",
    )
    rules: ClassVar[Rules] = {"levels": LEVELS, "eps": Maybe(POSITIVE), "steps": Whole(1, 100_000)}

    def architecture(self, network: nn.Module, example: Tensor | None = None) -> nn.Module:
        return Transformed(ThermometerEncoding(self.levels), widened(network, self.levels))

    def objective(self, network: nn.Module) -> Objective:
        return Objective() if self.eps is None else LogitSpace(self.eps, self.steps)

    @property
    def trained_with(self) -> dict[str, Any]:
        return {"levels": self.levels, "eps": self.eps}  # weights trained with another number of steps are accepted


def widened(network: nn.Module, times: int) -> nn.Module:
    """The network with a first convolution for this many times its channels; the copies share its weight equally.

    So its output for the mean of the copies is as before.  Raises ValueError for a network without a convolution.
    """
    conv = next((part for part in network.modules() if isinstance(part, nn.Conv2d)), None)
    if conv is None:
        raise ValueError(f"the network must begin with a convolution, got {type(network).__name__} (defense 'thermometer')")
    conv.weight = nn.Parameter(conv.weight.detach().repeat_interleave(times, 1) / times)
    conv.in_channels *= times
    return network


@dataclass(frozen=True)
class LogitSpace(Objective):
    """The cross-entropy of encodings found by LS-PGA, logit-space projected gradient ascent.

        u ← u + sign ∇_u J( τ(softmax(u / T)), y )        T ← T / 1.2

    u: a logit for each level within eps of the value.  τ: the thermometer of a mixture of levels, made of sums from above.
    The last encoding takes the likeliest level of each value.  u begins at random, T at 1.
    eps: grows from zero to its full size over a third of the training.  steps: of the ascent.
    The model is a network behind `ThermometerEncoding`.
    Paper: Buckman et al. 2018.
    """

    eps: float
    steps: int = 7

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        model = step.model
        if not isinstance(model, Transformed) or not isinstance(model.transform, ThermometerEncoding):
            raise ValueError(f"LS-PGA needs a network behind a thermometer, got {type(model).__name__} (training)")
        levels, eps = model.transform.levels, step.grown * self.eps
        network = model.network.eval()
        encoded = self._ascend(network, reachable(step.x, eps, levels), step.y, step.draws)
        logits = network.train()(encoded)
        return F.cross_entropy(logits, step.y, label_smoothing=step.label_smoothing), logits

    def _ascend(self, network: nn.Module, within: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
        """The encoding found, (N, C l, H, W).  within: which levels each value may take, (N, C, l + 1, H, W)."""
        u = torch.randn(within.shape, generator=draws).to(within.device)
        for number in range(self.steps):
            u.requires_grad_()
            mixed = (u * COOLING**-number).masked_fill(~within, -torch.inf).softmax(2)
            loss = F.cross_entropy(network(thermometer(mixed)), y, reduction="sum")
            (slope,) = torch.autograd.grad(loss, u)
            u = u.detach() + slope.sign()
        chosen = u.masked_fill(~within, -torch.inf).argmax(2)
        return thermometer(F.one_hot(chosen, within.shape[2]).movedim(-1, 2).to(slope.dtype))

    @property
    def identity(self) -> Any:
        return {"name": "ls-pga"} | asdict(self)

    @property
    def note(self) -> str:
        return f"examples of LS-PGA at {self.eps} in Linf, {self.steps} steps, its budget growing over the first third"


def reachable(x: Tensor, eps: float, levels: int) -> Tensor:
    """Which of the levels 0 … l are within eps, (N, C, H, W) → (N, C, l + 1, H, W); a level counts the steps that are on."""
    low, high = (((x + sign * eps).clamp(0, 1) * levels).floor() for sign in (-1, 1))
    each = torch.arange(levels + 1, device=x.device)[:, None, None]
    return (each >= low[:, :, None]) & (each <= high[:, :, None])


def thermometer(share: Tensor) -> Tensor:
    """The share of a mixture of levels that reaches each step, (N, C, l + 1, H, W) → (N, C l, H, W)."""
    return share.flip(2).cumsum(2).flip(2)[:, :, 1:].flatten(1, 2)
