"""What the verbs share: options, and how plans are read and results shown."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sanact.values import BATCH_SIZE, SEED, shown

if TYPE_CHECKING:
    from torch import nn

    from sanact.data import Data
    from sanact.engine import Outlook
    from sanact.evaluation.threat import Radius
    from sanact.report.tables import Grid, Listing

MODEL = "mnist-cnn, cifar-cnn, resnet18[:width=24], resnet18-64[:width=32], timm:NAME, or path/to/file.py:factory."
DATA = "digits, mnist, cifar10, tiny-imagenet, a Hub name, or a local folder."
PLAN = (
    "Sanitizers, [PATTERN=]NAME[:ARGUMENT,…] with semicolons between, as in 'median:3' or 'conv*=mask:0.3; fc7=median:3'; or a "
    "JSON file. Names: mask, median, nl-means, mean-sparse, k-wta, sap, ash, smooth-mask, soft-shrink, denoise."
)
DEFENSE = (
    "NAME[:ARGUMENT,…], as in 'feature-squeezing:bits=1,median=2'; a plan is one, too. 'A | B' chains: images pass A first. "
    "sanact defenses lists them."
)


def _quiet(quiet: bool) -> bool:
    """Ask the libraries that fetch data and weights for silence; they look when they are imported, which is later."""
    if quiet:
        os.environ |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return quiet


def path(text: Any) -> Path:
    """A path; typer's error for an empty one, which would be the current folder."""
    if not str(text).strip():
        raise typer.BadParameter(f"must be a path, got '{text}'")
    return Path(text)


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.", callback=_quiet)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Seed = Annotated[int, typer.Option(help="Of every random draw.", callback=lambda seed: SEED(seed, "seed", "--seed"))]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …; auto takes CUDA where there is one.")]
BatchSize = Annotated[
    int, typer.Option(min=1, max=BATCH_SIZE.most, help="Examples at once: memory, not results, depends on it.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes that judge, a batch at a time; the rows are the same whatever their number. 1: this one alone.",
        show_default="one a core, or one a GPU",
    ),
]
EngineOption = Annotated[str, typer.Option("--engine", help="local: this machine. ray: a Ray cluster, or one started here.")]
Address = Annotated[
    str | None, typer.Option(help="Of the Ray cluster, as ray://HOST:10001 or auto.", show_default="one started here")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="List the cells, which of them are there already, and how long it would take; run nothing."),
]
KnowledgeOption = Annotated[
    list[str] | None, typer.Option("--knowledge", "-k", help="oblivious, white-box, adaptive; repeat.", show_default="all")
]
EffortOption = Annotated[str, typer.Option("--effort", help="Of the adaptive attacker: quick, standard, thorough.")]
Out = Annotated[
    Path,
    typer.Option(
        parser=path, metavar="PATH", help="Folder for rows; a run that was interrupted goes on from what it finds there."
    ),
]
OutFile = typer.Option(parser=path, metavar="PATH", help="File to write.")
ImageColumn = Annotated[
    str | None, typer.Option("--image-column", help="Of the data.", show_default="the only one that holds images")
]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", help="Of the data.", show_default="the only one that holds classes")
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        "--class-names",
        help="All classes in the order of the model's outputs, for data that lack some or order them otherwise: "
        "a file with a name a line, or names with commas between.",
        show_default="those of the data, over all splits",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Safetensors file, or ours by name: mnist, mnist-pgd, cifar10, cifar10-pgd, tiny-imagenet.",
        show_default="the model's own",
    ),
]
Classes = Annotated[
    list[str] | None,
    typer.Option("--classes", "--class", help="Only images of this class; repeat for more.", show_default="all"),
]
Source = Annotated[
    str | None,
    typer.Option(
        help="Another network of the same data, written as the model is; the adaptive attacker tries its examples, too. "
        "fit: a small one, fitted to the training images in about a minute. none: leave it out.",
        show_default="fit, for a model of your own and an effort that is not quick",
    ),
]
StandIns = Annotated[
    list[str] | None,
    typer.Option(
        "--stand-in",
        help="MODULE=path/to/file.py:function, or MODULE=identity: what attackers differentiate in place of a module of the "
        "model that has no useful gradient; repeat for more.",
        show_default="none",
    ),
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


def read_plan(text: str) -> Any:
    """A plan from the command line, or from a JSON file as `sanact search` writes it."""
    from sanact.plan import parse_plan
    from sanact.search.candidate import from_dict, usable

    if not text.endswith(".json"):
        return parse_plan([part.strip() for part in text.split(";") if part.strip()] or [text])
    try:
        plan = from_dict(json.loads(Path(text).read_text(encoding="utf-8"), object_pairs_hook=_once))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"'{text}' holds no plan, {{pattern: {{name: …, argument: …}}}}: {error}") from error
    if not plan:
        raise ValueError(f"'{text}' holds no plan: it has no pattern")
    return usable(plan)


def read_defense(text: str) -> Any:
    """A defense from the command line: by name, or a plan; several with bars between are a chain."""
    from sanact.defenses import DEFENSES, as_defense
    from sanact.sanitizers import SANITIZERS
    from sanact.spec import parse
    from sanact.values import meant

    def link(part: str) -> Any:
        name = part.partition(":")[0]
        if name in DEFENSES:
            return parse("defense", DEFENSES, part)
        if "=" not in name and not part.endswith(".json") and name not in SANITIZERS:
            known = [*DEFENSES, *SANITIZERS]
            raise ValueError(f"defense must be one of {', '.join(known)}, or a plan, got {shown(name)}{meant(name, known)}")
        return read_plan(part)

    return as_defense([link(part.strip()) for part in text.split("|")])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose names must differ: of two alike Python keeps the last without a word."""
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"'{twice[0]}' is given twice")
    return dict(pairs)


def columns(image: str | None, label: str | None, class_names: str | None) -> dict[str, Any]:
    """What `load_data` is to know of the columns and classes of the data."""
    return {"image": image, "label": label, "classes": read_class_names(class_names)}


def read_class_names(text: str | None) -> list[str]:
    """Names from a file, a line each, or with commas between; none for None."""
    if text is None:
        return []
    lines = Path(text).read_text(encoding="utf-8").splitlines() if os.path.isfile(text) else text.split(",")
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"class-names must be names with commas between, or a file with a name a line, got {shown(text)}")
    return names


def read_model(
    model: str, data: str, split: str, weights: str | None, *, found_by: Mapping[str, Any] | None = None
) -> tuple[nn.Module, Data]:
    """A network by name, and the images by name in the shape it takes.

    weights: those that `SanitizedModel.save` wrote make it the sanitized model that they are of.
    found_by: columns and classes, for `load_data`.
    Raises ValueError for data with more classes than the network has outputs; where they have fewer, their note says so.
    """
    from sanact.data import load_data
    from sanact.graph import input_shape
    from sanact.models import build_model, load_model, read_plan
    from sanact.plan import load

    found_by = found_by or {}
    classes = len(load_data(data, split, **found_by).classes) if weights else None
    if weights and os.path.isfile(weights) and read_plan(weights):
        network = build_model(model, classes=classes).eval()
        images = load_data(data, split, shape=input_shape(network), **found_by)
        network = load(weights, network, example=next(images[:1].batches(1)).x).eval()
    else:
        network = load_model(model, weights=weights, classes=classes)
        images = load_data(data, split, shape=input_shape(network), **found_by)
    return network, _fitting(network, images)


def _fitting(network: nn.Module, images: Data) -> Data:
    """The images, with a note where they have fewer classes than the network has outputs; ValueError where they have more."""
    from dataclasses import replace

    import torch

    from sanact.checks import check_mode
    from sanact.preserve import preserved

    check_mode(network, images.name)
    with preserved(network), torch.no_grad():
        logits = network(next(images[:1].batches(1)).x)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        return images  # which the judge's checks say
    count, outputs = len(images.classes), logits.shape[1]
    if count > outputs:
        raise ValueError(
            f"'{images.name}' has {count} classes, the model has {outputs} outputs; name the classes of the outputs with "
            "--class-names, or take a model with as many"
        )
    note = f"{count} classes where the model has {outputs}" if count < outputs else ""
    return replace(images, note=", ".join(filter(None, (images.note, note))))


def with_stand_ins(network: nn.Module, texts: Sequence[str]) -> nn.Module:
    """The network, whose modules named in ``MODULE=path/to/file.py:function`` attackers differentiate through the function."""
    from sanact.models import load_function
    from sanact.parts import stand_in

    for text in texts:
        name, equals, surrogate = text.partition("=")
        modules = dict(network.named_modules())
        if not equals or not name or name not in modules:
            known = ", ".join(filter(None, modules))[:300]
            raise ValueError(f"--stand-in must be MODULE=path/to/file.py:function, with a module of {known}, got {shown(text)}")
        function = "identity" if surrogate == "identity" else load_function(surrogate)
        part = stand_in(modules[name], function)  # type: ignore[arg-type]
        part.where = name
        network.set_submodule(name, part)
    return network


def read_source(
    text: str, chosen: Data, *, out: Path, seed: int, quiet: bool, dry_run: bool, found_by: Mapping[str, Any]
) -> Any:
    """The network whose examples are tried, too; None for "none", and where there are no training images to fit one to.

    chosen: the images to be judged.  dry_run: fit none; what is not there yet has random weights.
    """
    from sanact.data import load_data
    from sanact.models import load_model
    from sanact.models.plain import PlainCNN
    from sanact.training import plain_network

    if text == "none":
        return None
    if text != "fit":
        return load_model(text)
    try:
        _, channels, height, width = next(chosen[:1].batches(1)).x.shape
        images = load_data(chosen.name, "train", shape=(channels, height, width), **found_by)
    except ValueError as error:
        typer.echo(f"examples of another network are not tried, there is nothing to fit one to: {error}", err=True)
        return None
    kept = out / "source" / f"{images[:1000].fingerprint}-{seed}.safetensors"
    if dry_run and not kept.exists():
        typer.echo("before the cells, a small network is fitted in about a minute, whose examples are tried, too", err=True)
        return PlainCNN(channels, len(images.classes)).eval()
    return plain_network(images, seed=seed, kept=kept, progress=not quiet)


def usual_source(model: str, weights: str | None, effort: str) -> str:
    """ "none" for the quick effort, and for a network with weights of ours, of which nothing is hidden; else "fit"."""
    from sanact.models import MODELS, PRETRAINED

    ours = model.partition(":")[0] in MODELS and (weights is None or weights in {name for _, name in PRETRAINED})
    return "none" if ours or effort == "quick" else "fit"


def every_table(grids: list[Grid], listings: Sequence[Listing] = ()) -> list[Grid | Listing]:
    """With those of what the adaptive attacker won by."""
    from sanact.report.tables import detections, every_result, shares

    found = every_result(grids)
    return [*listings, *grids, *detections(found), *shares(found)]


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


def show_outlook(outlook: Outlook, as_json: bool) -> None:
    """What a dry run has to tell."""
    from rich.table import Table

    from sanact.progress import duration
    from sanact.report.tables import attack_title

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
