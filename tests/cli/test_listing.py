"""What there is, and what it can be told, as the command line lists it."""

from __future__ import annotations

import inspect
import json

import pytest

from sanact import ATTACKS, SANITIZERS
from sanact.defenses import DEFENSES
from tests.test_cli import sanact

KINDS = {"attacks": ATTACKS, "sanitizers": SANITIZERS, "defenses": DEFENSES}


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_a_kind_are_listed_with_a_sentence_each(kind):
    listed = json.loads(sanact(kind, "--json").out)
    assert listed == {name: inspect.getdoc(made).splitlines()[0] for name, made in KINDS[kind].items()}
    assert all(name in sanact(kind).out for name in listed)


@pytest.mark.parametrize("kind", KINDS)
def test_one_is_shown_with_every_parameter_and_its_default(kind):
    for name, made in KINDS[kind].items():
        card = json.loads(sanact(kind, name, "--json").out)
        parameters = inspect.signature(made).parameters
        lines = card["arguments"].splitlines()
        assert [line.partition(":")[0] for line in lines] == list(parameters)
        for line, parameter in zip(lines, parameters.values(), strict=True):
            assert parameter.default is parameter.empty or line.endswith(f" = {parameter.default}")
    shown = sanact(kind, name).out
    assert inspect.getdoc(made).splitlines()[-1].strip() in shown and "As in: sanact evaluate MODEL --" in shown


def test_the_card_of_a_defense_says_what_broke_it():
    card = json.loads(sanact("defenses", "pixel-defend", "--json").out)
    assert "1710.10766" in card["paper"] and "identity" in card["broken"]
    assert card["kind"] == "attached, to purify; fitted, to detect."


@pytest.mark.parametrize(("kind", "name", "near"), [("attacks", "pdg", "pgd"), ("sanitizers", "medain", "median")])
def test_a_misspelled_name_is_one_line(kind, name, near):
    ended = sanact(kind, name)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1) and f"did you mean '{near}'?" in ended.err
