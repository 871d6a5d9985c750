"""Leave no trace on a model that is only looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Stop gradients to the parameters for the block; afterwards they, and each module's training flag, are as found."""
    modes = {
        module: module.training for module in model.modules() if hasattr(module, "training")
    }  # frozen TorchScript has none
    leaves = (parameter for parameter in model.parameters() if parameter.is_leaf)  # those of copied TorchScript are not
    wanted = {parameter: parameter.requires_grad for parameter in leaves}
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, requires_grad in wanted.items():
            parameter.requires_grad_(requires_grad)
