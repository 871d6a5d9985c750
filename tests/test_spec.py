"""What somebody writes on the command line becomes the object that Python would have made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from sanact.attacks import ATTACKS, PGD
from sanact.sanitizers import SANITIZERS
from sanact.spec import make, parse


@dataclass(frozen=True)
class Thing:
    size: Any = 0
    color: Any = "red"


KNOWN = {"thing": Thing}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("thing", Thing()),
        ("thing:", Thing()),
        ("thing:3", Thing(3)),
        ("thing:3,blue", Thing(3, "blue")),
        ("thing:size=3,color=blue", Thing(3, "blue")),
        ("thing:3,color=blue", Thing(3, "blue")),
        (" thing : size = 3 , color = dark blue ", Thing(3, "dark blue")),
        ("thing:-3", Thing(-3)),
        ("thing:0.5", Thing(0.5)),
        ("thing:1e-3", Thing(0.001)),
        ("thing:8/255", Thing(8 / 255)),
        ("thing:none,None", Thing(None, None)),
        ("thing:true,FALSE", Thing(True, False)),
        ("thing:1/0", Thing("1/0")),
        ("thing:a/b", Thing("a/b")),
    ],
)
def test_parse(text, expected):
    made = parse("thing", KNOWN, text)
    assert made == expected and type(made.size) is type(expected.size)


def test_parse_knows_our_attacks_and_sanitizers():
    assert parse("attack", ATTACKS, "pgd:eps=8/255,steps=100,norm=L2") == PGD(eps=8 / 255, steps=100, norm="L2")
    assert parse("sanitizer", SANITIZERS, "mask:0.5,reading=mean_std").config == {
        "name": "mask",
        "strength": 0.5,
        "reading": "mean_std",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("think", r"^thing must be one of thing, got 'think'$"),
        ("thing:weight=3", r"^thing 'thing' takes size, color, got weight=3: .*'weight'"),
        ("thing:1,2,3", r"takes size, color, got 1, 2, 3: "),
        ("thing:1,size=2", r"got 1, size=2: .*'size'"),
        ("thing:size=1,size=2", r"^size must be given once, got 'thing:size=1,size=2'$"),
        ("thing:name=x", r"^name must be given once"),
        ("thing:kind=x", r"got kind='x'"),
    ],
)
def test_what_cannot_be_made_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse("thing", KNOWN, text)


def test_the_error_of_a_value_that_is_not_allowed_goes_through():
    with pytest.raises(ValueError, match="odd"):
        parse("sanitizer", SANITIZERS, "median:4")


def test_make_takes_arguments_of_python():
    assert make("thing", KNOWN, "thing", 3, color=None) == Thing(3, None)


def test_make_without_arguments_says_so():
    with pytest.raises(ValueError, match=r"^thing 'empty' takes no arguments, got 1: "):
        make("thing", {"empty": object}, "empty", 1)
