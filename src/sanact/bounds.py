"""Interval bound propagation: from a box of images to a box of logits, along a network's graph of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sanact.graph import trace
from sanact.models import Normalize
from sanact.nonlinear import ARITHMETIC, PRODUCTS, QUOTIENTS, SHAPING, operation
from sanact.parts import Part

RISING_MODULES = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softshrink),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, Normalize),
)
RISING = frozenset({"add", "amax", "cat", "clamp", "clamp_max", "clamp_min", "iadd", "mean", "stack", "sum"}) | SHAPING
RISING |= {"hardtanh", "relu", "relu6", "sigmoid", "softplus", "softshrink", "tanh"}
RISING |= {"adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "flatten", "max_pool2d", "permute", "transpose"}
SIZES = frozenset({"dim", "getattr", "size"})


class Box(NamedTuple):
    """All tensors between low and high, element by element."""

    low: Tensor
    high: Tensor


class Bounds:
    """Bounds of the network's logits over all images of a box.

        linear operations      center c and radius r  →  W c + b,  |W| r
        monotone operations    f(low), f(high)

    model: in evaluation mode.  Its own parameters are used, so that the bounds can be trained.
    Call: low, high (N, C, H, W) → low, high (N, K).  Sound up to rounding in the dtype; use float64 to certify.
    Monotone operations keep boxes exact: ReLU, pooling, `SoftShrink`, `MedianFilter`, `SmoothMask`, and masks of a fixed
    threshold.  A linear operation mixes its inputs and loses their dependence, so bounds grow with depth.
    Raises ValueError for an operation without bounds, with its name and place.
    Paper: Gowal et al. 2018, arXiv:1810.12715.
    """

    def __init__(self, model: nn.Module, example: Tensor | None = None) -> None:
        traced = trace(model, example, deep=True)
        self.nodes = list(traced.graph.nodes)
        self.own = dict(traced.named_modules()) | dict(model.named_modules())  # the model's own, where both have the name
        self.tensors = dict(traced.named_buffers()) | dict(traced.named_parameters())
        self.tensors |= dict(model.named_buffers()) | dict(model.named_parameters())
        for node in self.nodes:
            if node.op == "call_module" and not _known(self.own[str(node.target)]):
                raise _unknown(self.own[str(node.target)], node)

    def __call__(self, low: Tensor, high: Tensor) -> Box:
        box: Box = self._run(low, high)[self._last]
        return box

    def margins(self, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
        """The least lead of class y over each class, (N, K), for any image of the box; 0 for y over itself.

        A linear last layer is merged with the difference of logits, so that what both logits share cancels.
        """
        last, values = self._last, self._run(low, high)
        layer = self.own.get(str(last.target)) if last.op == "call_module" else None
        if not isinstance(layer, nn.Linear):
            box: Box = values[last]
            return (box.low.gather(1, y[:, None]) - box.high).scatter(1, y[:, None], 0.0)
        box = values[last.args[0]]
        center, radius = (box.low + box.high) / 2, (box.high - box.low) / 2
        weight: Tensor = layer.weight[y][:, None] - layer.weight[None]  # (N, K, F)
        lead: Tensor = (weight * center[:, None]).sum(2) - (weight.abs() * radius[:, None]).sum(2)
        return lead if layer.bias is None else lead + (layer.bias[y][:, None] - layer.bias[None])

    @property
    def _last(self) -> Any:
        """The operation that returns the logits."""
        return self.nodes[-1].args[0]

    def _run(self, low: Tensor, high: Tensor) -> dict[fx.Node, Any]:
        values: dict[fx.Node, Any] = {}
        for node in self.nodes:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda given: values[given])
            if node.op == "placeholder":
                values[node] = Box(low.clone(), high.clone()) if not values else (node.args[0] if node.args else None)
            elif node.op == "get_attr":
                values[node] = self.tensors[str(node.target)]
            elif node.op == "call_module":
                values[node] = _through_module(self.own[str(node.target)], args[0], node)
            elif node.op != "output":
                values[node] = _through_function(node, args, kwargs)
        return values


def _through_module(module: nn.Module, box: Any, node: fx.Node) -> Box:
    if not isinstance(box, Box):
        raise _unknown(module, node)
    if isinstance(module, Part):
        return Box(*module.bounds(*box))
    if isinstance(module, RISING_MODULES):
        return Box(module(box.low), module(box.high))
    if isinstance(module, nn.modules.dropout._DropoutNd):
        kept = module(torch.ones_like(box.low))
        return Box(box.low * kept, box.high * kept)
    center, radius = (box.low + box.high) / 2, (box.high - box.low) / 2
    if isinstance(module, nn.Linear):
        middle, spread = module(center), F.linear(radius, module.weight.abs())
    elif isinstance(module, nn.Conv2d):
        middle = module._conv_forward(center, module.weight, module.bias)
        spread = module._conv_forward(radius, module.weight.abs(), None)
    elif isinstance(module, nn.BatchNorm2d) and not module.training and module.running_var is not None:
        slope = (module.running_var + module.eps).rsqrt() * (1 if module.weight is None else module.weight.abs())
        middle, spread = module(center), radius * slope[:, None, None]
    else:
        raise _unknown(module, node)
    return Box(middle - spread, middle + spread)


def _known(module: nn.Module) -> bool:
    """Whether there is a rule for it.  A rule for a class does not hold for a subclass with its own forward."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return True
    kinds = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, *RISING_MODULES)
    own = type(module).forward
    return isinstance(module, Part) or any(isinstance(module, kind) and own is kind.forward for kind in kinds)


def _through_function(node: fx.Node, args: Any, kwargs: Any) -> Any:
    call: Callable[..., Any] = node.target if callable(node.target) else getattr(torch.Tensor, str(node.target))
    if not _holds_box((args, kwargs)):
        return call(*args, **kwargs)
    name = operation(node)
    low, high = (_corner((args, kwargs), at) for at in (0, 1))
    if name in SIZES:
        return call(*low[0], **low[1])
    if name in ARITHMETIC and kwargs:  # a factor, or a rounding mode
        raise _unknown(name, node)
    if name in RISING:
        return Box(call(*low[0], **low[1]), call(*high[0], **high[1]))
    if name in ("sub", "neg"):
        crossed = [(low[0][0], *high[0][1:]), (high[0][0], *low[0][1:])] if name == "sub" else [high[0], low[0]]
        return Box(*(call(*given) for given in crossed))
    if name in PRODUCTS | QUOTIENTS and not (name in QUOTIENTS and isinstance(args[1], Box)):
        corners = torch.stack([call(a, b) for a in (low[0][0], high[0][0]) for b in (low[0][1], high[0][1])])
        return Box(corners.amin(0), corners.amax(0))
    raise _unknown(name, node)


def _holds_box(value: Any) -> bool:
    if isinstance(value, Box):
        return True
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(map(_holds_box, parts))


def _corner(value: Any, at: int) -> Any:
    """The same value with each box replaced by its low (0) or high (1) end."""
    if isinstance(value, Box):
        return value[at]
    if isinstance(value, dict):
        return {key: _corner(part, at) for key, part in value.items()}
    return type(value)(_corner(part, at) for part in value) if isinstance(value, (list, tuple)) else value


def _unknown(what: nn.Module | str, node: fx.Node) -> ValueError:
    name = what if isinstance(what, str) else type(what).__name__
    return ValueError(
        f"no bounds are known of {name} (at '{node.target if node.op == 'call_module' else node.name}'): there are for linear "
        "layers, convolutions, batch norms in evaluation mode, pooling, arithmetic, what rises with its input, and sanitizers "
        "that know theirs"
    )
