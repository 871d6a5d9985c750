"""What is left is told from what was measured: on a clock of the test's own, and of work that nobody does."""

from __future__ import annotations

import random

import pytest
import torch

from sanact import APGD, CW, FAB, FGSM, PGD, SAP, AutoAttack, Mask, RayS, Square
from sanact.engine.forecast import ADAPTIVE, Forecast, Part, guesses, passes
from sanact.evaluation.adaptive import Adaptive
from sanact.evaluation.judge import Bench, Case
from tests.engine.cases import cell


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def played(workers: int, seed: int) -> list[tuple[float, float]]:
    """A run of thirty cells of three attacks, whose guesses are up to twelve times off: times, and what was left then.

    A worker takes the next unit as soon as it is free, as engines have them do.
    """
    draw, clock = random.Random(seed), Clock()
    off = {attack: draw.choice((0.25, 0.5, 1.0, 3.0)) for attack in "abc"}
    parts, takes = {}, {}
    for number in range(30):
        attack, defended = draw.choice("abc"), draw.uniform(0.7, 1.4)
        for batch in range(10):
            guess = draw.choice((5.0, 6.0, 20.0))
            parts[number, batch] = Part(guess, (("cell", number), ("attack", attack), "batch"))
            takes[number, batch] = guess * off[attack] * defended * draw.uniform(0.8, 1.2)
    waiting, forecast, told = list(parts), Forecast(parts, workers, clock), []
    draw.shuffle(waiting)
    busy: list[tuple[float, tuple[int, int]]] = []
    while waiting or busy:
        while waiting and len(busy) < workers:
            key = waiting.pop()
            forecast.start(key)
            busy.append((clock.now + takes[key], key))
        told.append((clock.now, forecast.left))
        busy.sort()
        clock.now, key = busy.pop(0)
        forecast.end(key, takes[key])
    assert forecast.left == 0 and forecast.share == 1
    return [*told, (clock.now, 0.0)]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_after_a_tenth_of_a_run_the_time_left_is_right_within_a_half(workers, seed):
    told = played(workers, seed)
    end = told[-1][0]
    later = [(left, end - now) for now, left in told if 0.1 * end <= now <= 0.8 * end]
    assert all(true / 1.5 <= left <= 1.5 * true for left, true in later)


def test_a_unit_takes_its_guess_until_something_is_known_of_its_kind():
    forecast = Forecast({(0, n): Part(10.0, ("a",)) for n in range(3)} | {(1, 0): Part(10.0, ("b",))}, 1, Clock())
    assert forecast.left == 40
    forecast.end((0, 0), 30.0)
    ratio = (30 + 0.5 * 10) / (10 + 0.5 * 10)
    assert forecast.left == pytest.approx(20 * ratio + 10)


def test_what_a_worker_is_at_counts_as_done_as_the_clock_goes_on_but_no_unit_is_shared():
    clock = Clock()
    forecast = Forecast({(0, 0): Part(30.0, ("a",)), (0, 1): Part(10.0, ("a",))}, 4, clock)
    forecast.start((0, 0))
    assert forecast.left == 30
    clock.now = 12
    assert forecast.left == 18 and forecast.share == pytest.approx(12 / 40)
    clock.now = 100
    assert forecast.left == 10 and forecast.share == pytest.approx(30 / 40)


def test_units_that_others_did_are_struck_off():
    forecast = Forecast({(n, k): Part(1.0, ()) for n in (0, 1) for k in (0, 5, "checks")}, 1, Clock())
    forecast.keep(1, {5, "checks"})
    assert set(forecast.parts) == {(0, 0), (0, 5), (0, "checks"), (1, 5), (1, "checks")}
    forecast.keep(0, set())
    assert set(forecast.parts) == {(1, 5), (1, "checks")}


@pytest.mark.parametrize(
    ("attack", "count"),
    [
        (FGSM(eps=0.1), 1),
        (PGD(eps=0.1, steps=40, restarts=3), 120),
        (CW(search_steps=5, steps=100), 500),
        (APGD(eps=0.1, steps=100), 100),
        (APGD(eps=0.1, steps=100, loss="targeted-dlr"), 900),
        (FAB(eps=0.1, steps=10, targets=9), 90),
        (Square(eps=0.1, queries=300), 100),
        (RayS(eps=0.1, queries=300), 100),
        (AutoAttack(eps=0.1, steps=10, queries=300, targets=2), 10 + 20 + 20 + 100),
        (Adaptive(eps=0.1, effort="quick"), ADAPTIVE["quick"]),
    ],
    ids=str,
)
def test_passes_of_an_example_that_withstands(attack, count):
    assert passes(attack) == count


@pytest.mark.parametrize("attack", [PGD(eps=1e-6, steps=7, restarts=3), APGD(eps=1e-6, steps=9)], ids=str)
def test_an_attack_that_wins_nothing_takes_about_so_many(attack):
    counted = 0

    def model(x):
        nonlocal counted
        counted += len(x)
        return torch.stack([9 + 0 * x.sum((1, 2, 3)), x.sum((1, 2, 3)) * 1e-3], 1)

    attack(model, torch.rand(4, 1, 3, 3), torch.zeros(4, dtype=torch.long))
    assert passes(attack) <= counted / 4 <= passes(attack) + 4


def test_examples_are_crafted_once_for_all_who_replay_them_and_what_is_there_is_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("sanact.engine.forecast.seconds_per_pass", lambda bench, batch: (0.001, 0.001))
    first = cell()
    cells = [first, cell(data=first.data, model=first.model, defense=Mask(0.2), knowledge="oblivious")]
    parts = guesses(cells, tmp_path, 5, torch.device("cpu"))
    assert set(parts) == {*((n, start) for n in (0, 1) for start in (0, 5, 10, 15)), (0, "checks")}
    assert parts[1, 0].guess < parts[0, 0].guess / 5
    Case(first, tmp_path).take(Bench(first, "cpu").judge(Case(first, tmp_path).missing(5)[1]))
    assert set(parts) - set(guesses(cells, tmp_path, 5, torch.device("cpu"))) == {(0, 5)}


def test_an_adaptive_attacker_takes_ten_draws_of_a_random_defense(tmp_path, monkeypatch):
    monkeypatch.setattr("sanact.engine.forecast.seconds_per_pass", lambda bench, batch: (0.001, 0.001))
    attack = Adaptive(eps=0.05, effort="quick")
    cells = [cell(defense=defense, attack=attack, knowledge="adaptive") for defense in (Mask(0.2), SAP())]
    parts = guesses(cells, tmp_path, 5, torch.device("cpu"))
    assert parts[1, 0].guess == pytest.approx(10 * parts[0, 0].guess, rel=0.01)
