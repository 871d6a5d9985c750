"""Networks by name: our own, timm's, and the user's."""

from __future__ import annotations

import inspect
import json
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sanact.models.mnist_cnn import CIFARCNN, MNISTCNN
from sanact.models.mnist_small import MNISTSmall
from sanact.models.resnet import ResNet18, ResNet18For64
from sanact.online import is_on_hub, offline
from sanact.spec import parse
from sanact.userfiles import load_function, run_file
from sanact.values import CLASSES, meant, shown

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mnist-cnn": MNISTCNN,
    "mnist-small": MNISTSmall,
    "cifar-cnn": CIFARCNN,
    "resnet18": ResNet18,
    "resnet18-64": ResNet18For64,
}
PRETRAINED: dict[tuple[str, str], str] = {  # (model, name of the weights) → our file
    ("mnist-cnn", "mnist"): "mnist_cnn.safetensors",
    ("mnist-cnn", "mnist-pgd"): "mnist_cnn_pgd.safetensors",
    ("resnet18:width=24", "cifar10"): "resnet18_cifar10.safetensors",
    ("resnet18:width=24", "cifar10-pgd"): "resnet18_cifar10_pgd.safetensors",
    ("resnet18:width=48", "cifar10"): "resnet18_w48_cifar10.safetensors",
    ("resnet18-64:width=32", "tiny-imagenet"): "resnet18_tiny_imagenet.safetensors",
    ("resnet18-64:width=32", "tiny-imagenet-pgd"): "resnet18_tiny_imagenet_pgd.safetensors",
}
DEFENDED = (  # our files of networks trained for a defense; they are loaded by the defense's name
    "mnist_cnn_adp.safetensors",
    "mnist_cnn_distillation.safetensors",
    "mnist_cnn_ecoc.safetensors",
    "mnist_cnn_ensemble.safetensors",
    "mnist_cnn_gat.safetensors",
    "mnist_cnn_generative.safetensors",
    "mnist_cnn_input_gradient.safetensors",
    "mnist_cnn_kwta.safetensors",
    "mnist_cnn_naive.safetensors",
    "mnist_cnn_thermometer.safetensors",
    "mnist_cnn_thermometer_ls_pga.safetensors",
    "mnist_cnn_unified.safetensors",
)
WRAPPED = ("state_dict", "model_state_dict", "model_state", "model", "net", "state_dict_ema", "model_ema")  # in checkpoints
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
REWRITTEN = ("weight_orig", "weight_mask", "weight_g", "weight_v")

__all__ = [
    "CIFARCNN",
    "DEFENDED",
    "MNISTCNN",
    "MODELS",
    "MNISTSmall",
    "PRETRAINED",
    "ResNet18",
    "ResNet18For64",
    "build_model",
    "load_function",
    "load_model",
    "load_weights",
    "read_card",
    "read_plan",
]


def load_model(name: str, *, weights: Path | str | None = None, classes: int | None = None) -> nn.Module:
    """A network in evaluation mode, with weights.

    name: one of `MODELS`, with options as in "resnet18:width=24"; "timm:NAME" with timm's pretrained weights, or with timm's
        options, as in "timm:resnet18:num_classes=10", and your own weights; or "path/to/file.py:factory", a function without
        required arguments, or a class, that returns an `nn.Module`.
    weights: a safetensors file, or a state dict saved by PyTorch.  Or one of ours, by the name of its data: "mnist", "cifar10",
        "tiny-imagenet"; "mnist-pgd", "cifar10-pgd" and "tiny-imagenet-pgd" are adversarially trained with PGD.  None takes the
        model's own: ours, timm's, or what the user's factory made.
    classes: number of classes of the given weights; None leaves it to the network.
    Networks for colour images get the memory format channels_last, which is faster, at least on the CPU.
    Raises ValueError for an unknown name, a factory that fails, or weights that are missing, corrupt, or of another network.
    """
    if not isinstance(name, str):
        raise TypeError(f"model must be a name, got {type(name).__name__}: {shown(name)} (load_model)")
    if weights is None and name.startswith("timm:"):
        return _ready(build_model(name, pretrained=True))
    model = build_model(name, classes=classes if weights is not None else None)
    if weights is None and name.partition(":")[0] in MODELS:
        ours = [weights for model, weights in PRETRAINED if model == name]
        if not ours:
            there = ", ".join(dict.fromkeys(model for model, _ in PRETRAINED))
            raise ValueError(
                f"'{name}' comes without weights: train it first (sanact train {name}), and pass the file as weights; "
                f"ours are of {there}"
            )
        weights = ours[0]
    if (file := PRETRAINED.get((name, str(weights)))) is not None:
        with as_file(files("sanact.models") / "weights" / file) as path:
            load_weights(model, path)
    elif weights is not None:
        owners = [model for model, ours in PRETRAINED if ours == str(weights)]
        if owners and not Path(weights).exists():
            raise ValueError(f"our weights '{weights}' are for {', '.join(owners)}, not for '{name}'")
        load_weights(model, weights)
    return _ready(model)


def _ready(model: nn.Module) -> nn.Module:
    shape = getattr(model, "input_shape", None)
    colour = not isinstance(shape, (tuple, list)) or len(shape) != 3 or shape[0] != 1
    return model.eval().to(memory_format=torch.channels_last if colour else torch.preserve_format)


def build_model(name: str, *, classes: int | None = None, pretrained: bool = False) -> nn.Module:
    """A network with fresh weights, or timm's with its pretrained ones; see `load_model` for the names.

    classes: number of classes; None leaves it to the network.  A user's factory decides for itself.
    """
    number = {} if classes is None else {"classes": CLASSES(classes, "classes", f"model '{name}'")}
    ours = name.partition(":")[0]
    if ours in MODELS:
        return parse("model", {ours: partial(MODELS[ours], **number)}, name)
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"), pretrained, classes)
    path, colon, factory = name.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_file(Path(path), factory)
    raise ValueError(
        f"model must be one of {', '.join(MODELS)}, timm:NAME, or path/to/file.py:factory, got '{name}'{meant(name, MODELS)}"
    )


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Fill ``model`` from a safetensors file or a PyTorch state dict (tensors only: nothing in it is executed).

    A state dict may lie inside a checkpoint, under one of the names in `WRAPPED`.  Its names may have one of the `PREFIXES`
    that `DataParallel` and `torch.compile` add.  Raises ValueError for a file that is missing, corrupt, or of another network;
    for whole numbers where the network has real ones; and for a file of `SanitizedModel.save`, whose plan would be lost.
    """
    path = Path(path)
    if plan := read_plan(path):
        raise ValueError(
            f"'{path}' holds a sanitized model with the plan {json.dumps(plan)}, not plain weights; `sanact.load` reads it, "
            "and so does `sanact evaluate`"
        )
    state = _unwrapped(_read(path), model, path)
    _check_types(model, state, path)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        told = f"; according to its card the file holds {card['model']}" if (card := read_card(path)) else ""
        if any(str(name).endswith(REWRITTEN) or ".parametrizations." in str(name) for name in state):
            told += "; the file is of a pruned or weight-normed network: remove pruning and weight norm before saving"
        misfits = _misfits(model, state) if isinstance(state, dict) else []
        what = f"{misfits[0]}, and {len(misfits) - 1} more such" if len(misfits) > 1 else "".join(misfits) or error
        raise ValueError(f"the weights in '{path}' do not fit {type(model).__name__}: {what}{told}") from error


def _read(path: Path) -> Any:
    if not os.path.isfile(path):
        raise ValueError(f"no weights at {shown(str(path))}")
    if _is_torchscript(path):
        raise ValueError(f"'{path}' is TorchScript, not a state dict; save model.state_dict() in its place")
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        if "TorchScript" in str(error):
            raise ValueError(
                f"'{path}' is TorchScript, whose layers cannot be changed; save model.state_dict() in its place"
            ) from error
        raise ValueError(f"'{path}' holds no weights: {type(error).__name__}: {error}") from error
    except Exception as error:  # UnpicklingError for anything but tensors
        raise ValueError(
            f"'{path}' is not a state dict of tensors; save model.state_dict(), preferably as safetensors"
        ) from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(name).name == "constants.pkl" for name in archive.namelist())


def _unwrapped(state: Any, model: nn.Module, path: Path) -> Any:
    """The state dict in a checkpoint, without the prefixes of wrappers, if only one reading is possible."""
    wanted = model.state_dict().keys()
    if isinstance(state, Mapping) and not wanted & state.keys():
        inner = [name for name in WRAPPED if isinstance(state.get(name), Mapping)]
        if len(inner) > 1:
            raise ValueError(f"'{path}' holds several state dicts, {', '.join(inner)}: save only the one you mean")
        state = state[inner[0]] if inner else state
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        return state
    found = dict(state)
    while not wanted & found.keys():
        counted = {"n_averaged"} & found.keys()  # of `AveragedModel`
        prefix = next((one for one in PREFIXES if all(name.startswith(one) for name in found.keys() - counted)), None)
        if prefix is None or found.keys() == counted:
            break
        found = {name.removeprefix(prefix): value for name, value in found.items() if name not in counted}
    if isinstance(getattr(model, "normalize", None), Normalize):  # timm's own weights, without our normalization in front
        around = {name: value for name, value in model.state_dict().items() if not name.startswith("network.")}
        if {f"network.{name}" for name in found} | around.keys() == wanted:
            return {f"network.{name}": value for name, value in found.items()} | around
    return found if wanted & found.keys() else state


def _check_types(model: nn.Module, state: Any, path: Path) -> None:
    """Raise ValueError for whole numbers in place of real ones (quantized weights), which PyTorch would accept."""
    for name, own in model.state_dict().items() if isinstance(state, Mapping) else []:
        value = state.get(name)
        if isinstance(own, Tensor) and isinstance(value, Tensor) and own.is_floating_point() and not value.is_floating_point():
            raise ValueError(
                f"'{name}' in '{path}' must hold real numbers, as the network does ({own.dtype}), got {value.dtype}"
            )


def read_plan(path: Path | str) -> dict[str, Any]:
    """The plan in a file of `SanitizedModel.save`, as JSON has it; empty for any other file."""
    return _from_header(path, "plan")


def read_card(path: Path | str) -> dict[str, str]:
    """The card that `sanact train` wrote about how the weights were made; empty for other files."""
    return _from_header(path, "card")


def _from_header(path: Path | str, key: str) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {}).get(key, "{}"))
            return found if isinstance(found, dict) else {}
    except (SafetensorError, OSError, ValueError):
        return {}


def _misfits(model: nn.Module, state: Mapping[str, Any]) -> list[str]:
    wanted, found = (
        {name: tuple(getattr(value, "shape", ())) for name, value in d.items()} for d in (model.state_dict(), state)
    )
    return [
        f"{name} is {found.get(name, 'missing')} in the file and {wanted.get(name, 'missing')} in the network"
        for name in wanted | found
        if wanted.get(name) != found.get(name)
    ]


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, per channel: (N, C, H, W) → (N, C, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _timm(text: str, pretrained: bool, classes: int | None) -> nn.Module:
    """timm's network behind the normalization it was trained with, so that it takes x in [0, 1].

    text: ``NAME[:KEY=VALUE,…]``, with arguments of timm's; NAME may itself hold colons, as "hf-hub:timm/resnet18.a1_in1k".
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError("a timm: model needs timm: pip install 'sanact[timm]'") from error
    name, colon, last = text.rpartition(":")
    if "=" not in last:
        name, colon, last = text, "", ""
    options = {} if classes is None else {"num_classes": classes}

    def create(**more: Any) -> Any:
        return timm.create_model(name, pretrained=pretrained, **options | more)

    with_weights = " with pretrained weights" * pretrained
    fetched = _fetched(name) if pretrained else True
    try:
        with nullcontext() if fetched else offline():
            model: Any = parse("model", {"timm": create}, f"timm{colon}{last}")
    except Exception as error:  # an unknown name, or no network to fetch weights from
        why = f"{error}{meant(name, timm.list_models())}"
        if not fetched:
            why = "the Hub cannot be reached, and they were not downloaded before; weights of your own are --weights FILE"
        raise ValueError(f"timm cannot make '{text}'{with_weights}: {why}") from error
    made_for = model.pretrained_cfg
    if pretrained and model.num_classes != made_for.get("num_classes", model.num_classes):
        raise ValueError(
            f"timm's weights of '{name}' are of {made_for['num_classes']} classes, and the last layer of '{text}' would be "
            "random: give weights of your own (--weights FILE)"
        )
    channels = next((weight.shape[1] for weight in model.parameters() if weight.ndim == 4), 3)
    mean, std = (_per_channel(made_for[key], channels) for key in ("mean", "std"))
    whole: Any = nn.Sequential(OrderedDict(normalize=Normalize(mean, std), network=model))
    whole.input_shape = (channels, *made_for["input_size"][1:])
    made: nn.Module = whole
    return made


def _fetched(name: str) -> bool:
    """Whether timm's weights of this name can be fetched from the Hub, or come from elsewhere."""
    import timm

    known = timm.models.get_pretrained_cfg(name, allow_unregistered=True) if ":" not in name else None
    where = name.removeprefix("hf-hub:") if name.startswith("hf-hub:") else known and known.hf_hub_id
    return not where or is_on_hub(where, "model")


def _per_channel(values: Sequence[float], channels: int) -> Sequence[float]:
    """Values for three channels; for another number of channels their mean, as timm adapts its first layer."""
    return values if len(values) == channels else [sum(values) / len(values)] * channels


def _from_file(path: Path, factory: str) -> nn.Module:
    made: list[Any] = []
    run_file(path, lambda module: made.append(getattr(module, factory)()), factory)
    if not isinstance(model := made[0], nn.Module):
        what = f"the class {model.__name__}" if inspect.isclass(model) else type(model).__name__
        raise ValueError(f"'{factory}' in '{path}' must return an nn.Module, got {what}")
    return model
