"""Tables and pictures of a search, from numbers that are written down here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from sanact.evaluation.statistics import wilson
from sanact.report.search import (
    Importance,
    Search,
    Trial,
    course_figure,
    doubt,
    front_figure,
    front_table,
    importance_figure,
    judged_table,
    scan_figure,
    scan_table,
)
from sanact.report.search.section import section
from sanact.report.search.tables import searched_as

ATTACKED = "adaptive: worst case (quick), Linf 0.1"


def bits(hits, n=100):
    return np.arange(n) < hits


def mask(strength):
    return {"conv1": {"name": "mask", "strength": strength, "reading": "max"}}


def trial(number, plan, clean, attacked, state="complete", seen=100, **more):
    hits = {"clean": bits(clean)} | ({ATTACKED: bits(attacked, seen)} if attacked is not None else {})
    facts = {"pruned": "", "error": "", "source": "sampler", "overhead": None, "seconds": 1.0} | more
    return Trial(number, plan, hits, state, **facts)


def entry(layer, value, clean, attacked, error=""):
    hits = {"clean": "1" * clean + "0" * (100 - clean)} if not error else {}
    hits |= {ATTACKED: "1" * attacked + "0" * (50 - attacked)} if attacked is not None else {}
    return {"layer": layer, "sanitizer": "mask", "variant": "max", "argument": "strength", "value": value} | {
        "hits": hits,
        "pruned": "",
        "error": error,
    }


@pytest.fixture
def found():
    facts = {
        "model": {"name": "net", "fingerprint": "abc"},
        "data": {"name": "digits", "split": "train", "examples": 100, "fingerprint": "def"},
        "objective": "adaptive",
        "figures": ["clean", ATTACKED],
        "drop": 2.0,
        "overhead": False,
        "seed": 0,
        "space": {"layers": ["conv1", "conv2"], "sanitizers": {"mask": {"max": []}}},
    }
    trials = [
        trial(0, {}, 98, 30),
        trial(1, mask(0.1), 97, 45),
        trial(2, mask(0.2), 97, 44),
        trial(3, mask(0.5), 90, 60),
        trial(4, mask(0.4), 96, 10, "pruned", 25, pruned="another was better"),
        trial(5, mask(0.9), 50, None, "pruned", pruned="it costs too much"),
        Trial(6, mask(0.0), {}, "failed", "", "ValueError: it does nothing", "sampler", None, 0.1),
    ]
    judged = {
        "data": {"name": "digits", "split": "test", "examples": 200},
        "effort": "standard",
        "figures": {
            "clean": {"undefended": 196, "best": 190, "n": 200, "difference": -3.0, "low": -6, "high": -1, "p": 0.03},
            "adaptive: worst case (standard), Linf 0.1": {
                "undefended": 60,
                "best": 70,
                "n": 200,
                "difference": 5.0,
                "low": 1,
                "high": 9,
                "p": 0.02,
                "verdict": "suspect: x",
            },
        },
    }
    scan = [entry("conv1", 0.1, 98, 20), entry("conv1", 0.5, 70, None)]
    scan += [entry("conv2", 0.1, 95, 10), entry("conv2", 0.5, 0, None, "no")]
    undefended = {"clean": bits(98), ATTACKED: bits(15)}
    return Search(Path("."), facts, undefended, trials, scan, judged, best_number=1)


def test_the_front_with_intervals_and_the_paired_test(found):
    table = front_table(found)
    assert list(table.rows) == ["0", "1 *", "3"] and table.columns == ["clean", ATTACKED, "gain"]
    low, high = (round(end) for end in (wilson(45, 100).low, wilson(45, 100).high))
    p = binomtest(30, 30).pvalue  # 45 against 15 of nested hits
    assert table.rows["1 *"] == ["97.0 (92–99)", f"45.0 ({low}–{high})", f"+30.0 p={p:.2g}"]
    assert "7 trials (4 complete, 2 pruned, 1 failed)" in table.title and ATTACKED in table.title
    assert "1 *: conv1=mask:strength=0.1,reading=max" in table.notes


def test_the_scan_says_what_each_costs_and_buys(found):
    table = scan_table(found)
    assert table.columns == ["mask max 0.1", "mask max 0.5"]
    # 15 of the first 50 withstood before: 20 now are 10 points more, 10 are 10 points less
    assert table.rows == {"conv1": ["+0.0/+10.0", "-28.0/-"], "conv2": ["-3.0/-10.0", "?"]}
    assert "conv2 mask max 0.5: no" in table.notes
    assert table.notes[0] == "under attack: on the first 50 images alone"
    assert scan_figure(found).axes[1].get_title().endswith("change in points, on the first 50 images")
    whole = replace(found, facts=found.facts | {"data": found.facts["data"] | {"examples": 50}})
    assert "first" not in " ".join(scan_table(whole).notes) + scan_figure(whole).axes[1].get_title()


def test_the_fall_is_printed(found):
    rows = judged_table(found).rows
    assert [row[2] for row in rows.values()] == ["-2.0", "-10.0"]  # from 97 to 95, from 45 to 35
    assert list(rows)[1] == "adaptive: worst case (standard), Linf 0.1" and rows[list(rows)[1]][-1] == "suspect"


def test_a_gain_that_may_be_chance_is_said_to_be_in_doubt(found, monkeypatch):
    monkeypatch.setattr("sanact.report.search.figures.importances", lambda search: Importance({"conv1": 1.0}, {}))
    assert doubt(found) == ""
    name = "adaptive: worst case (standard), Linf 0.1"
    weak = found.judged["figures"][name] | {"low": -1, "p": 0.2}
    doubted = replace(found, judged=found.judged | {"figures": found.judged["figures"] | {name: weak}})
    assert doubt(doubted) == f"On images that the search has not seen, no gain is proven: +5.0 points, {name} (p = 0.2)."
    clean, attacked = section(doubted).facts
    assert "may be chance" in attacked.detail and "may be chance" not in clean.detail
    assert "flatter" in doubt(replace(found, judged={}))


def test_the_front_is_drawn_where_it_is(found):
    figure = front_figure(found)
    (panel,) = figure.axes
    drawn = {
        line.get_label(): sorted(zip(*line.get_data(), strict=True)) for line in panel.get_lines() if len(line.get_xdata())
    }
    assert drawn["judged on all images"] == [(90, 60), (97, 44), (97, 45), (98, 30)]
    assert drawn["stopped early"] == [(96, 40)] and drawn["the best, on images not seen"] == [(95, 35)]
    assert drawn["undefended, on images not seen"] == [(98, 30)]
    bars = {container.get_label(): container[0].get_data() for container in panel.containers}
    assert [list(axis) for axis in bars["the front"]] == [[98, 97, 90], [30, 45, 60]]
    assert [list(axis) for axis in bars["the best, in the search"]] == [[97], [45]]
    assert ATTACKED in panel.get_ylabel()


def test_the_heat_map_has_a_place_for_each(found):
    clean, attacked = scan_figure(found).axes
    assert np.array_equal(clean.images[0].get_array().filled(np.nan), [[0, -28], [-3, np.nan]], equal_nan=True)
    assert np.array_equal(attacked.images[0].get_array().filled(np.nan), [[10, np.nan], [-10, np.nan]], equal_nan=True)
    assert [label.get_text() for label in clean.get_yticklabels()] == ["conv1", "conv2"]


def test_the_course_climbs_with_what_keeps_its_clean_accuracy(found):
    (panel,) = course_figure(found).axes
    drawn = {line.get_label(): [list(axis) for axis in line.get_data()] for line in panel.get_lines()}
    assert drawn["best so far"] == [[0, 1, 2, 6], [30, 45, 45, 45]]
    assert (
        drawn["costs more than 2 points"] == [[3], [60]]
        and drawn["failed"][0] == [6]
        and drawn["too dear to be attacked"][0] == [5]
    )


def test_importances_are_bars():
    figure = importance_figure(Importance({"conv1": 0.7, "conv2": 0.3}, {"conv1: mask max": 0.2}), "title")
    assert [[bar.get_width() for bar in panel.patches] for panel in figure.axes] == [[0.3, 0.7], [0.2]]


def test_a_figure_of_the_verdict_has_its_own_in_the_search_whatever_the_effort(found):
    facts = found.facts | {
        "figures": ["clean", "adaptive: worst case (quick), Linf 0.1", "adaptive: worst case (quick), Linf 0.2"]
    }
    two = replace(found, facts=facts)
    assert searched_as(two, "clean") == "clean"
    assert searched_as(two, "adaptive: worst case (standard), Linf 0.2") == "adaptive: worst case (quick), Linf 0.2"
    assert searched_as(two, "adaptive: worst case (thorough), Linf 0.3") == searched_as(two, "oblivious: FGSM, Linf 0.1") == ""


def test_the_section_of_the_page_says_what_is_left(found, monkeypatch):
    monkeypatch.setattr("sanact.report.search.figures.importances", lambda search: Importance({"conv1": 1.0}, {}))
    made = section(found)
    assert made.title == f"A search: net on 100 images of digits (train), {ATTACKED}" and made.warning == ""
    assert "at most 2 points of clean accuracy: conv1=mask:strength=0.1,reading=max" in made.said
    clean, attacked = made.facts
    assert (clean.value, clean.tone, attacked.value, attacked.tone) == ("-3.0", "bad", "+5.0", "good")
    assert attacked.detail == "95 % interval +1.0 to +9.0. It keeps 35.0 % of 200 images; in the search it kept 45.0 %."
    assert [table.title.split()[0] for table in made.tables] == ["judged", "the", "each"] and len(made.drawings) == 4
    replayed = section(replace(found, facts=found.facts | {"objective": "oblivious"}, judged={}))
    assert "only mask their gradients" in replayed.warning and "the figures of the search flatter it" in replayed.said
    assert "No plan beats" in section(replace(found, best_number=0)).said
    assert section(replace(found, trials=[], judged={}, best_number=-1)).title.startswith("Each layer alone: net")
