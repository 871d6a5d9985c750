"""Conditions on a model, its inputs and its logits, without which a number would mean nothing."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sanact.passes import count

Model = Callable[[Tensor], Tensor]

ROUNDING = 1e-6  # by which resized or de-normalized images may leave [0, 1]
FAR = 1e4  # below the lowest finite logit


class ProbabilitiesWarning(UserWarning):
    """A model returns probabilities in place of logits."""


def check_mode(model: Model, where: str) -> None:
    """Raise for a model that is not ready to be attacked.

    TypeError: it cannot be called.  ValueError: a module is in training mode, where dropout and batch norm would act; or a
    weight was made in torch.inference_mode, where no gradient passes.
    """
    if not callable(model):
        raise TypeError(f"model must be a module or a function, images → logits, got {type(model).__name__} ({where})")
    if isinstance(model, nn.Module):
        training = [name or type(module).__name__ for name, module in model.named_modules() if is_training(module)]
        if training:
            raise ValueError(
                f"the model must be in evaluation mode, got training mode in '{training[0]}' and {len(training) - 1} other "
                f"modules; call model.eval() ({where})"
            )
        for name, weight in itertools.chain(model.named_parameters(), model.named_buffers()):
            if weight.is_inference():
                raise ValueError(
                    f"the model's '{name}' was made in torch.inference_mode, where no gradient passes; build or load the model "
                    f"outside of it ({where})"
                )


def is_training(module: nn.Module) -> bool:
    """Whether it is in training mode.  Frozen TorchScript has no flag, and always is in evaluation mode."""
    return getattr(module, "training", False)


def check_inputs(x: Tensor, y: Tensor, where: str) -> None:
    """x: float (N, …) in [0, 1], up to `ROUNDING`.  y: whole numbers (N,).  Else ValueError or TypeError."""
    for name, given in {"x": x, "y": y}.items():
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(given).__name__} ({where})")
    if not x.is_floating_point():
        raise TypeError(f"x must be of a float dtype, got {x.dtype} ({where})")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"y must hold class indices, got {y.dtype} ({where})")
    if x.ndim < 2 or y.shape != x.shape[:1]:
        raise ValueError(f"x must be (N, C, H, W) and y (N,), got {tuple(x.shape)} and {tuple(y.shape)} ({where})")
    if x.device != y.device:
        raise ValueError(f"x and y must be on one device, got {x.device} and {y.device} ({where})")
    if x.numel() and not (x.min() >= -ROUNDING and x.max() <= 1 + ROUNDING):  # also False for NaN
        raise ValueError(
            f"x must lie in [0, 1], got [{float(x.min()):.9g}, {float(x.max()):.9g}]; normalization belongs into the model's "
            f"first layer, and what resizing left outside is cut off by x.clamp(0, 1) ({where})"
        )


def logits_of(model: Model, point: Tensor, y: Tensor, where: object, of: Tensor | None = None) -> Tensor:
    """The logits at ``point``, (N, …), as `check_logits` requires them, and all finite, (N, K).

    The model gets a copy, so writing into its input changes no other tensor.  Logits of half precision are returned in
    float32.  -inf, which rules a class out, is replaced by a number far below the others, so that differences of logits and
    their gradients are finite.
    of: which of the attacked examples these are, (N,), for `passes.counting`; None means all of them.
    Raises as `check_logits`, and TypeError where the model does not take this dtype.
    """
    count(len(point), of)
    try:
        logits = model(point.clone())
    except RuntimeError as error:
        if reason := _explained(error, model, point, where):
            raise reason from error
        raise
    check_logits(logits[:, :-1] if refuses(model) and logits.ndim == 2 else logits, y, where, point=point)
    if torch.is_grad_enabled() and logits.is_inference():
        raise ValueError(
            f"the model computes in torch.inference_mode, where no gradient passes; use an attack without "
            f"gradients (square, rays), or take inference_mode out of its forward pass ({where})"
        )
    if logits.element_size() < 4:
        logits = logits.float()
    if len(logits) and bool((masked := logits.detach().isneginf()).any()):
        lowest = logits.detach().masked_fill(masked, torch.inf).amin(1, keepdim=True)
        logits = torch.where(masked, lowest - FAR, logits)
    return logits


def refuses(model: object) -> bool:
    """Whether the model's last logit means that it refuses the image; a module says so by an attribute ``refuses``."""
    return bool(getattr(model, "refuses", False))


def withstood(logits: Tensor, y: Tensor) -> Tensor:
    """The logits without the refusal's: (N, K + 1), y (N,) → (N, K).  The logit of y is raised to the refusal's if lower.

    So an example is misclassified and accepted exactly where another logit than that of y is the largest.
    """
    own = torch.maximum(logits.gather(1, y[:, None]), logits[:, -1:])
    return logits[:, :-1].scatter(1, y[:, None], own)


def acceptable(model: object, logits: Tensor, y: Tensor) -> Tensor:
    """The model's own logits; if it can refuse, in the form of `withstood`: (N, K)."""
    return withstood(logits, y) if refuses(model) else logits


def fooled(model: object, logits: Tensor, y: Tensor) -> Tensor:
    """Whether a class other than y is predicted and the image accepted, (N,).  logits: the model's own, with the refusal's."""
    return acceptable(model, logits, y).argmax(1) != y


def _explained(error: RuntimeError, model: Model, point: Tensor, where: object) -> Exception | None:
    """An explanation of an error inside a model, if inference_mode or the dtype of the images is its cause."""
    for line in str(error).splitlines():
        if "nference tensor" in line:
            return ValueError(
                f"the model's weights were made in torch.inference_mode, where no gradient passes: {line} ({where})"
            )
        if any(word in line for word in ("dtype", "scalar type", "Input type")):
            return TypeError(_of_another_dtype(line, model, point) + f" ({where})")
    return None


def _of_another_dtype(line: str, model: Model, point: Tensor) -> str:
    weights = {w.dtype for w in model.parameters() if w.is_floating_point()} if isinstance(model, nn.Module) else set()
    kind = f" whose weights are {', '.join(sorted(map(str, weights)))}" if weights else ""
    wide = not weights or any(dtype.itemsize >= 4 for dtype in weights)  # points are never kept in fewer than 32 bits
    advice = "convert x, or let the model convert its input" if wide else "let the model convert its input"
    return f"x is {point.dtype}, which the model{kind} does not take: {line.rstrip('.')}; {advice}"


def check_logits(logits: Tensor, y: Tensor, where: object, *, point: Tensor | None = None) -> None:
    """logits: float (N, K), K ≥ 2; y in 0..K-1.  Warns, once, if the rows are probabilities.

    -inf is allowed, to rule a class out, as long as each example has a finite logit.
    point: where the logits were computed; it shows whether NaN comes from the attack or the model.
    Raises TypeError for anything but a tensor of floats, ValueError for all else.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(f"the model must return a tensor of logits ({len(y)}, classes), got {_named(logits)} ({where})")
    if not logits.is_floating_point():
        raise TypeError(f"the model must return logits of a float dtype, got {logits.dtype} ({where})")
    if tuple(logits.shape) in {(len(y),), (len(y), 1), (len(y), 0)} and len(y):
        raise ValueError(
            f"the model must return two logits or more for each image, got {tuple(logits.shape)}: with a single column nothing "
            f"can be misclassified; a binary model with one logit z must return [0, z], torch.cat([0 * z, z], 1) ({where})"
        )
    if logits.ndim != 2 or len(logits) != len(y):
        raise ValueError(f"the model must return logits ({len(y)}, classes), got {tuple(logits.shape)} ({where})")
    logits, classes = logits.detach(), logits.shape[1]
    if logits.device != y.device:
        raise ValueError(f"the model must return logits on {y.device}, where x and y are, got {logits.device} ({where})")
    if not bool((highest := logits.amax(1)).isfinite().all()):
        raise ValueError(f"{_broken(highest, point)} ({where})")
    if len(y) and not (y.min() >= 0 and y.max() < classes):
        raise ValueError(f"y must lie in 0..{classes - 1}, got {int(y.min())}..{int(y.max())} ({where})")
    if len(y) and (logits >= 0).all() and (logits.float().sum(1) - 1).abs().max() < 1e-4:
        warnings.warn(
            "the model returns probabilities in place of logits: gradients through softmax vanish and attacks look weaker "
            "than they are; remove the softmax",
            ProbabilitiesWarning,
            stacklevel=1,  # one text at one place: Python shows it once a run, whichever attack meets it at whichever step
        )


def _named(output: object) -> str:
    """The kind of output that came in place of a tensor, and how to return the logits if they are in it."""
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} with {', '.join(map(repr, output)) or 'nothing in it'}; return its logits alone"
    if isinstance(output, (tuple, list)):
        return f"a {kind} of {len(output)}; return the logits alone"
    return f"{kind}; return the logits alone" if hasattr(output, "logits") else kind


def _broken(highest: Tensor, point: Tensor | None) -> str:
    """The reason why the highest logit of some examples, (N,), is not finite."""
    if point is not None and (lost := int((~point.detach().isfinite()).flatten(1).any(1).sum())):
        return f"the attack itself moved {lost} of {len(point)} examples to NaN or infinity, which is no fault of the model"
    for kind, those in {"NaN": highest.isnan(), "+inf": highest.isposinf(), "only -inf": highest.isneginf()}.items():
        if count := int(those.sum()):
            return f"the model returned {kind} logits for {count} of {len(highest)} examples"
    raise AssertionError("all are finite")


def gradient_of(value: Tensor, point: Tensor, where: object, of: Tensor | None = None, *, retain_graph: bool = False) -> Tensor:
    """The gradient of the sum of ``value`` at ``point``, (N, …); an infinite entry counts like the largest finite one.

    of: as for `logits_of`.
    Raises ValueError if there is no gradient, and for NaN: the sign of NaN is 0, and the attack would silently stand still.
    """
    count(len(point), of)
    gradient = None
    if value.requires_grad:
        ones = torch.ones_like(value)
        (gradient,) = torch.autograd.grad(value, point, ones, retain_graph=retain_graph, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"the model's logits are detached from its input: no gradient leads back; use an attack without "
            f"gradients (square, rays), or give the part that detaches a surrogate ({where})"
        )
    return gradient if bool(gradient.sum().isfinite()) else _finite(gradient, value, where)


def _finite(gradient: Tensor, value: Tensor, where: object) -> Tensor:
    if broken := int(gradient.flatten(1).isnan().any(1).sum()):
        maker = "the model's backward pass" if bool(value.isfinite().all()) else "the loss, which is not finite"
        raise ValueError(f"the gradient of the loss is NaN for {broken} of {len(gradient)} examples, from {maker} ({where})")
    infinite = gradient.isinf()
    largest = gradient.masked_fill(infinite, 0).flatten(1).abs().amax(1)
    largest = torch.where(largest > 0, largest, 1).reshape(-1, *[1] * (gradient.ndim - 1))
    return torch.where(infinite, gradient.sign() * largest, gradient)
