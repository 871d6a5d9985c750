"""One description of the arguments: functions and the command line take it from there."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import sanact
from sanact.cli import searching
from sanact.search.asked import Scanning, Searching

BOTH = [("search", Searching), ("sensitivity", Scanning)]


@pytest.mark.parametrize(("name", "asked"), BOTH)
def test_a_function_takes_the_fields_and_tells_of_them(name, asked):
    function = getattr(sanact, name)
    given = inspect.signature(function).parameters
    assert {one.name: one.default for one in fields(asked) if one.name not in ("model", "data")} == {
        key: parameter.default for key, parameter in given.items() if key not in ("model", "data")
    }
    assert [parameter.name for parameter in given.values() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD] == [
        "model",
        "data",
    ]
    for field in fields(asked):
        if field.name not in ("device", "seed", "progress"):
            assert re.search(rf"\b{field.name}\b", function.__doc__), field.name


@pytest.mark.parametrize(("name", "asked"), BOTH)
def test_the_command_line_has_the_same_defaults(name, asked):
    given = inspect.signature(getattr(searching, name)).parameters
    for field in fields(asked):
        if field.name in given and field.name not in ("model", "data", "unseen", "layers", "progress"):
            default = given[field.name].default
            assert (Path(default) if field.name == "out" else default) == (
                Path(field.default) if field.name == "out" else field.default
            ), field.name


def test_an_argument_that_is_not_there_is_an_error(small, seen):
    with pytest.raises(TypeError, match="tirals"):
        sanact.search(small, seen, tirals=3)
