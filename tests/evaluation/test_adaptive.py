"""The adaptive attacker tries all it says, stays in its ball, and leaves the model as it was."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from sanact import CW, FGSM, PGD, Mask, MedianFilter, sanitize, stand_in
from sanact.attacks.suite import Record, Stage, StageWarning, Standing
from sanact.data import Data
from sanact.evaluation.adaptive import WORK, Adaptive, Campaign
from sanact.evaluation.cell import cells
from sanact.evaluation.judge import examine, judge
from sanact.evaluation.latent import LatentMatching, last_hidden
from sanact.evaluation.rows import failures, won_by
from sanact.gradients import gradient_choices
from sanact.passes import counting
from sanact.sanitizers import sanitizers_of
from tests.evaluation.test_honesty import Fickle
from tests.evaluation.test_judge import cell, columns, images, tiny

X, Y = images(40).images.x, torch.from_numpy(images(40).labels)
QUICK = Adaptive(eps=0.04, effort="quick", guides=X[:20])


def deep() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 3)
        ).eval()


def names(attack: Adaptive, model: nn.Module) -> list[str]:
    x, clean = X[:2], -torch.ones(2)
    return [stage.name for stage in attack.stages(model, Record(x, clean, clean > 0))]


def test_tries_every_gradient_every_target_and_every_bypass():
    defended = sanitize(deep(), {"0": Mask(0.1, "max"), "2": MedianFilter(3)})
    tried = names(replace(QUICK, effort="standard"), defended)
    assert {"transfer margin", "transfer ce", "transfer without 0", "transfer without 2", "square", "rays"} <= set(tried)
    for choice in gradient_choices(defended):
        kinds = ("margin {}, short", "margin {}, on", "margin {}", "ce {}", "dlr {}", "targeted-dlr {}", "targeted-dlr {}, on")
        assert {f"apgd {kind.format(choice)}" for kind in kinds} <= set(tried)
    assert {"apgd margin sigmoid, closing", "apgd margin moving sigmoid, closing"} <= set(tried)
    assert any(name.startswith("latent") for name in tried)


def test_more_effort_is_more_of_everything():
    assert list(WORK) == ["quick", "standard", "thorough"]
    for less, more in pairwise(WORK.values()):
        assert less.short <= more.short and all(a < b for a, b in zip(less[1:], more[1:], strict=True))


def test_a_random_model_is_not_won_by_a_lucky_draw():
    class Averaged(Fickle):
        """Says that few passes show its usual answer, though they do not."""

        averaged = 8

    for part in (Fickle(), Averaged()):
        assert set(replace(QUICK, eps=1e-4).credited(nn.Sequential(tiny(), part).eval(), X, Y).by) == {""}


def test_without_sanitizers_there_is_nothing_to_bypass_and_one_gradient():
    tried = names(QUICK, tiny())
    assert not any("transfer" in name for name in tried)
    assert {name.split(" ", 2)[2] for name in tried if name.startswith("apgd")} == {"exact", "exact, short", "exact, on"}


def test_in_l2_carlini_and_wagner_join_and_rays_does_not():
    tried = names(Adaptive(eps=1.0, norm="L2"), sanitize(tiny(), Mask(0.1, "max")))
    assert {f"cw {choice}" for choice in ("exact", "identity", "moving sigmoid")} <= set(tried) and "rays" not in tried


def test_each_example_goes_through_the_way_that_brought_it_furthest():
    """Identity and exact gradient agree for the first two examples; a part turns the gradient of the others around."""

    class Turned(nn.Module):
        def forward(self, a: Tensor) -> Tensor:
            turn = torch.where(a.flatten(1)[:, 1] > 0.5, -1.0, 1.0)[:, None, None, None]
            return turn * a + (a - turn * a).detach()

    model = nn.Sequential(stand_in(Turned(), nn.Identity()), nn.Flatten(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
        model[2].bias.copy_(torch.tensor([2.4, 0.0]))
    x = torch.tensor([[0.2, 0.1], [0.2, 0.2], [0.2, 0.9], [0.2, 0.8]]).reshape(4, 1, 1, 2)
    record = Record(x, torch.full((4,), -1.8), torch.zeros(4, dtype=torch.bool))
    campaign = Campaign(Adaptive(eps=0.3), model, record)
    for stage in campaign.first_attempts():
        found = stage.run(Standing(x, torch.zeros(4, dtype=torch.long), torch.full((4,), 0.3), torch.Generator(), record.near))
        with torch.no_grad():
            record.note(torch.arange(4), found, model(found)[:, 1] - model(found)[:, 0], torch.zeros(4, dtype=torch.bool))
    first = [list(campaign.ways)[place] for place in campaign.order[0].tolist()]
    assert first[2] == first[3] != "exact"


def test_passes_are_counted_example_by_example():
    model, seen = tiny(), [0]

    def forward(module: nn.Module, given: object, logits: Tensor) -> None:
        seen[0] += len(logits)
        if logits.requires_grad:
            logits.register_hook(lambda slope: seen.__setitem__(0, seen[0] + len(slope)))

    model.register_forward_hook(forward)
    with counting(X) as passes:
        Adaptive(eps=0.04, effort="quick").credited(model, X, Y)
    assert int(passes.sum()) == seen[0] - 2  # on two images it is seen what lets no gradient through
    alone = []
    for i in (3, 7):
        with counting(X[:1]) as one:
            Adaptive(eps=0.04, effort="quick").credited(
                model, X[i : i + 1], Y[i : i + 1], generator=torch.Generator().manual_seed(i)
            )
        alone.append(int(one))
    generators = [torch.Generator().manual_seed(i) for i in range(len(X))]
    with counting(X) as passes:
        Adaptive(eps=0.04, effort="quick").credited(model, X, Y, generator=generators)
    assert passes[[3, 7]].tolist() == alone


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_leaves_no_more_than_any_of_its_parts_and_stays_in_the_ball(norm):
    defended = sanitize(tiny(), {"0": Mask(0.2, "max")})
    eps = {"Linf": 0.04, "L2": 0.3}[norm]
    adversarial, by, _ = replace(QUICK, eps=eps, norm=norm).credited(defended, X, Y)
    right = defended(adversarial).argmax(1) == Y
    assert int(right.sum()) <= int((defended(PGD(eps=eps, norm=norm, steps=20)(defended, X, Y)).argmax(1) == Y).sum())
    assert [name == "" for name in by] == right.tolist()
    delta = (adversarial - X).flatten(1)
    assert (delta.norm(dim=1) if norm == "L2" else delta.abs().amax(1)).max() <= eps * (1 + 1e-5)
    known = {*names(replace(QUICK, eps=eps, norm=norm), defended), "clean", ""}
    assert set(by) <= known and 0 < int((~right).sum()) < 40


def test_leaves_the_model_as_it_was():
    defended = sanitize(deep(), Mask(0.1, "max"))
    replace(QUICK, effort="standard")(defended, X[:5], Y[:5])
    assert [(part.gradient, part.gate_width, part.bypassed, len(part._forward_hooks)) for part in sanitizers_of(defended)] == [
        ("exact", 0.03, False, 0)
    ] * 2


def test_an_example_does_not_depend_on_its_batch():
    defended = sanitize(tiny(), {"0": Mask(0.2, "max")})
    generators = [[torch.Generator().manual_seed(i) for i in range(12)] for _ in range(2)]
    whole, by, _ = QUICK.credited(defended, X[:12], Y[:12], generator=generators[0])
    part, by_part, _ = QUICK.credited(defended, X[5:8], Y[5:8], generator=generators[1][5:8])
    torch.testing.assert_close(part, whole[5:8])
    assert by_part == by[5:8]


def test_the_guides_are_no_part_of_its_identity():
    assert Adaptive(eps=0.04, effort="quick") == QUICK and hash(QUICK) == hash(Adaptive(eps=0.04, effort="quick"))
    assert QUICK.config == {"name": "adaptive", "targeted": False, "eps": 0.04, "norm": "Linf", "effort": "quick"}


class Mends(Adaptive):
    """Two stages that fail in different ways, and one that wins everything."""

    def stages(self, model, record):
        def fails(standing):
            raise RuntimeError("no gradient through this part")

        yield Stage("first", fails)
        yield Stage("far away", lambda standing: (standing.x + 2 * self.eps).clamp(0, 1))
        yield Stage("no image", lambda standing: standing.x * float("nan"))
        yield from super().stages(model, record)


def test_a_stage_that_fails_does_not_end_the_suite_and_is_told():
    broken = Mends(eps=0.3, effort="quick")
    examples, by, failed = broken.credited(tiny(), X, Y)
    assert (tiny()(examples).argmax(1) != Y).all() and "first" not in by
    assert all(set(reasons) == {"first", "far away", "no image"} for reasons in failed)
    assert failed[0]["first"] == "RuntimeError: no gradient through this part"
    assert failed[0]["far away"] == "it left the ball for 40 of 40 examples"
    given = cell(attack=broken, knowledge="adaptive", defense=None)
    rows = judge(given)
    assert failures(rows)["first"] == (40, "RuntimeError: no gradient through this part")
    assert "first failed on 40 of 40 images" in examine(given, rows)["verdict"]


def test_a_suite_that_is_called_by_hand_warns_of_what_failed():
    with pytest.warns(StageWarning) as told:
        Mends(eps=0.3, effort="quick")(tiny(), X, Y)
    assert len(told) == 3 and "the stage 'first' failed, RuntimeError: no gradient through this part" in str(told[0].message)


class Rounds(nn.Module):
    """Rounds the image to eight levels in its own code: there is no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny()

    def forward(self, x: Tensor) -> Tensor:
        return self.network((7 * x).round() / 7)


def test_where_no_gradient_passes_the_identity_is_tried():
    tried = names(QUICK, Rounds().eval())
    assert tried[0] == "apgd margin straight through, short" and "apgd margin straight through" in tried
    y = Rounds().eval()(X).argmax(1)
    wins = [name for name in replace(QUICK, eps=0.15).credited(Rounds().eval(), X, y).by if "straight" in name]
    assert len(wins) > 5
    assert not any("straight" in name for name in names(QUICK, sanitize(deep(), Mask(0.1, "max"))))


def test_examples_of_another_network_are_tried_and_decide_the_key():
    other = deep()
    assert "transfer from the source margin" in names(replace(QUICK, source=other), tiny())
    plain, helped = (cell(attack=QUICK, knowledge="adaptive", defense=None, source=net) for net in (None, other))
    assert plain.slug != helped.slug and "source" not in plain.identity
    assert helped.slug != cell(attack=QUICK, knowledge="adaptive", defense=None, source=tiny()).slug


def test_the_quick_effort_claims_an_upper_bound_only():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    data = Data.from_tensors(X, linear(X).argmax(1))
    for effort, told in (("quick", "upper bound"), ("standard", "reliable")):
        given = cell(data=data, model=linear, defense=None, attack=Adaptive(eps=0.01, effort=effort), knowledge="adaptive")
        assert examine(given, judge(given))["verdict"] == told


@pytest.mark.parametrize(
    ("given", "message"),
    [({"effort": "heroic"}, "effort must be one of quick, standard, thorough"), ({"targeted": True}, "targeted must be False")],
)
def test_bad_input(given, message):
    with pytest.raises(ValueError, match=message):
        Adaptive(eps=0.1, **given)


@pytest.mark.parametrize(("attack", "knowledge"), [(PGD(eps=0.1), "adaptive"), (QUICK, "white-box"), (QUICK, "oblivious")])
def test_the_adaptive_attacker_and_nobody_else_runs_it(attack, knowledge):
    with pytest.raises(ValueError, match="goes with knowledge .adaptive., and with no other"):
        cell(attack=attack, knowledge=knowledge)


@pytest.mark.parametrize(("name", "radius"), [("mnist", 2.0), ("tensors", 0.5)])
def test_where_an_attack_has_no_budget_goes_for_the_usual_ball(name, radius):
    made = cells(replace(images(), name=name), tiny(), "tiny", [None], [CW()], ["adaptive"], l2="usual")
    assert [c.attack.budget for c in made] == [("L2", radius)]


def test_goes_for_each_ball_once():
    made = cells(
        images(),
        tiny(),
        "tiny",
        [None, Mask()],
        [FGSM(eps=0.2), PGD(eps=0.1), CW(), PGD(eps=0.2)],
        ["oblivious", "adaptive"],
        l2=0.5,
    )
    assert [(c.defense_name, c.attack.budget) for c in made if c.knowledge == "adaptive"] == [
        (defense, ball) for defense in ("none", "mask") for ball in (("Linf", 0.1), ("Linf", 0.2), ("L2", 0.5))
    ]


def test_rows_say_what_won_each_example():
    rows = judge(cell(attack=Adaptive(eps=0.04, effort="quick"), knowledge="adaptive"))
    got = columns(rows)
    assert ((got["by"] == "") == (got["prediction"] == got["label"])).all()
    assert ((got["by"] == "clean") == (got["clean_prediction"] != got["label"])).all()
    assert sum(won_by(rows).values()) == sum(name not in ("", "clean") for name in got["by"])


def hidden(model: nn.Module, x: Tensor) -> Tensor:
    with last_hidden(model) as seen, torch.no_grad():
        model(x)
    return seen[-1].flatten(1)


def test_latent_matching_comes_nearer_to_the_nearest_guide_of_another_class():
    model, guides = deep(), torch.cat([X[:20], 1 - X[:20]])
    y = model(X).argmax(1)
    attack = LatentMatching(eps=0.1, steps=20, early_stop=False, guides=guides)
    kinds = model(guides).argmax(1)
    assert len(set(kinds.tolist())) > 1
    adversarial = attack(model, X, y)
    for i in range(10):
        others = hidden(model, guides[kinds != y[i]])
        nearest = others[(others - hidden(model, X[i : i + 1])).norm(dim=1).argmin()]
        before, after = ((hidden(model, x[i : i + 1])[0] - nearest).norm() for x in (X, adversarial))
        assert after < before


def test_the_last_hidden_activation_is_behind_the_last_sanitizer():
    defended = sanitize(deep(), {"0": Mask(0.1, "max")})
    seen = hidden(defended, X[:2])
    assert seen.shape == (2, 4 * 36) and (seen == 0).any()
    assert hidden(deep(), X[:2]).shape == (2, 96)


def test_latent_matching_needs_layers_to_look_into():
    with pytest.raises(TypeError, match="a model with layers to look into, got function"):
        LatentMatching(eps=0.1, guides=X)(lambda x: x.flatten(1)[:, :3], X, Y)
