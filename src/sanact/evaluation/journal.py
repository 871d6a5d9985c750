"""A journal of a long computation, so that a killed one can continue."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Journal:
    """Results by name in a file of JSON lines, each written as soon as it is known.  Results must fit into JSON.

    A line that was cut off or changed is ignored, and its result is computed again.
    path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, Any] = {}
        for line in path.read_bytes().splitlines() if path and path.exists() else []:
            digest, _, text = line.partition(b" ")
            if digest == _digest(text):
                self.known.update(json.loads(text))

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """The result of this name: from the file, or ``compute()``, which is then written there."""
        if name not in self.known:
            self.known[name] = compute()
            if self.path:
                self._add(self.path, json.dumps({name: self.known[name]}).encode())
        return self.known[name]

    @staticmethod
    def _add(path: Path, text: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("ab") as file:
                file.write(b"\n" + _digest(text) + b" " + text)  # on a line of its own, also after an incomplete one
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:16].encode()
