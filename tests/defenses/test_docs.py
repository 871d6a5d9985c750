"""What the page of each defense is made from: its docstring and its card."""

from __future__ import annotations

import inspect
from dataclasses import asdict

import pytest

from sanact.defenses import DEFENSES
from tests.docs.test_docstrings import building


@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense_says_what_it_does_and_has_a_whole_card(name):
    said = inspect.getdoc(DEFENSES[name]) or ""
    assert said.split("\n\n")[0].endswith((".", ":"))
    assert all(text.strip() for text in asdict(DEFENSES[name].card).values() if isinstance(text, str))


@pytest.mark.parametrize("name", DEFENSES)
def test_its_page_loses_no_word_of_the_docstring(name):
    said = inspect.getdoc(DEFENSES[name]) or ""
    page = building("docstrings").markdown(said).replace("```text", "")
    letters = [[letter for letter in text if letter not in "`*- \n"] for text in (said, page)]
    assert letters[0] == letters[1]
