"""Whether two networks are the same: the same logits and the same input gradients, for one image and for several."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sanact.graph import likely_shape
from sanact.nonlinear import LAYERS
from sanact.preserve import preserved, restored, seeded

BATCHES = (1, 3)  # images at once
PROJECTIONS = 2  # random projections of the logits, whose gradients are compared
USUAL = (32, 28, 64, 224, 8, 16)  # sizes of images to try
NARROW = range(1, 17)  # sides of images that are not square
SIZES = (*USUAL, *(size for size in range(1, 64) if size not in USUAL), 96, 128, 160, 192, 256, 299, 384)


def probe(model: nn.Module, example: Tensor | None = None) -> Tensor:
    """Random images in [0, 1] that the model takes, as many as `BATCHES` needs; on its device, in its dtype.

    example: an input, (N, C, H, W), of which the shape counts; its values count only if they are whole numbers.  None takes
        the model's ``input_shape`` or timm's ``pretrained_cfg``, or else tries shapes that fit its first layer.
    Raises ValueError if the model fails on the example, or if no fitting shape is found.
    """
    error = "it has no convolution or linear layer"
    with preserved(model), restored(model), torch.no_grad(), seeded(model):
        model.eval()
        for shape, like in _candidates(model, example):
            x = _images(shape, like)
            for count in reversed(BATCHES):
                try:
                    model(x[:count].clone())
                    return x
                except Exception as failed:  # a forward method may raise any error
                    error = f"{type(failed).__name__}: {str(failed)[:300]}"
    if example is not None:
        raise ValueError(f"{type(model).__name__} fails on an input of shape {tuple(example.shape)}: {error}")
    raise ValueError(
        f"no input was found that {type(model).__name__} takes, to compare the sanitized copy with it; pass one as example=, "
        f"or give the model an attribute input_shape, (C, H, W) (last error: {error})"
    )


def difference(model: nn.Module, other: nn.Module, x: Tensor, *, rounding: float = 100) -> str:
    """The difference of two networks on x, in words; "" if there is none.

    Both run in evaluation mode on one image and on several, from the same random state, and are left as they were found.
    Outputs are compared, with and without a record for gradients, and the gradients of random projections of them with
    respect to x.
    rounding: how many units in the last place they may differ by, relative to the norm of an example's output; gradients may
        differ by ten times as many.
    """
    if x.device.type == "meta":
        return ""
    with restored(model), restored(other):
        for count in sorted({min(count, len(x)) for count in BATCHES}):
            first, second = (_answer(network, x[:count]) for network in (model, other))
            if first.error:
                continue  # the model itself takes no batch of this size
            if found := _tell_apart(first, second, rounding):
                return f"{found} (on {count} image{'s' * (count > 1)})"
    return ""


def repeats_itself(model: nn.Module, x: Tensor) -> bool:
    """Whether the model gives the same answer twice from the same random state."""
    with restored(model):
        return not _tell_apart(_answer(model, x), _answer(model, x), 100)


def is_random(model: nn.Module, x: Tensor) -> bool:
    """Whether the model's answers depend on the random state."""
    with restored(model):
        return bool(_tell_apart(_answer(model, x), _answer(model, x, seed=1), 100))


@dataclass(frozen=True)
class _Answer:
    """outputs: the tensors that a network returned; bare: those under no_grad.  gradients: of each projection, or None."""

    outputs: list[Tensor]
    bare: list[Tensor]
    gradients: list[Tensor | None]
    error: str = ""


def _answer(model: nn.Module, x: Tensor, seed: int = 0) -> _Answer:
    with preserved(model), torch.enable_grad(), seeded(model, seed):
        model.eval()
        leaf = x.detach().clone().requires_grad_(x.is_floating_point())
        try:
            with torch.no_grad():
                bare = _tensors(model(leaf.detach().clone()))
            outputs = _tensors(model(leaf.clone()))
            gradients = [_gradient(outputs, leaf, number) for number in range(PROJECTIONS)] if leaf.requires_grad else []
        except Exception as error:  # a forward method may raise any error
            return _Answer([], [], [], f"{type(error).__name__}: {str(error)[:300]}")
        return _Answer([value.detach() for value in outputs], bare, gradients)


def _tensors(output: Any) -> list[Tensor]:
    return [value for value in tree_leaves(output) if isinstance(value, Tensor)]


def _gradient(outputs: Iterable[Tensor], x: Tensor, number: int) -> Tensor | None:
    generator = torch.Generator().manual_seed(number)
    total = [
        (output * torch.randn(output.shape, generator=generator).to(output)).sum().double()
        for output in outputs
        if output.requires_grad and output.is_floating_point()
    ]
    if not total:
        return None
    try:
        gradient: Tensor | None = torch.autograd.grad(torch.stack(total).sum(), x, retain_graph=True, allow_unused=True)[0]
    except RuntimeError:  # an operation that is not differentiable
        return None
    return gradient


def _tell_apart(first: _Answer, second: _Answer, rounding: float) -> str:
    if first.error or second.error:
        return "" if first.error == second.error else f"it fails: {second.error or first.error}"
    for own, others, where in ((first.outputs, second.outputs, ""), (first.bare, second.bare, " under torch.no_grad")):
        if [(a.dtype, a.shape) for a in own] != [(b.dtype, b.shape) for b in others]:
            kinds = [", ".join(f"{a.dtype} {tuple(a.shape)}" for a in outputs) for outputs in (own, others)]
            return f"outputs are {kinds[0]} of one, {kinds[1]} of the other{where}"
        for a, b in zip(own, others, strict=True):
            if (gap := _gap(a, b, rounding)) is not None:
                return f"logits differ by {gap:.3g}{where}"
    for c, d in zip(first.gradients, second.gradients, strict=True):
        if c is None or d is None:
            if c is not d:
                return f"logits are equal, but only the {'copy' if c is None else 'model'} has a gradient to its input"
        elif (gap := _gap(c, d, 10 * rounding)) is not None:
            return f"logits are equal, but input gradients differ by {gap:.3g}, of {float(c.abs().max()):.3g}"
    return ""


def _gap(a: Tensor, b: Tensor, rounding: float) -> float | None:
    """The largest difference, if it exceeds rounding, else None; NaN and infinities must be in the same places."""
    if torch.equal(a, b):
        return None
    tolerance = min(rounding * torch.finfo(a.dtype).eps, 0.05) if a.is_floating_point() else 0.0
    a, b = (value.double().reshape(max(len(value) if value.ndim else 1, 1), -1) for value in (a, b))
    odd = ~(a.isfinite() & b.isfinite())
    if not torch.equal(a[odd].nan_to_num(), b[odd].nan_to_num()):
        return float("nan")
    a, b = a.masked_fill(odd, 0), b.masked_fill(odd, 0)
    far = (a - b).norm(dim=1) > tolerance * a.norm(dim=1)
    return float((a - b).abs().max()) if bool(far.any()) else None


def _images(shape: tuple[int, ...], like: Tensor) -> Tensor:
    if not like.is_floating_point():
        return like[torch.arange(max(BATCHES)) % len(like)]
    generator = torch.Generator().manual_seed(0)
    return torch.rand(max(BATCHES), *shape, generator=generator).to(like.device, like.dtype)


def _candidates(model: nn.Module, example: Tensor | None) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Shapes that the model may take, the likeliest first, with a tensor of the dtype and on the device to try."""
    own = next((part for part in [*model.parameters(), *model.buffers()] if part.is_floating_point()), torch.empty(0))
    if example is not None:
        shape = tuple(example.shape[1:])
        if example.is_floating_point():
            yield shape, own
        yield shape, example
        return
    if said := likely_shape(model):
        yield tuple(said), own
    for first in [part for part in model.modules() if isinstance(part, LAYERS)][:1]:
        yield from ((shape, own) for shape in dict.fromkeys(_fitting(first)))


def _fitting(layer: Any) -> Iterator[tuple[int, ...]]:
    if isinstance(layer, nn.Linear):
        yield (layer.in_features,)
        yield from ((c, s, s) for s in SIZES for c in (1, 3) if c * s * s == layer.in_features)
        yield from ((c, s, s) for c in (layer.in_features, 3, 1) for s in USUAL if c <= 4)
        return
    rank = len(layer.kernel_size)
    for channels, sizes in ((layer.in_channels, SIZES), (3, USUAL), (1, USUAL)):
        yield from ((channels, *[size] * rank) for size in sizes)
    if rank == 2:
        yield from ((layer.in_channels, *sides) for sides in itertools.permutations(NARROW, 2))
