"""Batch norms folded into the convolutions before them, for speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sanact.faithful import difference, probe
from sanact.graph import after_batch_norm, trace
from sanact.nonlinear import is_layer
from sanact.preserve import copied

NORMS = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}  # which norms fold into which layers
ROUNDING = 1e4  # units in the last place by which folding may change logits


def fold_batch_norms(model: nn.Module, example: Tensor | None = None) -> None:
    """Fold batch norms into the convolutions before them: the same network up to rounding, but faster.

    Works in place, on a network in evaluation mode; folded norms become identities.  A norm stays if its convolution also
    feeds something else, or if either of the two is used twice, has hooks, is of a user's class, or has fewer than 32 bits.
    All norms stay if the network cannot be traced, or has other logits or gradients when they are folded.
    example: as for `trace`.
    """
    try:
        pairs = [*_foldable(model, trace(model, example))]
        x = probe(model, example) if pairs else None
        folded = copied(model) if pairs else model
    except ValueError:
        return
    if x is not None:
        _fold(folded, pairs)
        if not difference(model, folded, x, rounding=ROUNDING):
            _fold(model, pairs)


def _fold(model: nn.Module, pairs: list[tuple[str, str]]) -> None:
    for name, behind in pairs:
        layer, norm = model.get_submodule(name), model.get_submodule(behind)
        assert isinstance(layer, nn.modules.conv._ConvNd) and isinstance(norm, nn.modules.batchnorm._BatchNorm)
        model.set_submodule(name, fuse_conv_bn_eval(layer, norm))
        model.set_submodule(behind, nn.Identity().eval())


def _foldable(model: nn.Module, traced: fx.GraphModule) -> Iterator[tuple[str, str]]:
    """Names of convolutions and of the batch norms behind them that nothing else uses."""
    modules = dict(model.named_modules(remove_duplicate=False))
    targets = (
        str(node.target).rpartition(".")[0] if node.op == "get_attr" else str(node.target) for node in traced.graph.nodes
    )
    used = Counter(modules.get(target) for target in targets)
    for node in traced.graph.nodes:
        if not (node.op == "call_module" and str(node.target) in modules and is_layer(node, modules)):
            continue
        layer, name = modules[str(node.target)], str(after_batch_norm(node, modules).target)
        norm = modules[name]
        once = used[layer] == used[norm] == 1
        if once and type(norm) is NORMS.get(type(layer)) and not (_does_more(layer) or _does_more(norm)):
            yield str(node.target), name


def _does_more(module: nn.Module) -> bool:
    """Whether a convolution or batch norm does more than its parameters and running statistics say."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    estimates = getattr(module, "running_mean", True) is None
    return module.training or estimates or bool(hooks) or any(part.itemsize < 4 for part in module.parameters())
