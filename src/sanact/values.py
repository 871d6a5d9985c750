"""Rules for the values of arguments: checked on input, and kept as plain Python values.

A rule is called with a value, the name of the argument, and where it was given; it returns the value, or raises ValueError.
NumPy's numbers become Python's, so that a configuration prints, hashes and is written to JSON in one way.
"""

from __future__ import annotations

import difflib
import math
import operator
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

Rule = Callable[[Any, str, str], Any]
Rules = Mapping[str, Rule]

LONGEST = 80  # characters of a value in a message


@dataclass(frozen=True)
class Whole:
    """A whole number from ``least`` to ``most``: an int, or what stands for one as an index (NumPy's integers), but no bool.

    most: a limit for memory and time.  odd: whether to refuse even numbers.  words: replaces "be a whole number ≥ least".
    """

    least: int
    most: int
    odd: bool = False
    words: str = ""

    def __call__(self, value: Any, name: str, where: str) -> int:
        kind = f"be {'an odd' if self.odd else 'a'} whole number ≥ {self.least}"
        try:
            number = None if _is_bool(value) else operator.index(value)
        except TypeError:
            number = None
        if number is None:
            raise refusal(name, kind, value, where)
        if number < self.least or (self.odd and number % 2 == 0):
            raise refusal(name, self.words or kind, value, where)
        if number > self.most:
            raise refusal(name, f"be at most {self.most:,}", value, where)
        return number


@dataclass(frozen=True)
class Number:
    """A real number, as a float; no NaN, no bool.

    least, most: the ends.  open_least, open_most: whether an end is excluded.  words: replaces "be in [least, most]".
    """

    least: float = -math.inf
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False
    words: str = ""

    def __call__(self, value: Any, name: str, where: str) -> float:
        if not isinstance(value, Real) or _is_bool(value):
            raise refusal(name, self._allowed, value, where)
        try:
            number = float(value) + 0.0  # -0.0 becomes 0.0
        except OverflowError:
            number = math.inf
        if self.words and self.most < number < math.inf:
            raise refusal(name, f"be at most {self.most:g}", value, where)
        above = number > self.least if self.open_least else number >= self.least
        below = number < self.most if self.open_most else number <= self.most
        if not (above and below and math.isfinite(number)):
            raise refusal(name, self._allowed, value, where)
        return number

    @property
    def _allowed(self) -> str:
        if self.words:
            return self.words
        low, high = "(" if self.open_least else "[", ")" if self.open_most else "]"
        return f"be in {low}{self.least:g}, {self.most:g}{high}"


LARGE = 1e9  # float32 can still square it; no pixel, logit or weight is near it
POSITIVE = Number(0, LARGE, open_least=True, words="be a positive number")
NOT_NEGATIVE = Number(0, LARGE, words="be a number ≥ 0")
SHARE = Number(0, 1, open_most=True)


def flag(value: Any, name: str, where: str) -> bool:
    """True or False only: as a truth value, the text "no" would be true."""
    if not _is_bool(value):
        raise refusal(name, "be True or False", value, where)
    return bool(value)


@dataclass(frozen=True)
class OneOf:
    """One of some names."""

    names: tuple[str, ...]

    def __call__(self, value: Any, name: str, where: str) -> str:
        if not isinstance(value, str) or value not in self.names:
            raise refusal(name, f"be one of {', '.join(self.names)}", value, where, hint=meant(value, self.names))
        return str(value)


@dataclass(frozen=True)
class Maybe:
    """None, or what another rule allows."""

    rule: Rule

    def __call__(self, value: Any, name: str, where: str) -> Any:
        try:
            return None if value is None else self.rule(value, name, where)
        except ValueError as error:
            raise ValueError(str(error).replace(", got ", " or None, got ", 1)) from None


SEED = Whole(0, 2**63 - 1)
SIDE = Whole(1, 2**16)
PIXELS = 2**24
BATCH_SIZE = Whole(1, 100_000)
CLASSES = Whole(1, 100_000)


def image_shape(value: Any, name: str, where: str) -> tuple[int, int, int]:
    """(C, H, W) of an image of at most `PIXELS` numbers."""
    try:
        channels, height, width = (SIDE(side, name, where) for side in value)
    except (TypeError, ValueError):
        raise refusal(name, "be (channels, height, width)", value, where) from None
    if channels * height * width > PIXELS:
        raise refusal(name, f"be of at most {PIXELS:,} numbers", value, where)
    return channels, height, width


def refusal(name: str, allowed: str, value: Any, where: str, hint: str = "") -> ValueError:
    """The error for a value that is not allowed: ``name must <allowed>, got <value> (<where>)``."""
    return ValueError(f"{name} must {allowed}, got {shown(value)}{hint} ({where})")


def apply_rules(made: Any, where: str) -> None:
    """Check the fields of a frozen dataclass by its ``rules``, and keep what these make of them.  where: named in errors."""
    for field, rule in made.rules.items():
        object.__setattr__(made, field, rule(getattr(made, field), field, where))


def foreseen(error: Exception) -> bool:
    """Whether an error already says what came and what is allowed: it comes from the system, or from our own code."""
    if isinstance(error, OSError):
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    raised_in = Path(frames[-1][0].f_code.co_filename) if frames else Path()
    return isinstance(error, (ValueError, TypeError, RuntimeError, ImportError)) and Path(__file__).parent in raised_in.parents


def meant(value: Any, known: Iterable[str]) -> str:
    """ "; did you mean 'median'?" if the name is close to a known one, else nothing."""
    named = {name.lower(): name for name in known}
    near = difflib.get_close_matches(value.lower(), named, n=1) if isinstance(value, str) and len(named) > 1 else []
    return f"; did you mean '{named[near[0]]}'?" if near and value not in named.values() else ""


def shown(value: Any) -> str:
    """A value for a message: in one line, and cut if too long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # more digits than Python writes
        text = f"a number of {value.bit_length():,} bits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
