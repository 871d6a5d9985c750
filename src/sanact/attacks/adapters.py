"""Attacks of other libraries as functions (model, x, y) → examples, for `sanact.judge_attack` and wherever an attack is taken.

The libraries are imported when an attack runs.  Models take x in [0, 1]; normalization is one of their layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sanact.attacks.own import Function, name_of, parameters_of


def from_torchattacks(make: Callable[..., Any], **arguments: Any) -> Function:
    """An attack of torchattacks.

    make: its class, as torchattacks.PGD, or a function that takes a model and returns an attack.
    arguments: for the class.  Example: ``from_torchattacks(torchattacks.PGD, steps=20)``, judged with eps=8/255.
    """

    def attack(model: nn.Module, x: Tensor, y: Tensor, **budget: Any) -> Tensor:
        examples: Tensor = make(model, **arguments, **budget)(x, y)
        return examples

    return _like(attack, make)


def from_foolbox(attack: Any) -> Function:
    """An attack of foolbox, given as an instance: ``from_foolbox(foolbox.attacks.LinfPGD(steps=20))``, judged with eps=8/255.

    Without an eps the distance is not bounded, as in foolbox's minimization attacks.
    """

    def run(model: nn.Module, x: Tensor, y: Tensor, eps: float | None = None) -> Tensor:
        from foolbox.models.pytorch import PyTorchModel

        examples: Tensor = attack(PyTorchModel(model, bounds=(0, 1), device=x.device), x, y, epsilons=eps)[1]
        return examples

    run.__name__ = type(attack).__name__
    return run


def from_art(make: Callable[..., Any], **arguments: Any) -> Function:
    """An evasion attack of ART.

    make: its class, as art.attacks.evasion.ProjectedGradientDescent, or a function that takes an estimator.
    arguments: for the class, as ``norm="inf"``.  The estimator is a PyTorchClassifier around the model, with cross-entropy.
    """

    def attack(model: nn.Module, x: Tensor, y: Tensor, **budget: Any) -> Any:
        from art.estimators.classification import PyTorchClassifier

        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        estimator = PyTorchClassifier(
            model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="cpu" if x.device.type == "cpu" else "gpu",
        )
        return make(estimator, **arguments, **budget).generate(x.cpu().numpy(), y.cpu().numpy())

    return _like(attack, make)


def _like(attack: Any, make: Callable[..., Any]) -> Function:
    """The function, named like ``make``, with a parameter eps if ``make`` has one."""
    own = inspect.signature(attack).parameters
    kept = [own[name].replace(annotation=inspect.Parameter.empty) for name in ("model", "x", "y")]
    if "eps" in parameters_of(make):
        kept.append(inspect.Parameter("eps", inspect.Parameter.KEYWORD_ONLY))
    attack.__signature__, attack.__name__ = inspect.Signature(kept), name_of(make)
    function: Function = attack
    return function
