"""Defenses of the user's own: judged as ours, with the undefended network in an attacker's hands."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sanact import FGSM, Mask, bypass, defend
from sanact.attacks import APGD
from sanact.data import Data
from sanact.defenses import DEFENSES, as_defense
from sanact.defenses.own import Replaced, own_defense
from sanact.evaluation.adaptive import Adaptive
from sanact.evaluation.cell import Cell
from sanact.evaluation.judge import judge
from sanact.parts import removable

X = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Damped(nn.Module):
    """A network behind a damping of the image."""

    def __init__(self, network: nn.Module, share: float = 0.5) -> None:
        super().__init__()
        self.network, self.share = network, share

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.share * x)


def damped(model: nn.Module, share: float = 0.5) -> nn.Module:
    return Damped(model, share)


def centred(model: nn.Module, data: Data) -> nn.Module:
    mean = float(next(data.batches(len(data))).x.mean())
    return nn.Sequential(nn.Identity(), Damped(model, mean))


def changed_in_place(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.5)
    return model.train()


def untouched(model: nn.Module) -> nn.Module:
    return model


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)]
    return nn.Sequential(*layers).eval()


@pytest.fixture
def data(model) -> Data:
    return Data.of(X, model(X).argmax(1))


def cell(data, model, defense, knowledge="white-box", attack=None, **more) -> Cell:
    return Cell(
        data=data, model=model, model_name="net", defense=defense, attack=attack or FGSM(eps=0.1), knowledge=knowledge, **more
    )


@pytest.mark.parametrize("function", [damped, changed_in_place])
def test_the_module_that_is_returned_is_the_defended_network(model, function):
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    defended = defend(model, function)
    expected = Damped(model)(X) if function is damped else None
    assert expected is None or torch.equal(defended(X), expected)
    assert not any(part.training for part in defended.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    (part,) = removable(defended)
    with bypass([part]):
        assert torch.equal(defended(X), model(X))


def test_one_that_learns_is_given_clean_images(model, data):
    clean = Data.of(X + 0, data.labels, name="other")
    defended = defend(model, centred, clean)
    torch.testing.assert_close(defended(X), Damped(model, float(X.mean()))(X))
    assert as_defense(centred).needs_data and not as_defense(damped).needs_data
    with pytest.raises(ValueError, match=r"learns from clean training images, got none: pass data \(defense 'centred'\)"):
        defend(model, centred)


def test_arguments_are_in_its_configuration(model, tmp_path):
    assert torch.equal(defend(model, own_defense(damped, share=0.25))(X), Damped(model, 0.25)(X))
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Half(nn.Module):\n"
        "    def __init__(self, model, share):\n"
        "        super().__init__()\n"
        "        self.model, self.share = model, share\n"
        "    def forward(self, x):\n"
        "        return self.model(self.share * x)\n"
        "def half(model, share=0.5):\n"
        "    return Half(model, share)\n"
    )
    read = as_defense(f"{tmp_path / 'mine.py'}:half:share=0.25")
    assert read.config == {"name": "half", "share": 0.25} and torch.equal(defend(model, read)(X), Damped(model, 0.25)(X))


def test_the_judge_replays_and_attacks_it(model, data):
    replayed, own = (judge(cell(data, model, damped, knowledge)) for knowledge in ("oblivious", "white-box"))
    defended = Damped(model).eval()
    assert own["clean_prediction"].to_pylist() == replayed["clean_prediction"].to_pylist() == defended(X).argmax(1).tolist()
    y = torch.from_numpy(data.labels)
    expected = defended(FGSM(eps=0.1)(defended, X, y)).argmax(1)
    assert own["prediction"].to_pylist() == expected.tolist()
    examples = FGSM(eps=0.1).for_replay()(model, X, y)
    assert replayed["prediction"].to_pylist() == defended(examples).argmax(1).tolist()


class Wall(nn.Module):
    """A network that answers as it did, and whose gradient is lost."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 255).round() / 255)


def test_an_adaptive_attacker_tries_the_examples_of_the_undefended_network(model, data):
    defended = defend(model, own_defense(lambda model: Wall(model), title="wall"))
    y = torch.from_numpy(data.labels)
    adaptive = Adaptive(eps=0.2, effort="quick").credited(defended, X, y)
    replayed = APGD(eps=0.2, steps=20, loss="ce", early_stop=False)(model, X, y)
    lost = defended(replayed).argmax(1) != y
    point = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(defended(point).sum(), point)
    assert not slope.any() and lost.sum() > 10
    assert (defended(adaptive.examples).argmax(1) != y)[lost].all()


def test_one_that_changes_nothing_defends_nothing(model, data):
    with pytest.raises(ValueError, match="defense 'untouched' left the network as it was: it defends nothing"):
        judge(cell(data, model, untouched))


def test_sanitizers_go_into_the_defended_network(model, data):
    chained = defend(model, [damped, {"network.0": Mask(0.3)}], example=X[:1])
    assert isinstance(chained, Replaced) and "Mask" in repr(chained.network) and torch.equal(chained.undefended(X), model(X))
    assert judge(cell(data, model, [damped, {"network.0": Mask(0.3)}])).num_rows == 20


@pytest.mark.parametrize(
    ("defense", "kind", "message"),
    [
        (lambda model: 3, TypeError, r"the function must return an nn.Module, got int"),
        (lambda: 3, TypeError, r"the function takes \(\), which does not fit the call"),
        (lambda model, data, more: 3, TypeError, "missing a required argument: 'more'"),
        ("mine.py:half", ValueError, "no file 'mine.py' to take 'half' from"),
        (
            "feature-sqeezing",
            ValueError,
            r"defense must be one of .*, got 'feature-sqeezing'; did you mean 'feature-squeezing'\?",
        ),
        ("conv*=msk:0.3", ValueError, r"did you mean 'mask'\?"),
    ],
)
def test_what_is_no_defense_is_refused(model, defense, kind, message):
    with pytest.raises(kind, match=message):
        defend(model, defense)


def test_another_code_is_another_cell(model, data):
    one, other = own_defense(damped, title="mine"), own_defense(changed_in_place, title="mine")
    slugs = [cell(data, model, defense).slug for defense in (one, other, one)]
    assert slugs[0] == slugs[2] != slugs[1]


def test_text_means_what_the_command_line_means_by_it(model):
    assert as_defense("conv*=mask:0.3").config == as_defense({"conv*": Mask(0.3)}).config
    chain = as_defense("bit-depth:bits=2 | *=mask:0.3")
    assert chain.name == "bit-depth | mask" and "pixel-defend" in DEFENSES
