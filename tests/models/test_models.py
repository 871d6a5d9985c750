"""Networks by name: the architecture of the paper, our weights for it, timm's networks, and a user's own files."""

from __future__ import annotations

import json
import pickle
import re
import sys
from importlib.resources import files
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.stats import hypergeom
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from sanact.models import MNISTCNN, PRETRAINED, Normalize, build_model, load_model, load_weights, read_plan
from sanact.plan import list_layers, sanitize
from sanact.sanitizers import Mask
from sanact.training import accuracy
from tests.conftest import load_or_skip

OURS = Path(str(files("sanact.models"))) / "weights" / "mnist_cnn.safetensors"
IMAGES = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def reference_forward(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Table 1 of the paper, layer by layer."""
    a = x - 0.5
    for first, second in (("conv1", "conv2"), ("conv4", "conv5")):
        for layer in (first, second):
            a = F.conv2d(a, state[f"{layer}.weight"], state[f"{layer}.bias"]).clamp(min=0)
        a = F.max_pool2d(a, 2)
    a = a.reshape(len(x), 64 * 4 * 4)
    for layer in ("fc7", "fc8"):
        a = (a @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]).clamp(min=0)
    return a @ state["logits.weight"].T + state["logits.bias"]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_mnist_cnn_has_the_layers_and_parameters_of_the_paper():
    network = MNISTCNN()
    layers = [name for name, _ in network.named_children() if name != "dropout"]
    assert layers == ["conv1", "conv2", "pool3", "conv4", "conv5", "pool6", "fc7", "fc8", "logits"]
    assert sum(parameter.numel() for parameter in network.parameters()) == 312_202


def test_mnist_cnn_computes_what_the_paper_lists():
    network = MNISTCNN().double().eval()
    torch.testing.assert_close(network(IMAGES.double()), reference_forward(network.state_dict(), IMAGES.double()))


def test_mnist_cnn_drops_out_between_its_hidden_linear_layers():
    network, called = MNISTCNN(), []
    for name, layer in network.named_children():
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
    network.eval()(IMAGES)
    assert called[-4:] == ["fc7", "dropout", "fc8", "logits"] and network.dropout.p == 0.5


def test_mnist_cnn_starts_as_keras_does():
    network = MNISTCNN()
    bound = (6 / (32 * 9 + 64 * 9)) ** 0.5  # of Glorot's uniform distribution
    weight = network.conv4.weight.detach()
    assert 0.99 * bound < weight.abs().max() <= bound and weight.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not any(parameter.any() for name, parameter in network.named_parameters() if name.endswith("bias"))


def test_mnist_cnn_has_as_many_logits_as_classes():
    assert build_model("mnist-cnn", classes=7).eval()(IMAGES).shape == (5, 7)


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [("cifar-cnn", 10, 1_147_978), ("resnet18", 10, 11_173_962), ("resnet18-64", 200, 11_271_432)],
)
def test_networks_for_colour_images(name, classes, parameters):
    network = build_model(name, classes=classes).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network(torch.rand(2, *network.input_shape)).shape == (2, classes)
    hidden = [layer for layer in list_layers(network) if layer.hidden]
    assert len(hidden) == (6 if name == "cifar-cnn" else 20)


@pytest.mark.parametrize("name", ["resnet18", "resnet18-64"])
def test_resnet18_is_torchvisions_behind_another_stem(name):
    ours, theirs = build_model(name).eval(), torchvision.models.resnet18(num_classes=10 if name == "resnet18" else 200).eval()
    theirs.conv1 = nn.Conv2d(3, 64, 3, ours.input_shape[1] // 32, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    values = ours.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    x = torch.rand(2, *ours.input_shape)
    torch.testing.assert_close(ours(x), theirs(4 * (x - 0.5)))


def test_a_network_without_weights_says_how_to_get_some():
    with pytest.raises(ValueError, match=r"'resnet18' comes without weights: train it first \(sanact train resnet18\)"):
        load_model("resnet18")


LEAST = {
    "mnist": 99.0,
    "mnist-pgd": 99.0,
    "cifar10": 90.4,
    "cifar10-pgd": 77.0,
    "tiny-imagenet": 51.6,
    "tiny-imagenet-pgd": 41.8,
}  # accuracy on all test images, in percent
RIGHT = {
    ("mnist-cnn", "mnist"): 989,
    ("mnist-cnn", "mnist-pgd"): 990,
    ("resnet18:width=24", "cifar10"): 882,
    ("resnet18:width=24", "cifar10-pgd"): 763,
    ("resnet18:width=48", "cifar10"): 896,
    ("resnet18-64:width=32", "tiny-imagenet"): 513,
    ("resnet18-64:width=32", "tiny-imagenet-pgd"): 410,
}  # of 1,000 test images, those of `sample(1000)`


@pytest.fixture(scope="module", params=PRETRAINED, ids=" ".join)
def ours(request: pytest.FixtureRequest) -> tuple[str, str, Path]:
    """Model, name of the weights, file."""
    return *request.param, OURS.parent / PRETRAINED[request.param]


@pytest.fixture
def card(ours) -> dict[str, str]:
    with safe_open(ours[2], "pt") as file:
        return json.loads(file.metadata()["card"])


def test_our_weights_are_small_enough_to_ship(ours):
    name, data, path = ours
    assert path.stat().st_size <= (1.3e6 if "mnist" in data else 13e6 if name == "resnet18:width=48" else 7e6)


def test_our_weights_are_as_accurate_as_their_card_says(ours, card):
    model, weights, _ = ours
    test = load_or_skip(weights.removesuffix("-pgd"), "test").sample(1000)
    stated, unit = card["test accuracy"].split(" ", 1)
    assert unit == "% of 10,000 images" and float(stated) >= LEAST[weights]
    right = 10 * accuracy(load_model(model, weights=weights), test)
    assert right == pytest.approx(RIGHT[model, weights], abs=1)
    low, high = hypergeom(10_000, round(100 * float(stated)), 1000).interval(0.999)
    assert low <= right <= high


@pytest.mark.slow
def test_our_weights_are_as_accurate_on_all_images_as_their_card_says(ours, card):
    model, weights, _ = ours
    test = load_or_skip(weights.removesuffix("-pgd"), "test")
    assert float(card["test accuracy"].split(" ", 1)[0]) == pytest.approx(
        accuracy(load_model(model, weights=weights), test), abs=0.02
    )


def test_the_card_of_our_weights_says_how_they_came_about(ours, card):
    model, weights, _ = ours
    data = weights.removesuffix("-pgd")
    assert card["command"].startswith(f"sanact train {model} --data {data} ") and "seed " in card["recipe"]
    assert card["data"].startswith(data) and ("re-encoded as JPEG" in card["data"]) == (data == "cifar10")


def test_the_card_for_people_says_the_same(ours, card):
    lines = ours[2].with_suffix(".md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("- ")] == [f"- **{key}**: {value}" for key, value in card.items()]


@pytest.mark.parametrize("key", PRETRAINED, ids=" ".join)
def test_weights_of_ours_are_found_by_the_data_they_were_trained_on(key):
    name, data = key
    assert same_weights(load_model(name, weights=data), load_model(name, weights=OURS.parent / PRETRAINED[key]))


@pytest.mark.parametrize("name", sorted({name for name, _ in PRETRAINED}))
def test_networks_of_ours_come_with_weights_and_in_evaluation_mode(name):
    network, first = load_model(name), next(weights for model, weights in PRETRAINED if model == name)
    assert same_weights(network, load_model(name, weights=first)) and not any(part.training for part in network.modules())


@pytest.mark.parametrize("save", [save_file, torch.save], ids=["safetensors", "torch"])
def test_weights_from_a_file(tmp_path, save):
    network, path = MNISTCNN(classes=3), tmp_path / ("w.safetensors" if save is save_file else "w.pt")
    save(network.state_dict(), path)
    loaded = load_model("mnist-cnn", weights=path, classes=3)
    assert same_weights(loaded, network) and not loaded.training


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


WRAPPINGS = {
    "data parallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "both": lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
    "averaged": lambda state: {"n_averaged": torch.tensor(3)} | {f"module.{name}": value for name, value in state.items()},
    "checkpoint": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
    "checkpoint of data parallel": lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    "lightning": lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
    "net": lambda state: {"net": state, "acc": 91.2},
}


@pytest.mark.parametrize("wrapped", WRAPPINGS.values(), ids=WRAPPINGS)
def test_weights_are_taken_out_of_what_others_wrap_them_in(tmp_path, wrapped):
    torch.manual_seed(1)
    theirs, ours = small(), small()
    torch.save(wrapped(theirs.state_dict()), tmp_path / "w.pt")
    load_weights(ours, tmp_path / "w.pt")
    assert same_weights(ours, theirs)


def test_a_network_with_such_a_name_of_its_own_keeps_it(tmp_path):
    theirs, ours = nn.ModuleDict({"module": small()}), nn.ModuleDict({"module": small()})
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    load_weights(ours, tmp_path / "w.pt")
    assert same_weights(ours, theirs)


def test_weights_of_timm_itself_go_behind_the_normalization(tmp_path):
    network, bare = build_model("timm:test_resnet"), timm.create_model("test_resnet")
    torch.save(bare.state_dict(), tmp_path / "w.pt")
    load_weights(network, tmp_path / "w.pt")
    assert same_weights(network.network, bare) and network.normalize.mean.shape == (1, 3, 1, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda state: {"state_dict": state, "state_dict_ema": state},
            "holds several state dicts, state_dict, state_dict_ema: save only the one you mean",
        ),
        (
            lambda state: {name: (10 * value).to(torch.int8) for name, value in state.items()},
            r"'0\.weight' in '.*' must hold real numbers, as the network does \(torch\.float32\), got torch\.int8",
        ),
        (
            lambda state: {name.replace("0.weight", "0.weight_orig"): value for name, value in state.items()},
            "the file is of a pruned or weight-normed network",
        ),
    ],
    ids=["two", "quantized", "pruned"],
)
def test_weights_of_which_nobody_knows_what_is_meant_are_refused(tmp_path, content, message):
    torch.save(content(small().state_dict()), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=message):
        load_weights(small(), tmp_path / "w.pt")


def test_weights_of_a_sanitized_model_do_not_lose_their_plan_in_silence(tmp_path):
    sanitize(MNISTCNN().eval(), {"conv1": Mask(0.2)}).save(tmp_path / "w.safetensors")
    assert read_plan(tmp_path / "w.safetensors") == {"conv1": {"name": "mask", "strength": 0.2, "reading": "fixed"}}
    assert read_plan(OURS) == {}
    with pytest.raises(ValueError, match=r'holds a sanitized model with the plan \{"conv1": .*`sanact.load` reads it'):
        load_model("mnist-cnn", weights=tmp_path / "w.safetensors")


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_code_in_weights_is_refused_and_not_run(tmp_path, save, name):
    save({"conv1.weight": Malicious(tmp_path / "harm")}, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}' (is not a state dict of tensors|holds no weights)"):
        load_model("mnist-cnn", weights=tmp_path / name)
    assert not (tmp_path / "harm").exists()


def test_the_harm_is_real(tmp_path):
    pickle.loads(pickle.dumps(Malicious(tmp_path / "harm"))).close()
    assert (tmp_path / "harm").exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt' is not a state dict of tensors; save model\.state_dict\(\)"):
        load_weights(nn.Linear(2, 2), tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", OURS.read_bytes()[:5000]], ids=["empty", "text", "half"])
def test_corrupt_weights_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}'"):
        load_model("mnist-cnn", weights=tmp_path / name)


def test_weights_of_ours_for_another_network_name_theirs():
    owners = "resnet18:width=24, resnet18:width=48"
    with pytest.raises(ValueError, match=f"our weights 'cifar10' are for {owners}, not for 'resnet18'"):
        load_model("resnet18", weights="cifar10")


@pytest.mark.parametrize("weights", ["nowhere.safetensors", "cifar100", "."])
def test_missing_weights_are_refused(weights):
    with pytest.raises(ValueError, match=f"no weights at '{weights}'"):
        load_model("mnist-cnn", weights=weights)


@pytest.mark.parametrize(
    "state",
    [nn.Linear(2, 2).state_dict(), MNISTCNN(classes=3).state_dict(), {"weights": MNISTCNN().state_dict()}, [torch.ones(1)]],
    ids=["layers", "classes", "checkpoint", "list"],
)
def test_weights_of_another_network_are_refused(tmp_path, state):
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"the weights in '.*w\.pt' do not fit MNISTCNN"):
        load_model("mnist-cnn", weights=tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("state", "misfit"),
    [
        (
            MNISTCNN(classes=3).state_dict(),
            "logits.weight is (3, 200) in the file and (10, 200) in the network, and 1 more such",
        ),
        (
            {name: value for name, value in MNISTCNN().state_dict().items() if name != "fc8.bias"},
            "fc8.bias is missing in the file and (200,) in the network",
        ),
        (MNISTCNN().state_dict() | {"more": torch.ones(2)}, "more is (2,) in the file and missing in the network"),
    ],
)
def test_what_does_not_fit_is_said_in_short(tmp_path, state, misfit):
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=f"do not fit MNISTCNN: {re.escape(misfit)}$"):
        load_model("mnist-cnn", weights=tmp_path / "w.safetensors")


def test_weights_that_do_not_fit_are_told_by_their_card():
    with pytest.raises(ValueError, match="do not fit ResNet18: .*; according to its card the file holds mnist-cnn, 312,202 p"):
        load_model("resnet18", weights=OURS)


def test_a_network_has_the_width_that_its_name_says():
    network = build_model("resnet18:width=4", classes=7).eval()
    assert network.conv1.weight.shape == (4, 3, 3, 3) and network(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert network.logits.weight.shape == (7, 32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18:width=0", r"width must be at least 1, got 0 \(resnet18\)"),
        ("resnet18:depth=3", "model 'resnet18' takes classes, width, got depth=3"),
        ("resnet18:width=4", r"'resnet18:width=4' comes without weights: train it first \(sanact train resnet18:width=4\)"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        load_model(name)


@pytest.mark.parametrize("name", ["resnet50", "file.py", "file.txt:make", "", "MNIST-CNN"])
def test_an_unknown_name_is_refused(name):
    known = "mnist-cnn, mnist-small, cifar-cnn, resnet18, resnet18-64, timm:NAME"
    with pytest.raises(ValueError, match=rf"model must be one of {known}, or .*\.py:factory, got '{name}'"):
        load_model(name)


def test_normalize_agrees_with_torchvision():
    x, mean, std = torch.rand(2, 3, 4, 5), [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    torch.testing.assert_close(Normalize(mean, std)(x), normalize(x, mean, std))


def test_a_timm_network_takes_images_from_0_to_1():
    network = build_model("timm:test_resnet").eval()
    x, made_for = torch.rand(2, 3, 160, 160), network.network.pretrained_cfg
    assert isinstance(network.network, type(timm.create_model("test_resnet"))) and network.input_shape == (3, 160, 160)
    torch.testing.assert_close(network(x), network.network(normalize(x, made_for["mean"], made_for["std"])))


def test_a_timm_network_with_weights_from_a_file(tmp_path):
    network = build_model("timm:test_resnet", classes=7)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model("timm:test_resnet", weights=tmp_path / "w.safetensors", classes=7)
    assert same_weights(loaded, network) and not loaded.training and loaded.network.num_classes == 7


def test_a_timm_network_takes_options_of_timms(tmp_path):
    network = build_model("timm:test_resnet:num_classes=7,in_chans=1").eval()
    assert network.network.num_classes == 7 and network.input_shape == (1, 160, 160)
    assert network(torch.rand(1, 1, 160, 160)).shape == (1, 7)
    torch.testing.assert_close(network.normalize.mean.squeeze(), torch.tensor(sum((0.5, 0.5, 0.5)) / 3))
    torch.save({"state_dict": {f"module.{name}": w for name, w in network.network.state_dict().items()}}, tmp_path / "w.pt")
    loaded = load_model("timm:test_resnet:num_classes=7,in_chans=1", weights=tmp_path / "w.pt")
    assert same_weights(loaded, network)
    with pytest.raises(ValueError, match="timm cannot make 'test_resnet:classes=7'"):
        build_model("timm:test_resnet:classes=7")


def test_a_last_layer_drawn_at_random_is_not_called_pretrained(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: create(name, **options))
    with pytest.raises(ValueError, match=r"timm's weights of 'test_resnet' are of 1000 classes, .* give weights of your own"):
        load_model("timm:test_resnet:num_classes=7")
    assert load_model("timm:test_resnet:num_classes=1000").network.num_classes == 1000


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_no_state_dict(tmp_path):
    torch.jit.save(torch.jit.trace(small().eval(), torch.rand(2, 3)), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w.pt' is TorchScript, not a state dict; save model.state_dict\(\) in its place"):
        load_weights(small(), tmp_path / "w.pt")


def test_an_unknown_timm_network_is_refused():
    with pytest.raises(ValueError, match=r"^timm cannot make 'nothing': Unknown model"):
        build_model("timm:nothing")


def test_a_misspelled_timm_network_is_told_what_was_meant():
    with pytest.raises(ValueError, match=r"Unknown model \(resnet10\); did you mean 'resnet10t'\?$"):
        build_model("timm:resnet10")


def test_pretrained_weights_are_not_asked_for_again_and_again_where_the_hub_is_out_of_reach(monkeypatch):
    states, asked = [], []

    class Silent:
        def model_info(self, name: str, timeout: float) -> None:
            asked.append(name)
            raise OSError("no route")

    def create(name: str, pretrained: bool) -> None:
        states.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        raise OSError("locate the file on the Hub")

    monkeypatch.setattr(huggingface_hub, "HfApi", Silent)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(timm, "create_model", create)
    for name in ("timm:test_resnet", "timm:hf-hub:timm/test_resnet.r160_in1k"):
        with pytest.raises(ValueError, match="the Hub cannot be reached, .* weights of your own are --weights FILE"):
            load_model(name)
    assert asked == ["timm/test_resnet.r160_in1k"] * 2 and states == [True, True]
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_pretrained_weights_that_cannot_be_fetched_are_an_error_not_random_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="timm cannot make 'test_resnet' with pretrained weights: "):
        load_model("timm:test_resnet")


USERS_FILE = """
from functools import partial
from torch import nn

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x):
        return self.layer(x.flatten(1))

def make():
    return Tiny()

other = partial(make)
value = 3

def fails():
    raise KeyError("no such thing")

def asks(size):
    return Tiny()

def slips():
    return nn.Lineer(4, 3)

def nothing():
    pass

def leaves():
    raise SystemExit(3)

def greets():
    print("hello")
    return Tiny()
"""


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    path = tmp_path / "my nets.v2.py"
    path.write_text(USERS_FILE)
    return path


@pytest.mark.parametrize("factory", ["make", "Tiny", "other"])
def test_a_users_function_class_or_callable_makes_the_model(users_file, factory):
    network = load_model(f"{users_file}:{factory}")
    assert type(network).__name__ == "Tiny" and not any(part.training for part in network.modules())
    assert same_weights(pickle.loads(pickle.dumps(network)), network)


def test_a_users_file_may_be_given_relative_to_where_one_is(users_file, monkeypatch):
    monkeypatch.chdir(users_file.parent)
    assert isinstance(build_model(f"{users_file.name}:make"), nn.Module)


def test_a_users_file_may_import_its_neighbours(users_file):
    path = list(sys.path)
    users_file.rename(users_file.parent / "sanact_test_neighbour.py")
    (users_file.parent / "mine.py").write_text("from sanact_test_neighbour import make")
    assert isinstance(build_model(f"{users_file.parent}/mine.py:make"), nn.Module) and sys.path == path


def test_a_users_model_with_weights(users_file, tmp_path):
    network = build_model(f"{users_file}:make")
    torch.save(network.state_dict(), tmp_path / "w.pt")
    assert same_weights(load_model(f"{users_file}:make", weights=tmp_path / "w.pt", classes=3), network)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("absent", r"has no 'absent'; it defines: Tiny, asks, fails, greets, leaves, make, nothing, slips$"),
        ("slips", r"has no working 'slips': .*'Lineer'"),
        ("fails", r"^'fails' in '.*\.py' failed with KeyError: 'no such thing'$"),
        ("asks", r"^'asks' in '.*\.py' failed with TypeError: .*'size'"),
        ("value", r"^'value' in '.*\.py' failed with TypeError: .*not callable"),
        ("leaves", r"^'leaves' in '.*\.py' failed with SystemExit: 3$"),
        ("nothing", r"^'nothing' in '.*\.py' must return an nn\.Module, got NoneType$"),
    ],
)
def test_a_users_factory_that_makes_no_model_is_refused(users_file, factory, message):
    with pytest.raises(ValueError, match=message):
        load_model(f"{users_file}:{factory}")


def test_what_a_users_file_prints_does_not_stand_among_the_results(users_file, capsys):
    load_model(f"{users_file}:greets")
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(("text", "error"), [("def make(:", "SyntaxError"), ("import no_such_library", "ModuleNotFoundError")])
def test_a_users_file_that_cannot_be_run_is_refused(tmp_path, text, error):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=f"'make' in '.*mine.py' failed with {error}"):
        load_model(f"{tmp_path}/mine.py:make")


def test_a_users_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"no file '{tmp_path}/mine.py' to take 'make' from"):
        load_model(f"{tmp_path}/mine.py:make")
