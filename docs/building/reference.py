"""For mkdocstrings: every docstring of the reference goes through `markdown`."""

from __future__ import annotations

from typing import Any

import griffe
from docstrings import markdown


class House(griffe.Extension):
    def __init__(self) -> None:
        self.done: set[int] = set()

    def on_object(self, *, obj: griffe.Object, **more: Any) -> None:
        if obj.docstring and id(obj.docstring) not in self.done:
            self.done.add(id(obj.docstring))
            obj.docstring.value = markdown(obj.docstring.value)
