"""What the verbs share: options, and functions that read plans and show results."""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sanact.cli.telling import STAMPED, tell
from sanact.values import BATCH_SIZE, SEED, image_shape, shown

if TYPE_CHECKING:
    from sanact.engine import Outlook
    from sanact.evaluation.threat import Radius
    from sanact.report.tables import Grid, Listing

MODEL = (
    "mnist-cnn, mnist-small, cifar-cnn, resnet18[:width=24], resnet18-64[:width=32], timm:NAME[:num_classes=5], or "
    "path/to/file.py:factory."
)
DATA = "digits, mnist, cifar10, tiny-imagenet, a Hub name, or a local folder."
PLAN = (
    "Sanitizers, [PATTERN=]NAME[:ARGUMENT,…] separated by semicolons, as in 'median:3' or 'conv*=mask:0.3; fc7=median:3'; or a "
    "JSON file. Names: mask, median, nl-means, mean-sparse, k-wta, sap, ash, smooth-mask, soft-shrink, denoise."
)
DEFENSE = (
    "NAME[:ARGUMENT,…], as in 'feature-squeezing:bits=1,median=2'; or a plan. 'A | B' chains two: images pass A first. "
    "path/to/file.py:function is your own. sanact defenses lists them; all-attached stands for all that need neither "
    "training nor data."
)


DEVICE = "auto, cpu, cuda, cuda:1, …; auto is CUDA if available, else the CPU."
OUT = "Folder for rows; an interrupted run continues from the rows in it."


def _quiet(quiet: bool) -> bool:
    """Silence the libraries that fetch data and weights; they read the setting when they are imported, which is later."""
    if quiet:
        os.environ |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        tell(logging.INFO)
    return quiet


def _verbose(verbose: bool) -> bool:
    if verbose:
        tell(logging.DEBUG, STAMPED)
    return verbose


def path(text: Any) -> Path:
    """A path; typer's error for an empty one, which would be the current folder."""
    if not str(text).strip():
        raise typer.BadParameter(f"must be a path, got '{text}'")
    return Path(text)


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress bars, but a line for each finished cell.", callback=_quiet)
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Log what is done, when, and where files lie.", callback=_verbose)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of all random numbers.", callback=lambda seed: SEED(seed, "seed", "--seed"))]
Device = Annotated[str, typer.Option(help=DEVICE)]
BatchSize = Annotated[int, typer.Option(min=1, max=BATCH_SIZE.most, help="Examples at once; affects memory, not results.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Parallel processes; the rows are the same for any number of them. 1: only this process.",
        show_default="one per core, or one per GPU",
    ),
]
EngineOption = Annotated[str, typer.Option("--engine", help="local: this machine. ray: a Ray cluster, or one started here.")]
Address = Annotated[
    str | None, typer.Option(help="Address of the Ray cluster: ray://HOST:10001 or auto.", show_default="one started here")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="List the cells, which of them are done, and the time the others need; run nothing."),
]
KnowledgeOption = Annotated[
    list[str] | None, typer.Option("--knowledge", "-k", help="oblivious, white-box, adaptive; repeat.", show_default="all")
]
EffortOption = Annotated[str, typer.Option("--effort", help="Effort of the adaptive attacker: quick, standard, thorough.")]
Out = Annotated[
    Path,
    typer.Option(parser=path, metavar="PATH", help=OUT),
]
OutFile = typer.Option(parser=path, metavar="PATH", help="File to write.")
ImageColumn = Annotated[
    str | None, typer.Option("--image-column", help="Column of images.", show_default="the only one that holds images")
]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", help="Column of labels.", show_default="the only one that holds classes")
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        "--class-names",
        help="All classes in the order of the model's outputs, if the data lack some or have another order: "
        "a file with one name per line, or names separated by commas.",
        show_default="those of the data, over all splits",
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option("--input", help="C,H,W to resize images to.", show_default="the model's input shape, or no change"),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="File of safetensors, or a state dict or checkpoint of PyTorch; or ours by name: "
        "mnist, mnist-pgd, cifar10, cifar10-pgd, tiny-imagenet, tiny-imagenet-pgd.",
        show_default="the model's own",
    ),
]
Classes = Annotated[
    list[str] | None,
    typer.Option("--classes", "--class", help="Only images of this class. Repeat for more.", show_default="all"),
]
Source = Annotated[
    str | None,
    typer.Option(
        help="Another network for the same data, written like the model. The adaptive attacker also tries its examples. "
        "fit: a small network, fitted to the training images in about a minute. none: no other network.",
        show_default="fit, for a model of your own and an effort that is not quick",
    ),
]
StandIns = Annotated[
    list[str] | None,
    typer.Option(
        "--stand-in",
        help="MODULE=path/to/file.py:function, or MODULE=identity: what attackers differentiate in place of a module of the "
        "model that has no useful gradient. Repeat for more.",
        show_default="none",
    ),
]
Split = Annotated[str, typer.Option(help="Split of the data: test, validation, train[:5000], …")]
L2 = Annotated[
    str,
    typer.Option(
        help="L2 budget at which attacks without a budget (cw) are reported; usual is 2 for MNIST and digits, else 0.5."
    ),
]


def read_radius(text: str) -> Radius:
    """The value of --l2: a number if it is one, else text."""
    if text == "usual":
        return "usual"
    try:
        radius = float(text)
    except ValueError:
        radius = math.nan
    if not 0 <= radius < math.inf:
        raise ValueError(f"l2 must be 'usual' or a number from 0 on, got {shown(text)}")
    return radius


def read_model(*given: Any, **named: Any) -> Any:
    """See `naming.read_model`, which is imported only here, because it imports torch."""
    from sanact.naming import read_model as read

    return read(*given, **named)


def columns(image: str | None, label: str | None, class_names: str | None, shape: str | None) -> dict[str, Any]:
    """Arguments of `load_data` about columns and classes, and the shape if one is asked for."""
    found_by = {"image": image, "label": label, "classes": read_class_names(class_names)}
    return found_by | ({"shape": read_shape(shape)} if shape is not None else {})


def read_shape(text: str | None) -> tuple[int, int, int] | None:
    """C,H,W as three numbers; ValueError for anything else."""
    try:
        return image_shape([int(side) for side in text.split(",")], "input", "--input") if text is not None else None
    except ValueError as error:
        raise ValueError(f"input must be C,H,W, as in 3,224,224, got '{text}'") from error


def read_class_names(text: str | None) -> list[str]:
    """Names from a file, one per line, or separated by commas; none for None."""
    if text is None:
        return []
    lines = Path(text).read_text(encoding="utf-8").splitlines() if os.path.isfile(text) else text.split(",")
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"class-names must be names with commas between, or a file with a name a line, got {shown(text)}")
    return names


def every_table(grids: list[Grid], listings: Sequence[Listing] = ()) -> list[Grid | Listing]:
    """The tables, and those that show which part of the adaptive attack won."""
    from sanact.report.tables import detections, every_result, shares

    found = every_result(grids)
    return [*listings, *grids, *detections(found), *shares(found)]


def show(grids: list[Grid], as_json: bool, listings: Sequence[Listing] = ()) -> None:
    from dataclasses import asdict

    from sanact.report.tables import as_json as to_json

    if as_json:
        typer.echo(json.dumps([*to_json(grids), *map(asdict, listings)], indent=2))
    else:
        draw(every_table(grids, listings))


def draw(tables: Sequence[Grid | Listing]) -> None:
    """Show tables on the terminal, and below them, once, what their words mean."""
    from sanact.report.tables import rich_tables, words

    for table in tables:
        console().print(table.title, style="bold", highlight=False, markup=False)
        console().print(*rich_tables(table, console().width), sep="\n")
    for word in words(tables):
        console().print(word, highlight=False, markup=False)


def write_report(runs: Sequence[Path], out: Path, l2: Radius) -> Path:
    """Write the page of some runs; returns its path."""
    from sanact.files import write_text
    from sanact.report.page import write_page

    write_text(out, write_page(runs, l2=l2))
    return out


def show_outlook(outlook: Outlook, as_json: bool) -> None:
    """Show the result of a dry run."""
    from rich.table import Table

    from sanact.progress import duration
    from sanact.report.results import attack_title

    cells = [
        {
            "defense": look.cell.defense_name,
            "attack": attack_title(look.cell.attack.config),
            "knowledge": look.cell.knowledge,
            "state": look.state,
            "seconds": look.seconds,
            "file": look.path.name,
        }
        for look in outlook.looks
    ]
    if as_json:
        typer.echo(json.dumps({"cells": cells, "seconds": outlook.seconds, "workers": outlook.workers}, indent=2))
        return
    table = Table("defense", "attack", "knowledge", "state", "work")
    for look, cell in zip(outlook.looks, cells, strict=True):
        words = (str(cell[column]) for column in ("defense", "attack", "knowledge", "state"))
        table.add_row(*words, duration(look.seconds) if look.seconds else "")
    console().print(table)
    many = f"{outlook.workers} worker{'s' * (outlook.workers > 1)}"
    typer.echo(f"about {duration(outlook.seconds)} with {many}, less where examples fall early")


def console() -> Any:
    from rich.console import Console

    return Console()


def command_line() -> str:
    return shlex.join(["sanact", *sys.argv[1:]])
