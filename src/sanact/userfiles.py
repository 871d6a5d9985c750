"""Functions from a user's own Python file: "path/to/file.py:function"."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from sanact.spec import parse
from sanact.values import meant, shown

T = TypeVar("T")

IN_A_FILE = re.compile(r"(?P<file>.+\.py):(?P<function>\w+)(?P<arguments>:.*)?")


def parse_function(kind: str, make: Callable[..., T], text: str) -> T | None:
    """``make(function, key=…)`` for a text ``path/to/file.py:function[:KEY=VALUE,…]``; None for other texts."""
    found = IN_A_FILE.fullmatch(text)
    if found is None:
        return None
    name = found["function"]
    function = load_function(f"{found['file']}:{name}")

    def with_arguments(**arguments: Any) -> T:
        return make(function, **arguments)

    return parse(kind, {name: with_arguments}, name + (found["arguments"] or ""))


def load_function(name: str) -> Callable[..., Any]:
    """A function or class by "path/to/file.py:function".  ValueError if it does not exist, or the file fails."""
    path, colon, function = name.rpartition(":")
    if not (colon and path.endswith(".py")):
        raise ValueError(f"a function must be written path/to/file.py:function, got {shown(name)}")
    found: list[Any] = []
    run_file(Path(path), lambda module: found.append(getattr(module, function)), function)
    if not callable(found[0]):
        raise ValueError(f"'{function}' in '{path}' must be a function, got {type(found[0]).__name__}")
    made: Callable[..., Any] = found[0]
    return made


def run_file(path: Path, use: Callable[[ModuleType], None], name: str) -> None:
    """Run a user's file and use what it defines; its errors, of any kind, become ValueError."""
    spec = importlib.util.spec_from_file_location("sanact_user_" + re.sub(r"\W", "_", path.stem), path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise ValueError(f"no file '{path}' to take '{name}' from")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that its classes and functions can be pickled
    neighbours = str(path.parent.resolve())
    sys.path.insert(0, neighbours)  # as Python does for a script
    try:
        with redirect_stdout(sys.stderr):  # standard output is for results alone
            spec.loader.exec_module(module)
            use(module)
    except AttributeError as error:
        made = [name for name, value in inspect.getmembers(module, callable) if value.__module__ == module.__name__]
        missing = f"'{path}' has no working '{name}': {error}" if hasattr(module, name) else f"'{path}' has no '{name}'"
        raise ValueError(f"{missing}; it defines: {', '.join(made) or 'nothing'}{meant(name, made)}") from error
    except (Exception, SystemExit) as error:  # the user's code may raise anything, and may want to end the program
        raise ValueError(f"'{name}' in '{path}' failed with {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(neighbours)
