"""The figures that stand large in a page."""

from __future__ import annotations

from typing import NamedTuple


class Fact(NamedTuple):
    """A figure and its meaning.  tone: "good", "bad", or ""."""

    name: str
    value: str
    detail: str
    tone: str = ""
