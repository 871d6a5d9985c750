"""What a search and a scan can be asked for: each argument with its default and its meaning, once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from torch import nn

    from sanact.attacks import Attack
    from sanact.data import Data
    from sanact.evaluation.threat import Effort, Knowledge

Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Scanning:
    """The arguments of `sanact.sensitivity`.

    model: undefended, in evaluation mode.  data: images that it was not fitted to; 200 are a start.
    sanitizers: as the command line writes them; an argument that is given stays as it is: ``"mask:reading=max"``.  A defense of
        the image with a number to choose, ``"feature-squeezing"``, is searched along with them.
    layers: patterns of names, as in a plan.
    objective: who attacks a plan while it is searched.  "adaptive" knows the defense.  "white-box" and "oblivious" reward
        plans that only mask their gradients.
    attacks: their norms and budgets are what the adaptive attacker goes for; the others run them.  None given: PGD in Linf at
        a budget that leaves the undefended model a third of its accuracy or more.  effort: of the adaptive attacker.
    drop: points of clean accuracy.  A strength that costs more for certain is not attacked.
    levels: of each strength, on each layer alone.
    calibration: clean training data for sanitizers that need some.
    model_name: for people.  out: the folder for all that is found; the same call goes on from there.
    workers: processes; each judges one plan at a time.
    """

    model: nn.Module
    data: Data
    _: KW_ONLY
    sanitizers: Iterable[str] = ("mask",)
    layers: Iterable[str] = ("*",)
    objective: Knowledge = "adaptive"
    attacks: Sequence[Attack] = ()
    effort: Effort = "quick"
    drop: float = 10.0
    levels: int = 4
    calibration: Data | None = None
    model_name: str = "model"
    out: Path | str = "runs/sensitivity"
    workers: int = 1
    device: str = "auto"
    seed: int = 0
    progress: bool = False


@dataclass(frozen=True, kw_only=True)
class Searching(Scanning):
    """The arguments of `sanact.search`: those of `Scanning`, and these.

    drop: points of clean accuracy that a plan may cost.
    levels: of each strength in the scan that comes first; 0 leaves the scan out.
    out: as of `Scanning`; a study in there goes on until it has so many trials.
    overhead: whether the time of a pass is an objective, too.
    trials, hours: when to end, whichever comes first.  None for both is 100 trials.
    unseen: other images, on which the best plan is judged again, at ``judge_effort``; None leaves that out.
    """

    drop: float = 2.0
    levels: int = 3
    out: Path | str = "runs/search"
    overhead: bool = False
    trials: int | None = None
    hours: float | None = None
    unseen: Data | None = None
    judge_effort: Effort = "standard"


def takes(asked: Callable[Given, Any]) -> Callable[[Callable[..., Result]], Callable[Given, Result]]:
    """Give a function the signature of a dataclass, whose fields it passes on, and tell of these fields in its docstring."""

    def signed(function: Callable[..., Result]) -> Callable[Given, Result]:
        fields, own = inspect.signature(asked), inspect.signature(function)
        function.__signature__ = fields.replace(return_annotation=own.return_annotation)  # type: ignore[attr-defined]
        told = [inspect.getdoc(kind) for kind in (function, *inspect.getmro(cast(type, asked))[:-1])]
        function.__doc__ = "\n\n".join(filter(None, told))
        return cast(Callable[Given, Result], function)

    return signed
