"""What all defenses share: the call, chains, keys of rows, and who may be defended by what."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from sanact import PGD, Mask, MedianFilter
from sanact.data import Data
from sanact.defenses import DEFENSES, Chain, Defense, FeatureSqueezing, PGDAdversarialTraining, as_defense, defend, split
from sanact.defenses.chain import read_defenses
from sanact.evaluation.cell import Cell, cells
from sanact.evaluation.judge import judge
from sanact.models import build_model, load_model, load_weights
from sanact.training import save_trained
from sanact.transforms import Transform
from tests.conftest import load_or_skip


class Halved(Transform):
    def transform(self, x: Tensor) -> Tensor:
        return x / 2


class Lifted(Transform):
    def transform(self, x: Tensor) -> Tensor:
        return 0.4 + x / 2


class Idle(Transform):
    def transform(self, x: Tensor) -> Tensor:
        return x.clone()


def small(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
        return nn.Sequential(*layers).eval()


X = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def images(seed: int, n: int = 30) -> Data:
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Data.from_tensors(x, small()(x).argmax(1), classes=("a", "b", "c"))


def cell(**changes) -> Cell:
    given = {"data": images(0), "model": small(), "model_name": "small", "defense": FeatureSqueezing(bits=2)}
    return Cell(**given | {"attack": PGD(eps=0.05, steps=5), "knowledge": "white-box"} | changes)


@pytest.mark.parametrize("defense", [FeatureSqueezing(bits=2, median=2), Halved(), Mask(0.3), [Halved(), Mask(0.3)]], ids=str)
def test_the_model_is_left_as_it_was_found(defense):
    model = small()
    before, modes = {name: value.clone() for name, value in model.state_dict().items()}, [m.training for m in model.modules()]
    defended = defend(model, defense)
    assert not any(a.data_ptr() == b.data_ptr() for a in defended.parameters() for b in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes and not defended.training
    assert not torch.allclose(defended(X), model(X))


def test_images_pass_the_first_link_of_a_chain_first():
    model = small()
    expected = model(0.4 + (X / 2) / 2)
    torch.testing.assert_close(defend(model, [Halved(), Lifted()])(X), expected)
    torch.testing.assert_close((as_defense(Halved()) | Lifted())(model)(X), expected)
    assert not torch.allclose(defend(model, [Lifted(), Halved()])(X), expected)


def test_a_plan_lies_inside_the_network_wherever_it_stands_in_a_chain():
    model, plan = small(), {"0": Mask(0.3)}
    inner = defend(model, plan)
    for chain in ([Halved(), plan], [plan, Halved()]):
        torch.testing.assert_close(defend(model, chain)(X), inner(X / 2))


def test_a_chain_of_chains_is_one_chain():
    chain = as_defense(Halved()) | Lifted() | {"0": Mask(0.3)}
    assert [link.name for link in chain.parts] == ["Halved", "Lifted", "mask"] and chain.name == "Halved | Lifted | mask"
    assert split(chain) == (None, chain)


@pytest.mark.parametrize(
    ("defense", "message"),
    [
        ([PGDAdversarialTraining(eps=0.1), PGDAdversarialTraining(eps=0.3)], "one may train, the second would undo the first"),
        ([{"0": Mask(0.3)}, {"0": MedianFilter(3)}], "at most one may be a plan"),
    ],
)
def test_refuses_chains_that_cannot_be(defense, message):
    with pytest.raises(ValueError, match=message):
        as_defense(defense)


def test_refuses_two_detectors_of_one_network():
    one, two = FeatureSqueezing(bits=2, detect=True), FeatureSqueezing(median=2, detect=True)
    with pytest.raises(ValueError, match="refuses images already: one detector a network"):
        defend(small(), [one, two], images(1, 200))


@pytest.mark.parametrize("given", [3, Mask, []])
def test_refuses_what_is_no_defense(given):
    with pytest.raises(TypeError, match="a defense must be a Defense, a sanitizer, a plan, a transform, a function, the text"):
        as_defense(given)


def test_one_that_learns_needs_images_that_are_not_judged():
    learns = FeatureSqueezing(bits=2, detect=True)
    with pytest.raises(ValueError, match="learns from clean training images, got none: pass data"):
        defend(small(), learns)
    with pytest.raises(ValueError, match="learns from clean training images, got none: give calibration"):
        cell(defense=learns)
    with pytest.raises(ValueError, match="may not learn from the images it is judged on, got 10 of 30 as calibration"):
        cell(defense=learns, calibration=images(0)[:10])


def test_a_transform_that_changes_nothing_is_refused():
    with pytest.raises(ValueError, match="transform 'Idle' on 'the image' changed nothing in 30 examples: it defends nothing"):
        judge(cell(defense=as_defense(Idle())), device="cpu")


def test_what_decides_the_result_is_in_the_key():
    keys = [
        cell().slug,
        cell(defense=FeatureSqueezing(bits=3)).slug,
        cell(defense=FeatureSqueezing(bits=2, median=2)).slug,
        cell(defense=[FeatureSqueezing(bits=2), {"0": Mask(0.3)}]).slug,
        cell(defense=[{"0": Mask(0.3)}, FeatureSqueezing(bits=2)]).slug,
        cell(defense={"0": Mask(0.3)}).slug,
        cell(defense=as_defense(Halved())).slug,
        cell(defense=FeatureSqueezing(bits=2, detect=True), calibration=images(1)).slug,
        cell(defense=FeatureSqueezing(bits=2, detect=True), calibration=images(2)).slug,
    ]
    assert len(set(keys)) == len(keys)
    assert cell().slug == keys[0] and "feature-squeezing" in keys[0]


def test_a_plan_has_the_key_it_had_before_there_were_other_defenses():
    plan = {"0": Mask(0.3)}
    identity = cell(defense=plan).identity
    assert identity["defense"] == {"0": {"name": "mask", "strength": 0.3, "reading": "fixed"}} and "sanitizers" in identity
    assert cell(defense=plan).slug == cell(defense=as_defense(plan)).slug


def test_replayed_examples_are_shared_by_all_defenses():
    data, model = images(0), small()
    replayed = cells(data, model, "small", [FeatureSqueezing(bits=2), {"0": Mask(0.3)}], [PGD(eps=0.05)], ["oblivious"])
    assert len({one.crafting_slug for one in replayed}) == 1 and len({one.slug for one in replayed}) == 2


def test_names_and_configurations_make_a_defense_again():
    for defense in (FeatureSqueezing(bits=2), FeatureSqueezing(h=2.0, detect=True), PGDAdversarialTraining(eps=0.3)):
        config = defense.config
        assert DEFENSES[config.pop("name")](**config) == defense
        json.dumps(defense.config)


@pytest.mark.parametrize("kind", DEFENSES.values(), ids=DEFENSES)
def test_every_card_says_what_is_to_be_known(kind):
    card = kind.card
    assert "arXiv" in card.paper + card.broken or "doi" in card.paper
    assert all(len(text) > 3 for text in (card.paper, card.claim, card.broken, card.surrogates, card.needs, card.deviation))


class Another(Defense):
    """Another network, made as a user would."""

    card = PGDAdversarialTraining.card
    kind = "trained"

    def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
        return small(1)


def test_a_trained_network_is_judged_in_place_of_the_undefended_and_attacked_through_itself():
    rows = judge(cell(defense=Another()), device="cpu")
    predicted = small(1)(next(images(0).batches(30)).x).argmax(1)
    assert rows["clean_prediction"].to_pylist() == predicted.tolist()


def test_a_defense_that_leaves_the_network_as_it_was_is_refused():
    class Same(Another):
        def defend(self, model: nn.Module, data: Data | None, example: Tensor | None) -> nn.Module:
            return model

    with pytest.raises(ValueError, match="left the network as it was: it defends nothing"):
        judge(cell(defense=Same()), device="cpu")


def test_our_weights_come_with_the_budget_they_were_trained_at(net):
    trained, batch = defend(net, PGDAdversarialTraining(eps=0.3)), next(load_or_skip("mnist", "test").sample(30).batches(30))
    ours = load_model("mnist-cnn", weights="mnist-pgd")
    torch.testing.assert_close(trained(batch.x), ours(batch.x))
    with pytest.raises(ValueError, match=r"no weights come with sanact for MNISTCNN trained with eps=0.1; make some with"):
        defend(net, PGDAdversarialTraining(eps=0.1))
    with pytest.raises(ValueError, match=r"no weights come with sanact for Sequential trained with eps=0.3"):
        defend(small(), PGDAdversarialTraining(eps=0.3))


def test_weights_of_another_defense_are_refused(tmp_path, net):
    other, plain = tmp_path / "other.safetensors", tmp_path / "plain.safetensors"
    save_trained(build_model("mnist-cnn"), other, {"defense": json.dumps(PGDAdversarialTraining(eps=0.1).config)})
    save_trained(build_model("mnist-cnn"), plain, {"model": "mnist-cnn"})
    defended = defend(net, PGDAdversarialTraining(eps=0.1, weights=str(other)))
    load_weights(net_of := build_model("mnist-cnn").eval(), other)
    torch.testing.assert_close(defended(torch.zeros(1, 1, 28, 28)), net_of(torch.zeros(1, 1, 28, 28)))
    for weights, message in (
        (other, "were trained with eps 0.1, not 0.3"),
        (plain, "were trained for no defense, not for pgd-at"),
        (tmp_path / "none", "no weights at"),
    ):
        with pytest.raises(ValueError, match=message):
            defend(net, PGDAdversarialTraining(eps=0.3, weights=str(weights)))


def test_chains_are_defenses_too():
    assert isinstance(as_defense(Halved()) | Lifted(), Chain) and isinstance(Halved() | as_defense(Lifted()), Chain)


def test_all_attached_is_every_defense_that_anybodys_network_can_have():
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 900, 3)).eval()
    found = read_defenses("all-attached")
    named = {defense.name for defense in found}
    assert {"mask", "median", "nl-means", "feature-squeezing", "jpeg"} <= named and "pixel-defend" not in named
    for defense in found:
        assert not defense.needs_data and defense(network)(x).shape == (2, 3)
    assert [defense.name for defense in read_defenses("jpeg")] == ["jpeg"]
