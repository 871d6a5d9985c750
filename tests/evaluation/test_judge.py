"""The judge decides alone, and refuses what would be a false claim of robustness."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sanact import CW, FGSM, PGD, Attack, AutoAttack, Mask, MedianFilter, sanitize
from sanact.data import Data
from sanact.evaluation import judge as judge_module
from sanact.evaluation.cell import Cell, cells
from sanact.evaluation.crafted import crafted_examples
from sanact.evaluation.judge import Bench, checked, examine, judge
from sanact.evaluation.rows import SCHEMA, accuracy, failures

PLAN = {"0": Mask(0.3)}


def tiny() -> nn.Module:
    """A convolution and a linear layer: 8x8 images, 3 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3)).eval()


def images(n: int = 40, seed: int = 0) -> Data:
    """Labelled by the tiny network itself, so that it is right on all."""
    x = 0.9 * torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Data.from_tensors(x, tiny()(x).argmax(1), classes=("a", "b", "c"))


def cell(**changes) -> Cell:
    given = dict(data=images(), model=tiny(), model_name="tiny", defense=PLAN, attack=PGD(eps=0.05), knowledge="white-box")
    return Cell(**given | changes)


def columns(table) -> dict[str, np.ndarray]:
    return {name: np.array(table[name]) for name in table.column_names}


@dataclass(frozen=True, kw_only=True)
class Returns(Attack):
    """An attack that returns the images with a change of ours."""

    shift: float = 0.0
    eps: float = 0.1
    cut: int = 8
    norm: str = "Linf"

    @property
    def budget(self):
        return self.norm, self.eps

    def craft(self, model, x, y, eps, generator):
        return (x + self.shift)[..., : self.cut]


def test_what_is_attacked_has_no_batch_norm_and_the_model_keeps_its_own():
    model, met = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), *tiny()[1:]).eval(), []

    class Looks(Returns):
        def craft(self, model, x, y, eps, generator):
            met.extend(type(part) for part in model.modules())
            return x + self.shift

    judge(cell(model=model, defense={"0": Mask(0.3)}, attack=Looks(shift=0.01)))
    assert nn.Conv2d in met and nn.BatchNorm2d not in met
    assert isinstance(model[1], nn.BatchNorm2d)


def test_benches_of_one_model_share_it_and_judge_as_if_each_had_its_own():
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), *tiny()[1:]).eval()
    data = images()
    first = Bench(cell(model=model, data=data, defense=None), "cpu")
    for knowledge in ("oblivious", "white-box"):
        other = cell(model=model, data=data, knowledge=knowledge)
        shared, own = first.of(other), Bench(other, "cpu")
        assert shared.base is first.base and shared.judged is not own.judged
        assert shared.judge(np.arange(40)).rows.equals(own.judge(np.arange(40)).rows)
    assert first.of(cell(model=model, data=data, defense=None, attack=FGSM(eps=0.1))).judged is first.judged
    assert first.of(cell(model=model, defense=PLAN)).base is not first.base  # of other images


def test_rows_say_what_a_look_by_hand_says():
    model, data, defended = tiny(), images(), sanitize(tiny(), PLAN)
    rows = judge(cell(attack=FGSM(eps=0.05)))
    x, y = data.images.x, torch.from_numpy(data.labels)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(defended(x), y, reduction="sum"), x)
    candidate = (x + 0.05 * gradient.sign()).clamp(0, 1).detach()
    harmed = defended(candidate).argmax(1) != y
    already = defended(x).argmax(1) != y  # FGSM leaves alone what is won
    got = columns(rows)
    assert rows.schema.equals(SCHEMA)
    assert got["index"].tolist() == list(range(40))
    assert got["label"].tolist() == y.tolist()
    assert got["clean_prediction"].tolist() == defended(x).argmax(1).tolist()
    assert ((got["prediction"] != got["label"]) == (harmed | already).numpy()).all()
    assert np.allclose(got["linf"][already], 0)
    moved = (harmed & ~already).numpy()
    assert moved.any()
    np.testing.assert_allclose(got["linf"][moved], (candidate - x).detach().abs().amax((1, 2, 3))[moved], rtol=1e-5)
    np.testing.assert_allclose(got["l2"][moved], (candidate - x).detach().flatten(1).norm(dim=1)[moved], rtol=1e-5)
    assert model.training is False


@pytest.mark.parametrize("knowledge", ["oblivious", "white-box"])
@pytest.mark.parametrize("attack", [PGD(eps=0.04, steps=5, restarts=2), CW(search_steps=2, steps=20, step_size=0.1)], ids=str)
def test_batch_size_does_not_matter(knowledge, attack):
    tables = [columns(judge(cell(knowledge=knowledge, attack=attack), batch_size=size)) for size in (40, 7, 1)]
    for other in tables[1:]:
        for name in ("index", "label", "clean_prediction", "prediction"):
            assert (other[name] == tables[0][name]).all()
        np.testing.assert_allclose(other["l2"], tables[0]["l2"], atol=1e-4)


def test_an_oblivious_attacker_crafts_on_the_undefended_model(tmp_path):
    attack, data = PGD(eps=0.05, early_stop=False), images()
    oblivious = cell(knowledge="oblivious", attack=attack)
    rows = columns(judge(oblivious, folder=tmp_path))
    replayed = crafted_examples(oblivious, tmp_path)
    streams = [
        torch.Generator().manual_seed(int(np.random.SeedSequence((0, i)).generate_state(1, np.uint64)[0])) for i in range(40)
    ]
    y = torch.from_numpy(data.labels)
    torch.testing.assert_close(replayed, attack(tiny(), data.images.x, y, generator=streams))
    assert (rows["prediction"] == sanitize(tiny(), PLAN)(replayed).argmax(1).numpy()).all()
    assert (tiny()(replayed).argmax(1) != y).any()


def test_a_suite_is_replayed_like_any_attack_and_named_by_its_parts_otherwise():
    suite = AutoAttack(eps=0.04, steps=5, queries=20)
    rows = {k: columns(judge(cell(attack=suite, knowledge=k))) for k in ("oblivious", "white-box")}
    generators = [judge_module._generator(0, i) for i in range(40)]
    x, y = images().images.x, torch.from_numpy(images().labels)
    replayed = suite.for_replay()(tiny(), x, y, generator=generators)
    assert (rows["oblivious"]["prediction"] == sanitize(tiny(), PLAN)(replayed).argmax(1).numpy()).all()
    assert set(rows["oblivious"]["by"]) <= {"", "clean", "autoattack"}
    assert "apgd-ce" in rows["white-box"]["by"]


def test_examples_are_crafted_once_for_all_defenses(tmp_path, monkeypatch):
    crafted = []
    monkeypatch.setattr(Returns, "craft", lambda self, model, x, *rest: crafted.append(len(x)) or x + 0.01)
    for defense in (None, MedianFilter(3), Mask(0.2)):
        judge(cell(defense=defense, knowledge="oblivious", attack=Returns()), folder=tmp_path, batch_size=20)
    assert crafted == [20, 20]


def test_white_box_does_more_harm_than_replay():
    attack = PGD(eps=0.05)
    share = {k: accuracy(judge(cell(knowledge=k, attack=attack))).value for k in ("oblivious", "white-box")}
    assert share["white-box"] < share["oblivious"]


def test_the_seed_moves_random_starts():
    attack = PGD(eps=0.03, steps=1)
    first, again, other = (columns(judge(cell(attack=attack, seed=seed)))["l2"] for seed in (0, 0, 1))
    assert (first == again).all() and not (first == other).all()


def test_leaves_no_trace():
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    judge(cell(model=model))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not model.training and not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_calibration_images_reach_the_mask():
    rows = judge(cell(defense=Mask(0.5, "calibrated"), calibration=images(20, seed=1)))
    assert len(rows) == 40


def test_on_an_undefended_model_every_attacker_is_white_box():
    assert cell(defense=None, knowledge="oblivious").identity == cell(defense=None).identity


def test_identity_tells_cells_apart():
    other_net = tiny()
    other_net[0].weight.data.mul_(1.001)
    variants = [
        cell(),
        cell(seed=1),
        cell(attack=PGD(eps=0.06)),
        cell(knowledge="oblivious"),
        cell(defense={"0": Mask(0.31)}),
        cell(defense=None),
        cell(model=other_net),
        cell(data=images(41)),
        cell(calibration=images(10, seed=1)),
        cell(data=replace(images(), note="re-encoded as JPEG")),
    ]
    assert len({variant.slug for variant in variants}) == len(variants)
    assert cell().slug == cell().slug


def test_cells_are_all_combinations_defense_by_defense():
    made = cells(images(), tiny(), "tiny", [None, Mask()], [FGSM(eps=0.1), PGD(eps=0.1)], ["oblivious", "white-box"])
    assert [str(c) for c in made] == [
        "none · fgsm · white-box",
        "none · pgd · white-box",
        "mask · fgsm · oblivious",
        "mask · fgsm · white-box",
        "mask · pgd · oblivious",
        "mask · pgd · white-box",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"knowledge": "secret"}, "knowledge must be one of oblivious, white-box, adaptive, got 'secret'"),
        ({"attack": PGD(eps=0.1, targeted=True)}, "targeted must be False"),
    ],
)
def test_a_cell_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        cell(**changes)


def test_an_attack_that_returns_its_input_is_suspect_whatever_the_knowledge():
    for knowledge in ("oblivious", "white-box"):
        given = cell(attack=Returns(), knowledge=knowledge)
        rows = judge(given)
        verdict = examine(given, rows)["verdict"]
        assert verdict.startswith("suspect: ") and "returned its input for all 40 images: it attacked nothing" in verdict
    assert examine(cell(knowledge="oblivious"), judge(cell(knowledge="oblivious"))) == {}


class Breaks(Returns):
    """Fails on every image but the first batch of ten."""

    def craft(self, model, x, y, eps, generator):
        if len(x) < 20:
            raise IndexError("no such place")
        return (x + 0.1).clamp(0, 1)


def test_where_an_attack_fails_the_rows_are_of_the_images_and_say_why():
    given = cell(attack=Breaks(eps=0.2))
    rows = judge(given, batch_size=30)
    assert failures(rows) == {"Breaks": (10, "IndexError: no such place")}
    got = columns(rows)
    assert (got["linf"][30:] == 0).all() and (got["linf"][:30] > 0).all()
    assert (got["prediction"][30:] == got["clean_prediction"][30:]).all()
    assert "Breaks failed on 10 of 40 images: IndexError: no such place (0.25)" in examine(given, rows)["verdict"]


def test_a_model_that_is_never_right_is_judged_and_suspect():
    wrong = Data.from_tensors(images().images.x, (torch.from_numpy(images().labels) + 1) % 3)
    given = cell(data=wrong, defense=None)
    assert examine(given, judge(given))["verdict"] == "suspect: no example is classified correctly (1)"


def test_what_cannot_be_judged_is_refused_before_any_attack_runs():
    bad = [cell(defense={"0": Mask(0.0, "fixed")}), cell(attack=PGD(eps=1.5)), cell(model=nan_net(), defense=None)]
    for given, message in zip(bad, ("changed nothing in 40", "eps must be at most 1", "NaN logits"), strict=True):
        with pytest.raises(ValueError, match=message):
            list(checked([cell(), given]))
    assert len(list(checked([cell(), cell(defense=None)]))) == 2


class Remembers(nn.Module):
    """Answers differently each time it is called: tracing sees one call only."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.calls = tiny(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x) * self.calls


def nan_net() -> nn.Module:
    model = tiny()
    model[3].bias.data[0] = float("nan")
    return model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"defense": Mask(0.0, "fixed")}, r"sanitizer 'mask' on '0' changed nothing in 40 examples: it defends nothing"),
        ({"attack": PGD(eps=1.5)}, "eps must be at most 1 in Linf, where the ball holds every image, got 1.5"),
        ({"attack": PGD(eps=1e-12)}, "eps 1e-12 is too small to change a pixel in torch.float32: it attacked nothing"),
        ({"attack": PGD(eps=9.0, norm="L2")}, "eps must be at most 8 in L2"),
        ({"model": tiny().train()}, "must be in evaluation mode"),
        ({"model": nan_net()}, "NaN logits for 40 of 40"),
        ({"model": Remembers().eval(), "defense": Mask()}, "differs from the undefended: "),
        ({"data": Data.from_tensors(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]))}, r"y must lie in 0\.\.2, got 0\.\.3"),
        (
            {"data": Data.from_tensors(2 * torch.ones(4, 1, 8, 8), torch.zeros(4).long())},
            r"x must lie in \[0, 1\], got \[2, 2\]",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:30],
)
def test_refuses_to_judge(changes, message):
    with pytest.raises(ValueError, match=message):
        judge(replace(cell(data=images()), **changes), batch_size=40)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (Returns(shift=1e-3, eps=1e-4), r"went 0\.001\d* away in Linf, its budget is 0\.0001"),
        (Returns(shift=1e-3, eps=0.06, norm="L1"), r"went 0\.06\d* away in L1, its budget is 0\.06"),
        (Returns(shift=0.5, eps=1.0), r"x must lie in \[0, 1\], got"),
        (Returns(cut=7), r"returned \(40, 1, 8, 7\) for \(40, 1, 8, 8\)"),
    ],
    ids=["Linf", "L1", "range", "shape"],
)
def test_what_an_attack_may_not_return_wins_nothing_and_is_told(attack, message):
    """So that the other cells of a run go on."""
    asked = replace(cell(data=images()), attack=attack)
    rows = judge(asked, batch_size=40)
    assert (rows["prediction"], rows["linf"].to_numpy().max()) == (rows["clean_prediction"], 0)
    assert all(re.search(message, why) for why in rows["failed"].to_pylist())
    assert re.match(f"suspect: .* failed on 40 of 40 images: .*{message}", examine(asked, rows, device="cpu")["verdict"])
