"""A request for an evaluation: as a file that a user writes, and as the options of ``sanact evaluate``."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from sanact.evaluation.threat import KNOWLEDGE, Effort, Radius
from sanact.files import write_text
from sanact.values import BATCH_SIZE, SEED, Maybe, OneOf, Rule, Rules, Whole, apply_rules, image_shape, meant, refusal, shown


def text(value: Any, name: str, where: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise refusal(name, "be a text", value, where)
    return value


@dataclass(frozen=True)
class Several:
    """A rule for lists: every member must fulfil another rule, and no member may come twice."""

    rule: Rule

    def __call__(self, value: Any, name: str, where: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise refusal(name, "be a list", value, where)
        found = [self.rule(one, name, where) for one in value]
        if twice := [one for one in found if found.count(one) > 1]:
            raise ValueError(f"{name}: each must be given once, got {shown(twice[0])} twice ({where})")
        return tuple(found)


@dataclass(frozen=True)
class Net:
    """A network: its name, and the weights and stand-ins for its modules, as written on the command line."""

    name: str
    weights: str | None = None
    stand_ins: tuple[str, ...] = ()

    @classmethod
    def of(cls, value: Any, name: str, where: str) -> Net:
        """From a name, or a table with the fields of a `Net`."""
        if isinstance(value, Net):
            return value
        table = value if isinstance(value, dict) else {"name": value}
        _check_keys(table, cls, f"{name} in {where}")
        if "name" not in table:
            raise refusal(name, "be a name, or a table with a name", value, where)
        return cls(
            text(table["name"], f"{name}.name", where),
            Maybe(text)(table.get("weights"), f"{name}.weights", where),
            Several(text)(table.get("stand_ins", ()), f"{name}.stand_ins", where),
        )

    @property
    def title(self) -> str:
        return f"{self.name} ({Path(self.weights).stem})" if self.weights else self.name


def _radius(value: Any, name: str, where: str) -> Radius:
    """A radius, or "usual"."""
    if value != "usual" and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf):
        raise refusal(name, "be 'usual' or a number from 0 on", value, where)
    return value  # type: ignore[no-any-return]


def _folder(value: Any, name: str, where: str) -> Path:
    return Path(text(os.fspath(value) if isinstance(value, Path) else value, name, where))


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """Which networks are judged, on which images, with which defenses and attacks; `sanact run` reads it from TOML.

        models = ["mnist-cnn", { name = "mnist-cnn", weights = "mnist-pgd" }]
        data = "mnist"
        defenses = ["median:3", "conv*=mask:0.3", "feature-squeezing:bits=1"]
        attacks = ["pgd:eps=0.3,steps=100"]
        examples = 100

    Each key is an option of `sanact evaluate`, or its plural, and has the same syntax.  A missing key has its default.
    Paths are relative to the folder that the command is run in.
    models: names, or tables of name, weights and stand_ins.  defenses: plans, too.
    input: (C, H, W), as [3, 224, 224], to resize images to; None takes the network's input shape, or leaves images as they are.
    attacks: none is FGSM and PGD at the usual budget of the data.  examples: None takes 1000, or all if there are fewer.
    source: None is "none" for the quick effort and for weights of ours, else "fit".
    workers: None is one per core, or one per GPU.
    Raises ValueError that names the key, what came, and what is allowed.
    """

    models: tuple[Net, ...]
    data: str = "mnist"
    split: str = "test"
    image_column: str | None = None
    label_column: str | None = None
    class_names: tuple[str, ...] = ()
    input: tuple[int, int, int] | None = None
    classes: tuple[str, ...] = ()
    examples: int | None = None
    defenses: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    knowledge: tuple[str, ...] = tuple(KNOWLEDGE)
    effort: Effort = "standard"
    l2: Radius = "usual"
    source: str | None = None
    seed: int = 0
    out: Path = Path("runs")
    device: str = "auto"
    batch_size: int = 100
    workers: int | None = None
    engine: str = "local"
    address: str | None = None

    rules: ClassVar[Rules] = {
        "models": Several(Net.of),
        **dict.fromkeys(("data", "split", "device"), text),
        **dict.fromkeys(("image_column", "label_column", "source", "address"), Maybe(text)),
        **dict.fromkeys(("class_names", "classes", "defenses", "attacks"), Several(text)),
        "input": Maybe(image_shape),
        "knowledge": Several(OneOf(tuple(KNOWLEDGE))),
        "effort": OneOf(("quick", "standard", "thorough")),
        "engine": OneOf(("local", "ray")),
        "l2": _radius,
        "seed": SEED,
        "out": _folder,
        "examples": Maybe(Whole(1, 10_000_000)),
        "batch_size": BATCH_SIZE,
        "workers": Maybe(Whole(1, 10_000)),
    }

    def __post_init__(self) -> None:
        apply_rules(self, "run")
        for name in ("models", "knowledge"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one, got none (run)")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> RunFile:
        """From options by name.  None and empty ones take the default; names that a run does not have are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in options.items() if name in known and value not in (None, [], ())})

    @classmethod
    def read(cls, path: Path) -> RunFile:
        """From a file; a ValueError names the file and what in it is wrong."""
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
            _check_keys(given, cls, "a run")
            if "models" not in given:
                raise ValueError("models must name at least one, got none")
            return cls(**given)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"'{path}' is not a run file in TOML: {error}") from error
        except ValueError as error:
            raise ValueError(f"'{path}': {error}") from error

    def write(self, path: Path) -> None:
        """To a file: every key with its value, except those that are None."""
        lines = ["# Run again: sanact run FILE"]
        lines += [f"{key} = {_toml(value)}" for key, value in asdict(self).items() if value is not None]
        write_text(path, "\n".join(lines) + "\n")

    @property
    def found_by(self) -> dict[str, Any]:
        """Arguments of `load_data` about columns and classes of the data, and the shape if one is asked for."""
        shape = {"shape": self.input} if self.input else {}
        return {"image": self.image_column, "label": self.label_column, "classes": self.class_names, **shape}

    @property
    def means(self) -> dict[str, Any]:
        """Arguments of `engine.run` about the machines."""
        return {name: getattr(self, name) for name in ("out", "engine", "workers", "address", "batch_size", "device")}


def _check_keys(given: Mapping[str, Any], kind: Any, what: str) -> None:
    known = [field.name for field in fields(kind)]
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"{what} has {', '.join(known)}; got {shown(unknown[0])}{meant(unknown[0], known)}")


def _toml(value: Any) -> str:
    if isinstance(value, (str, Path)):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items() if one not in (None, ())) + " }"
    return str(value)  # a number
