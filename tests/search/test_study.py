"""The whole search on a small network: what it returns, what lies on disk, how it goes on, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import sanact
from sanact import FGSM, PGD, sanitize
from sanact.data import Data
from sanact.evaluation.judge import Bench
from sanact.naming import read_plan
from sanact.plan import plan_to_dict
from sanact.report.search import read_search
from sanact.search.checking import usual_attack
from sanact.search.course import values
from sanact.search.desk import Desk
from tests.search.conftest import Small

HOW = {"objective": "oblivious", "attacks": [FGSM(eps=0.04)], "drop": 30.0, "sanitizers": ["mask:reading=max"], "levels": 3}
NAME = "oblivious: FGSM, Linf 0.04"


def trials_of(found):
    return [(trial.plan, {name: bits.tolist() for name, bits in trial.hits.items()}, trial.state) for trial in found.trials]


@pytest.fixture(scope="module")
def found(small, seen, unseen, tmp_path_factory):
    out = tmp_path_factory.mktemp("search")
    return sanact.search(small, seen, **HOW, trials=12, unseen=unseen[:8], judge_effort="quick", model_name="small", out=out)


def test_the_front_is_what_nobody_beats(found):
    complete = [trial for trial in found.trials if trial.state == "complete"]
    points = {(trial.clean, trial.attacked) for trial in complete}
    best = {p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}
    assert {(trial.clean, trial.attacked) for trial in found.front} == best and len(found.trials) == 12
    assert len({json.dumps(trial.plan) for trial in found.front}) == len(found.front)
    assert found.trials[0].plan == {} and found.trials[0].clean == 100


def test_the_best_keeps_its_clean_accuracy_and_withstands_most(found, small, seen):
    allowed = [trial for trial in found.trials if trial.state == "complete" and trial.clean >= 70]
    assert found.winner.attacked == max(trial.attacked for trial in allowed) > found.trials[0].attacked
    batch = next(seen.batches(40))
    x, y = batch.x, batch.y
    defended = sanitize(small, found.best)
    attacked = FGSM(eps=0.04)(small, x, y)
    assert 100 * float((defended(attacked).argmax(1) == y).float().mean()) == pytest.approx(found.winner.attacked)
    assert 100 * float((defended(x).argmax(1) == y).float().mean()) == pytest.approx(found.winner.clean)


def test_plans_are_what_the_command_line_takes(found):
    read = [plan_to_dict(read_plan(str(path))) for path in sorted((found.out / "plans").glob("*.json"))]
    assert read == [trial.plan for trial in sorted(found.front, key=lambda trial: trial.number) if trial.plan]
    assert plan_to_dict(read_plan(str(found.out / "best.json"))) == plan_to_dict(found.best)
    assert [plan_to_dict(plan) for plan in found.plans] == [trial.plan for trial in found.front if trial.plan]


def test_what_is_best_is_judged_again_on_images_not_seen(found, small, unseen):
    batch = next(unseen.batches(8))
    x, y = batch.x, batch.y
    defended, attacked = sanitize(small, found.best), FGSM(eps=0.04)(small, x, y)
    figures = found.judged["figures"]
    with torch.no_grad():
        right = {
            "clean": [(network(x).argmax(1) == y).sum() for network in (small, defended)],
            NAME: [(network(attacked).argmax(1) == y).sum() for network in (small, defended)],
        }
    for name, (undefended, best) in right.items():
        assert (figures[name]["undefended"], figures[name]["best"], figures[name]["n"]) == (undefended, best, 8)
    adaptive = figures["adaptive: worst case (quick), Linf 0.04"]
    assert (
        adaptive["best"] <= figures[NAME]["best"] and adaptive["verdict"] in ("upper bound", "reliable") or adaptive["verdict"]
    )
    text = (found.out / "best.md").read_text()
    assert NAME in text and "the search has not seen" in text and "noise 1" in text


def test_a_study_goes_on_from_where_it_was(found, small, seen, tmp_path, monkeypatch):
    """Killed after six trials and again in the seventh: the same trials as of a search that nobody stopped."""
    sanact.search(small, seen, **HOW, trials=6, model_name="small", out=tmp_path)
    judge = Desk.submit

    def killed(self, plan, *given, **named):
        if given:  # a trial, not the scan
            raise KeyboardInterrupt
        return judge(self, plan, *given, **named)

    monkeypatch.setattr(Desk, "submit", killed)
    with pytest.raises(KeyboardInterrupt):
        sanact.search(small, seen, **HOW, trials=12, model_name="small", out=tmp_path)
    monkeypatch.setattr(Desk, "submit", judge)
    counted = []
    monkeypatch.setattr(Bench, "judge", lambda *given, judge=Bench.judge, **named: counted.append(1) or judge(*given, **named))
    again = sanact.search(small, seen, **HOW, trials=12, model_name="small", out=tmp_path)
    assert trials_of(again) == trials_of(found)
    judged = len(counted)
    same = sanact.search(small, seen, **HOW, trials=12, model_name="small", out=tmp_path)
    assert trials_of(same) == trials_of(found) and len(counted) == judged > 0


def test_two_workers_judge_as_one_does(found, small, seen, tmp_path):
    both = sanact.search(small, seen, **HOW, trials=9, model_name="small", workers=2, out=tmp_path)
    assert len(both.trials) == 9 and list(both.scan) != []
    one = {json.dumps(plan): hits for plan, hits, state in trials_of(found) if state == "complete"}
    two = {json.dumps(plan): hits for plan, hits, state in trials_of(both) if state == "complete"}
    shared = one.keys() & two.keys()
    assert len(shared) >= 3 and all(one[plan] == two[plan] for plan in shared)
    strip = [{key: value for key, value in entry.items() if key != "seconds"} for entry in both.scan]
    assert strip == [{key: value for key, value in entry.items() if key != "seconds"} for entry in found.scan]


def test_a_failed_trial_is_kept_and_ends_nothing(small, seen, tmp_path):
    """Of two strengths, 0 does nothing, which the judge refuses."""
    space = ["mask:0"], ["mask:0.5,max"]
    with pytest.raises(
        ValueError, match=r"all \d trials failed, the last with ValueError: sanitizer 'mask' .* changed nothing"
    ):
        sanact.search(small, seen, **HOW | {"sanitizers": space[0]}, trials=3, out=tmp_path / "all")
    with pytest.raises(ValueError, match="the only trial failed, with ValueError: sanitizer 'mask'"):
        sanact.search(small, seen, **HOW | {"sanitizers": space[0], "levels": 0}, trials=2, out=tmp_path / "one")
    kept = read_search(tmp_path / "all").trials
    assert [trial.state for trial in kept] == ["complete", "failed", "failed"] and "changed nothing" in kept[1].error
    some = sanact.search(small, seen, **HOW | {"sanitizers": space[0] + space[1]}, trials=8, out=tmp_path / "some")
    states = [trial.state for trial in some.trials]
    assert len(states) == 8 and "failed" in states and "complete" in states[states.index("failed") :]


def test_each_trial_races_against_the_front_of_those_before_it(small, seen, tmp_path, monkeypatch):
    raced, submit = [], Desk.submit

    def watched(self, plan, *given, **named):
        if given:  # a trial, not the scan
            raced.append([tuple(100 * float(bits.mean()) for bits in rival.hits.values()) for rival in given[0]])
        return submit(self, plan, *given, **named)

    monkeypatch.setattr(Desk, "submit", watched)
    trials = sanact.search(small, seen, **HOW, trials=8, out=tmp_path).trials
    assert len(raced) == 8 and max(map(len, raced)) > 1
    for number, rivals in enumerate(raced):
        points = {(trial.clean, trial.attacked) for trial in trials[:number] if trial.state == "complete"}
        assert set(rivals) == {p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}


def test_values_are_percent_and_overhead_counts_against():
    facts = {"hits": {"clean": "1110", "a": "10"}, "overhead": 30.0}
    assert values(facts) == [75, 50, -30] and values({"hits": facts["hits"]}) == [75, 50]


def test_overhead_is_an_objective_if_asked(small, seen, tmp_path):
    timed = sanact.search(small, seen, **HOW | {"levels": 0}, overhead=True, trials=3, out=tmp_path)
    assert all(trial.overhead is not None for trial in timed.trials if trial.state == "complete")
    assert len(timed.trials[0].values) == 3 and timed.trials[0].overhead == 0


def test_a_budget_is_chosen_that_leaves_a_third(small, seen):
    attack = usual_attack(small, seen)
    batch = next(seen.batches(40))

    def left(eps):
        return float((small(PGD(eps=eps)(small, batch.x, batch.y)).argmax(1) == batch.y).float().mean())

    assert attack.eps in {8 / 255 / 2**k for k in range(10)} and left(attack.eps) >= 1 / 3
    assert attack.eps == 8 / 255 or left(2 * attack.eps) < 1 / 3


def test_sensitivity_alone(small, seen, tmp_path):
    alone = sanact.sensitivity(small, seen, **HOW, out=tmp_path)
    assert len(alone.scan) == 6 and not alone.trials
    assert all(len(entry["hits"][NAME]) == 40 for entry in alone.scan if not entry["pruned"] and not entry["error"])


def test_nothing_is_left_behind(small, seen, tmp_path):
    state, rng = {name: value.clone() for name, value in small.state_dict().items()}, torch.get_rng_state()
    numpy = np.random.get_state()[1].copy()
    sanact.search(small, seen, **HOW | {"levels": 0}, trials=2, out=tmp_path)
    assert all(torch.equal(value, state[name]) for name, value in small.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng) and (np.random.get_state()[1] == numpy).all() and not small.training


WRONG = {  # what is asked for, by what the message says
    "must have a layer": lambda seen, unseen: {"layers": []},
    "must have a sanitizer": lambda seen, unseen: {"sanitizers": []},
    "matches no hidden convolution": lambda seen, unseen: {"layers": ["fc"]},
    "objective must be one of oblivious, white-box, adaptive": lambda seen, unseen: {"objective": "adaptiv"},
    " effort must be one of|^effort must be one of": lambda seen, unseen: {"effort": "quik"},
    "judge_effort must be one of": lambda seen, unseen: {"judge_effort": "quik"},
    r"drop must be in \[0, 100\], got -1": lambda seen, unseen: {"drop": -1},
    "trials must be a whole number ≥ 1": lambda seen, unseen: {"trials": 0},
    "hours must be in": lambda seen, unseen: {"hours": 0},
    "workers must be a whole number ≥ 1": lambda seen, unseen: {"workers": 0},
    "levels must be a whole number ≥ 0": lambda seen, unseen: {"levels": -1},
    r"has seen 5 of these 5 \('noise 0', all\)": lambda seen, unseen: {"unseen": seen[:5]},
    "has seen 3 of these 3": lambda seen, unseen: {"unseen": relabelled(seen, 3, 0)},
    "unseen must hold images, got none": lambda seen, unseen: {"unseen": unseen[:0]},
    "needs at least 10 images, got 9": lambda seen, unseen: {"data": seen[:9]},
    "data must be of type Data": lambda seen, unseen: {"data": torch.rand(3)},
    "model must be of type Module": lambda seen, unseen: {"model": "small"},
    "changes no prediction; its budget must be larger": lambda seen, unseen: {"attacks": [FGSM(eps=1e-5)]},
    "has none of the 12 images right": lambda seen, unseen: {"data": relabelled(seen, 12, 1)},
}


def relabelled(data, count, shift):
    """The first images under another name, with their labels moved on."""
    batch = next(data.batches(count))
    return Data.from_tensors(batch.x, (batch.y + shift) % 3, name="others", classes=["a", "b", "c"])


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_searched(small, seen, unseen, tmp_path, message):
    given = {"model": small, "data": seen, **HOW, "trials": 2, "out": tmp_path} | WRONG[message](seen, unseen)
    with pytest.raises((ValueError, TypeError), match=message):
        sanact.search(given.pop("model"), given.pop("data"), **given)


def test_an_attack_that_nobody_withstands(small, seen, tmp_path):
    with pytest.raises(ValueError, match="the objective never varies: no image withstands .* its budget must be smaller"):
        sanact.search(small, seen, **HOW | {"attacks": [PGD(eps=0.9, step_size=0.1)], "drop": 50.0}, trials=2, out=tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drop": 3.0}, "drop: 30.0 there, 3.0 here"),
        ({"layers": ["conv1"]}, r"space: layers \['conv1', 'conv2'\] there, \['conv1'\] here"),
        ({"attacks": [FGSM(eps=0.05)]}, "attacks, figures: "),
        ({"levels": 1}, "levels: 3 there, 1 here"),
        ("data", "data: name 'noise 0' there, 'noise 1' here"),
        ("model", "model: fingerprint '[0-9a-f]{16}' there"),
    ],
)
def test_a_study_of_something_else_in_the_folder(found, small, seen, unseen, changes, said):
    network, images = (Small().eval() if changes == "model" else small), (unseen if changes == "data" else seen)
    before = (found.out / "study.json").read_bytes()
    more = HOW | (changes if isinstance(changes, dict) else {})
    with pytest.raises(ValueError, match=rf"holds the study of another .*{said}.*; choose another folder"):
        sanact.search(network, images, **more, trials=12, model_name="small", out=found.out)
    assert (found.out / "study.json").read_bytes() == before


def test_a_folder_that_somebody_is_at_or_that_holds_nothing(small, seen, tmp_path):
    from sanact.files import alone

    with alone(tmp_path / ".lock", wait=False), pytest.raises(ValueError, match="another search is at work"):
        sanact.search(small, seen, **HOW, trials=1, out=tmp_path)
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no study: it is not what a search writes"):
        sanact.search(small, seen, **HOW, trials=1, out=tmp_path)
    with pytest.raises(ValueError, match="holds no search: it has no study.json"):
        read_search(tmp_path / "absent")


def test_without_optuna_it_says_how_to_get_it(small, seen, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'sanact\[search\]'"):
        sanact.search(small, seen, **HOW, trials=1, out=tmp_path)
