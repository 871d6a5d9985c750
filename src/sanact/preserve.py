"""Inspect or copy a model without leaving traces on it."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Stop gradients to the parameters for the block.  Then restore them, and each module's training flag."""
    modes = {
        module: module.training for module in model.modules() if hasattr(module, "training")
    }  # frozen TorchScript has no flag
    leaves = (parameter for parameter in model.parameters() if parameter.is_leaf)  # those of copied TorchScript are not leaves
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


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Let the model run in the block.  Then restore its attributes and the values of its buffers."""
    attributes = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer._version, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, own, buffers in attributes:
            vars(module).clear()
            vars(module).update(own)
            module._buffers.clear()
            module._buffers.update(buffers)
        for buffer, version, value in values:
            if buffer._version != version:
                buffer.data.copy_(value)


@contextmanager
def seeded(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Seed all global random states for the block, then restore them."""
    devices = {part.device.index or 0 for part in model.parameters() if part.device.type == "cuda"}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def copied(model: Model) -> Model:
    """A deep copy, also of a model that holds results of earlier computations, like weight norm and pruning with hooks.

    Raises ValueError for a model that cannot be copied.
    """
    computed = [value for module in model.modules() for value in _tensors(vars(module)) if not value.is_leaf]
    try:
        return copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})
    except Exception as error:  # attributes may raise any error
        raise ValueError(
            f"{type(model).__name__} cannot be copied, and only copies are sanitized or judged: {type(error).__name__}: {error}"
        ) from error


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors inside the value of a module's attribute."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
