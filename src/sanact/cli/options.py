"""What the verbs share: options, and how plans are read and results shown."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import nn

    from sanact.data import Data
    from sanact.evaluation.threat import Radius
    from sanact.report.tables import Grid, Listing

MODEL = "mnist-cnn, cifar-cnn, resnet18[:width=24], resnet18-64[:width=32], timm:NAME, or path/to/file.py:factory."
DATA = "digits, mnist, cifar10, tiny-imagenet, a Hub name, or a local folder."
PLAN = (
    "[PATTERN=]NAME[:ARGUMENT,…], as in 'conv*=mask:0.3' or 'median:3'; repeat for more; or a JSON file. "
    "Names: mask, median, nl-means, mean-sparse, k-wta, sap, ash."
)


def _quiet(quiet: bool) -> bool:
    """Ask the libraries that fetch data and weights for silence; they look when they are imported, which is later."""
    if quiet:
        os.environ |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return quiet


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.", callback=_quiet)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Seed = Annotated[int, typer.Option(help="Of every random draw.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …; auto takes CUDA where there is one.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples at once: memory, not results, depends on it.")]
KnowledgeOption = Annotated[
    list[str] | None, typer.Option("--knowledge", "-k", help="oblivious, white-box, adaptive; repeat.", show_default="all")
]
EffortOption = Annotated[str, typer.Option("--effort", help="Of the adaptive attacker: quick, standard, thorough.")]
Out = Annotated[Path, typer.Option(help="Folder for rows; a run that was interrupted goes on from what it finds there.")]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Safetensors file, or ours by name: mnist, mnist-pgd, cifar10, tiny-imagenet.", show_default="the model's own"
    ),
]
Classes = Annotated[
    list[str] | None,
    typer.Option("--classes", "--class", help="Only images of this class; repeat for more.", show_default="all"),
]
Split = Annotated[str, typer.Option(help="Of the data: test, validation, train[:5000], …")]
L2 = Annotated[
    str,
    typer.Option(
        help="Budget in L2 at which attacks without one (cw) are reported; usual are 2 for MNIST and digits, else 0.5."
    ),
]


def read_radius(text: str) -> Radius:
    """What L2 was given, as a number where it is one."""
    if text == "usual":
        return "usual"
    try:
        radius = float(text)
    except ValueError:
        radius = math.nan
    if not 0 <= radius < math.inf:
        raise ValueError(f"l2 must be 'usual' or a number from 0 on, got '{text}'")
    return radius


def read_plan(texts: list[str]) -> Any:
    """A plan from the command line, or from a JSON file as `plan_to_dict` has it."""
    from sanact.plan import parse_plan, plan_from_dict

    if len(texts) == 1 and texts[0].endswith(".json"):
        try:
            return plan_from_dict(json.loads(Path(texts[0]).read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError, AttributeError, TypeError) as error:
            raise ValueError(f"'{texts[0]}' holds no plan, {{pattern: {{name: …, argument: …}}}}: {error}") from error
    return parse_plan(texts)


def read_model(model: str, data: str, split: str, weights: str | None) -> tuple[nn.Module, Data]:
    """A network by name, and the images by name in the shape it takes."""
    from sanact.data import load_data
    from sanact.graph import input_shape
    from sanact.models import load_model

    network = load_model(model, weights=weights, classes=len(load_data(data, split).classes) if weights else None)
    return network, load_data(data, split, shape=input_shape(network))


def is_calibrated(texts: list[str] | None) -> bool:
    return any(part.needs_data for part in (read_plan(texts) if texts else {}).values())


def every_table(grids: list[Grid], listings: Sequence[Listing] = ()) -> list[Grid | Listing]:
    """With those of what the adaptive attacker won by."""
    from sanact.report.tables import every_result, shares

    return [*listings, *grids, *shares(every_result(grids))]


def show(grids: list[Grid], as_json: bool, listings: Sequence[Listing] = ()) -> None:
    from dataclasses import asdict

    from sanact.report.tables import as_json as to_json
    from sanact.report.tables import rich_table

    if as_json:
        typer.echo(json.dumps([*to_json(grids), *map(asdict, listings)], indent=2))
        return
    for table in every_table(grids, listings):
        console().print(f"[bold]{table.title}[/bold]", highlight=False)
        console().print(rich_table(table))


def console() -> Any:
    from rich.console import Console

    return Console()


def command_line() -> str:
    return shlex.join(["sanact", *sys.argv[1:]])
