"""Which operations of a traced network are nonlinearities of the activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SOFTMAXES = (nn.Softmax, nn.Softmax2d, nn.Softmin)
LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
NOT_ELEMENTWISE = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)
# Names of torch, torch.nn.functional, operator and torch.Tensor, without the underscores of the in-place and reflected ones.
POWERS = _names("abs absolute exp float_power ipow log pow reciprocal rsqrt sqrt square")  # also used in hand-written norms
SPECIAL = frozenset(torch.special.__all__) - {"softmax", "log_softmax", "logsumexp"}
NONLINEAR = (
    POWERS
    | SPECIAL
    | _names("""
    acos acosh angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh ceil celu clamp
    clamp_max clamp_min clip copysign cos cosh elu erf erfc exp2 expit expm1 fix floor fmax fmin fmod frac gelu glu hardshrink
    hardsigmoid hardswish hardtanh heaviside hypot leaky_relu lgamma log10 log1p log2 log_sigmoid logaddexp logit masked_fill
    maximum minimum mish prelu relu relu6 remainder round rrelu selu sgn sigmoid sign silu sin sinc sinh softplus softshrink
    softsign tan tanh tanhshrink threshold trunc where xlogy
    """)
)
CONDITIONED = frozenset({"where", "masked_fill"})  # linear, unless the condition depends on the input
EXTREMES = frozenset({"max", "min", "amax", "amin"})  # of two activations, or along a dimension
COMPARISONS = _names("eq ge gt isfinite le lt ne greater greater_equal less less_equal logical_not signbit")
CASTS = _names("bfloat16 double float half to type type_as")
REDUCTIONS = EXTREMES | _names(
    "adaptive_avg_pool2d adaptive_max_pool2d logsumexp mean nanmean norm std std_mean sum var var_mean vector_norm"
)
REDUCING = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
PRODUCTS = frozenset({"mul", "multiply", "imul"})
QUOTIENTS = frozenset({"div", "divide", "truediv", "itruediv"})
ARITHMETIC = PRODUCTS | QUOTIENTS | frozenset({"add", "iadd", "neg", "sub", "isub"})
SHAPING = frozenset(["clone", "contiguous", "expand", "expand_as", "getitem", "reshape", "squeeze", "unsqueeze", "view"])
SIZES = _names("""
    bernoulli dim empty_like full_like getattr new_empty new_full new_ones new_tensor new_zeros numel ones_like rand_like
    randint_like randn_like size zeros_like
    """)
OF_VALUES = frozenset({"H", "T", "imag", "mH", "mT", "real", "values"})  # attributes that hold values, not sizes
WIDEST = 64  # most operations between a fork and where its branches meet again

Modules = Mapping[str, nn.Module]


def operation(node: fx.Node) -> str:
    """The name of the function or method that a node calls; `relu_`, `F.relu` and `x.relu()` have the same name."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return "" if node.op in ("call_module", "get_attr", "placeholder", "output") else name.strip("_").removeprefix("special_")


def is_layer(node: fx.Node, modules: Modules) -> bool:
    return node.op == "call_module" and isinstance(modules[str(node.target)], LAYERS)


def varying(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The operations whose result depends on input values, unlike parameters, constants, sizes and random numbers."""
    found: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or (not _is_size(node) and found.intersection(node.all_input_nodes)):
            found.add(node)
    return found


def is_product(node: fx.Node, changing: set[fx.Node]) -> bool:
    return operation(node) in PRODUCTS | QUOTIENTS and sum(isinstance(a, fx.Node) and a in changing for a in node.args) > 1


def is_reduction(node: fx.Node, modules: Modules) -> bool:
    """Whether an operation takes a mean, a maximum or the like of whole maps or of channels."""
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], REDUCING)
    return operation(node) in REDUCTIONS


def nonlinearities(nodes: Sequence[fx.Node], modules: Modules) -> dict[fx.Node, str]:
    """The nonlinear operations, each with its name; "" for one that only looks so, as a part of a norm or of another.

    If an activation forks, and its branches meet again before the next layer with a nonlinearity among them, the operation
    where they meet counts as the nonlinearity, and none in between: x · sigmoid(x), where(x > 0, x, 0.1 x).  A hand-written
    norm, (x - mean) / sqrt(variance), is not a nonlinearity.
    """
    changing = varying(nodes)
    statistics = _statistics(nodes, changing, modules)
    single = {node: _single(node, modules, changing) for node in nodes}
    found: dict[fx.Node, str] = {}
    inside: set[fx.Node] = set()
    for number, node in enumerate(nodes):
        if node in inside:
            continue
        if single[node] and not (single[node] in POWERS and _of_a_norm(node, statistics, changing)):
            found[node] = single[node]
        closed = _closed(node, nodes[number + 1 :], changing, modules)
        if closed and (name := _name(*closed, single, changing)) is not None:
            meeting, between = closed
            inside |= {*between, meeting}
            found |= dict.fromkeys(between, "") | {meeting: name}
        elif is_product(node, changing) and len(statistics.intersection(node.all_input_nodes)) == 1:
            found.setdefault(node, "")  # divided by a norm
    return found


def masks(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Comparisons, and the results of logical operations, casts and reshapes on them."""
    found: set[fx.Node] = set()
    carrying = CASTS | SHAPING | {"and", "or", "xor", "invert", "logical_and", "logical_or", "logical_not"}
    for node in nodes:
        if operation(node) in COMPARISONS or (
            operation(node) in carrying and node.all_input_nodes and found.issuperset(node.all_input_nodes)
        ):
            found.add(node)
    return found


def _single(node: fx.Node, modules: Modules, changing: set[fx.Node]) -> str:
    """The name of the nonlinearity that an operation is on its own, or ""."""
    if node.op == "call_module":
        return "" if is_layer(node, modules) else nonlinear_module(modules[str(node.target)])
    name, inputs = operation(node), changing.intersection(node.all_input_nodes)
    if not inputs:
        return ""
    if name in CASTS:  # a step function
        return next((operation(value) for value in inputs if operation(value) in COMPARISONS), "")
    if name in ("getitem", "getattr") and len(node.args) > 1 and node.args[1] in (0, "values"):
        source = node.args[0]
        return operation(source) if isinstance(source, fx.Node) and _is_maxout(source, changing) else ""
    if name in EXTREMES:
        pair = isinstance(node.kwargs.get("other", node.args[1] if len(node.args) > 1 else None), fx.Node)
        return name if pair or (name.startswith("a") and _is_maxout(node, changing)) else ""
    if name in CONDITIONED:
        place = 0 if name == "where" and node.op == "call_function" else 1
        condition = node.kwargs.get("condition" if name == "where" else "mask", [*node.args, None, None][place])
        return name if condition in changing else ""
    return name if name in NONLINEAR else ""


def _is_maxout(node: fx.Node, changing: set[fx.Node]) -> bool:
    """Whether a maximum along a dimension is the only use of an activation; a maximum over a whole map is pooling."""
    if operation(node) not in EXTREMES:
        return False
    alone = all(len(changing.intersection(value.users)) == 1 for value in node.all_input_nodes)
    return alone and reduced(node) not in (set(), {2, 3}, {-1, -2})


def reduced(node: fx.Node) -> set[int]:
    """The dimensions of a reduction; empty if it names none."""
    along = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    return {along} if isinstance(along, int) else {*along} if isinstance(along, (tuple, list)) else set()


def _statistics(nodes: Iterable[fx.Node], changing: set[fx.Node], modules: Modules) -> set[fx.Node]:
    """Means and other reductions of activations, and operations computed from these alone."""
    found: set[fx.Node] = set()
    for node in nodes:
        inputs = changing.intersection(node.all_input_nodes)
        if inputs and not is_layer(node, modules) and (operation(node) in REDUCTIONS or inputs <= found):
            found.add(node)
    return found


def _of_a_norm(node: fx.Node, statistics: set[fx.Node], changing: set[fx.Node]) -> bool:
    """Whether a power is taken of a statistic, or only to compute one that normalizes other activations."""
    if changing.intersection(node.all_input_nodes) <= statistics:
        return True
    return all(user in statistics and _comes_back(user, statistics, changing) for user in node.users)


def _comes_back(node: fx.Node, statistics: set[fx.Node], changing: set[fx.Node]) -> bool:
    """Whether a statistic shifts or scales other activations, as in a norm."""
    return any(
        _comes_back(user, statistics, changing)
        if user in statistics
        else operation(user) in ARITHMETIC and len(changing.intersection(user.all_input_nodes)) > 1
        for user in node.users
    )


def _closed(
    fork: fx.Node, later: Sequence[fx.Node], changing: set[fx.Node], modules: Modules
) -> tuple[fx.Node, list[fx.Node]] | None:
    """The operation where all branches of an activation meet without a layer on the way, and the operations in between."""
    ends = len(changing.intersection(fork.users))
    if ends < 2:
        return None
    reached, between = {fork}, list[fx.Node]()
    for node in later:
        arriving = len(reached.intersection(node.all_input_nodes)) if node in changing else 0
        if not arriving:
            continue
        ends -= arriving
        if is_layer(node, modules) or node.op == "output" or len(between) > WIDEST:
            return None
        if not ends:
            return node, between
        reached.add(node)
        between.append(node)
        ends += len(changing.intersection(node.users))
    return None


def _name(meeting: fx.Node, between: Sequence[fx.Node], single: Mapping[fx.Node, str], changing: set[fx.Node]) -> str | None:
    """The name of the nonlinearity between a fork and its meeting: "" for a norm, None if all operations are linear."""
    inner = [name for node in between if (name := single[node] or _compared(node))]
    own = single[meeting]
    measured = any(operation(node) in REDUCTIONS or operation(node).endswith("norm") for node in between)
    if measured and all(name in POWERS for name in inner) and own in ("", *POWERS):
        return ""
    if own and (not inner or operation(meeting) in CONDITIONED | EXTREMES):
        return own
    if is_product(meeting, changing):
        return "gated product" if inner else "product"
    return inner[0] if inner else None


def _compared(node: fx.Node) -> str:
    return operation(node) if operation(node) in COMPARISONS else ""


def _is_size(node: fx.Node) -> bool:
    name: Any = operation(node)
    return name in SIZES and not (name == "getattr" and node.args[1] in OF_VALUES)


def is_softmax(node: fx.Node, modules: Modules) -> bool:
    """Whether an operation is a softmax, which is a nonlinearity only where it scales another activation."""
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], SOFTMAXES) or "softmax" in _inside(modules[str(node.target)])
    return operation(node) in ("softmax", "softmin")


def _inside(module: nn.Module) -> list[str]:
    """The operations inside a module of the user's own."""
    if type(module).__module__.startswith("torch.nn"):
        return []
    try:
        return [operation(node) for node in fx.Tracer().trace(module).nodes]
    except Exception:  # it may do anything
        return []


def nonlinear_module(module: nn.Module) -> str:
    """The class of the nonlinearity that a module without layers is or contains, or ""."""
    for part in module.modules():
        if type(part).__module__ == nn.ReLU.__module__ and not isinstance(part, NOT_ELEMENTWISE):
            return type(part).__name__
    if type(module).__module__.startswith("torch.nn"):
        return ""
    try:  # a nonlinearity of the user's own, written with functions
        inside = fx.Tracer().trace(module)
    except Exception:  # it may do anything
        return ""
    found = nonlinearities([*inside.nodes], dict(module.named_modules()))
    return type(module).__name__ if any(found.values()) else ""
