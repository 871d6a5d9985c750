"""What must hold of a model, its inputs and its logits before a number means anything."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]


class ProbabilitiesWarning(UserWarning):
    """A model returns probabilities where logits are due."""


def check_mode(model: Model, where: str) -> None:
    """Raise ValueError if any part of the model is in training mode: dropout and batch norm would act."""
    if isinstance(model, nn.Module):
        training = [name or type(module).__name__ for name, module in model.named_modules() if module.training]
        if training:
            raise ValueError(
                f"the model must be in evaluation mode, got training mode in '{training[0]}' and {len(training) - 1} other "
                f"modules; call model.eval() ({where})"
            )


def check_inputs(x: Tensor, y: Tensor, where: str) -> None:
    """x: float (N, …) in [0, 1].  y: whole numbers (N,).  Else ValueError or TypeError."""
    if not x.is_floating_point():
        raise TypeError(f"x must be of a float dtype, got {x.dtype} ({where})")
    if y.is_floating_point() or y.dtype == torch.bool:
        raise TypeError(f"y must hold class indices, got {y.dtype} ({where})")
    if x.ndim < 2 or y.shape != x.shape[:1]:
        raise ValueError(f"x must be (N, C, H, W) and y (N,), got {tuple(x.shape)} and {tuple(y.shape)} ({where})")
    if x.numel() and not (x.min() >= 0 and x.max() <= 1):  # also False for NaN
        raise ValueError(
            f"x must lie in [0, 1], got [{float(x.min()):.4g}, {float(x.max()):.4g}]; "
            f"normalization belongs into the model's first layer ({where})"
        )


def check_logits(logits: Tensor, y: Tensor, where: str) -> None:
    """logits: (N, K), no NaN; y in 0..K-1.  Else ValueError.  Warns, once, if the rows are probabilities."""
    if logits.ndim != 2 or len(logits) != len(y):
        raise ValueError(f"the model must return logits ({len(y)}, classes), got {tuple(logits.shape)} ({where})")
    if broken := int(logits.isnan().any(1).sum()):
        raise ValueError(f"the model returned NaN logits for {broken} of {len(logits)} examples ({where})")
    classes = logits.shape[1]
    if len(y) and not (y.min() >= 0 and y.max() < classes):
        raise ValueError(f"y must lie in 0..{classes - 1}, got {int(y.min())}..{int(y.max())} ({where})")
    if len(y) and classes > 1 and (logits >= 0).all() and (logits.float().sum(1) - 1).abs().max() < 1e-4:
        warnings.warn(
            "the model returns probabilities where logits are due: gradients through softmax vanish and attacks look weaker "
            "than they are; remove the softmax",
            ProbabilitiesWarning,
            stacklevel=1,  # one text at one place: Python shows it once a run, whichever attack meets it at whichever step
        )


def gradient_of(value: Tensor, point: Tensor, where: str, *, retain_graph: bool = False) -> Tensor:
    """The gradient of the sum of ``value`` at ``point``, (N, …).

    Raises ValueError where there is none, and for NaN: its sign is 0, so an attack would stand still in silence.
    """
    gradient = None
    if value.requires_grad:
        ones = torch.ones_like(value)
        (gradient,) = torch.autograd.grad(value, point, ones, retain_graph=retain_graph, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"the model's logits are detached from its input: no gradient leads back; attack it without (square, rays), or "
            f"give the part that detaches a surrogate ({where})"
        )
    if broken := int(gradient.flatten(1).isnan().any(1).sum()):
        raise ValueError(f"the gradient of the loss is NaN for {broken} of {len(point)} examples ({where})")
    return gradient
