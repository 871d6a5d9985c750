"""Verbs that attack and judge."""

from __future__ import annotations

import logging
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sanact.cli.options import (
    DATA,
    DEFENSE,
    DEVICE,
    L2,
    MODEL,
    OUT,
    PLAN,
    Address,
    BatchSize,
    Classes,
    ClassNames,
    Device,
    DryRun,
    EffortOption,
    EngineOption,
    ImageColumn,
    InputShape,
    Json,
    KnowledgeOption,
    LabelColumn,
    Out,
    Quiet,
    Seed,
    Source,
    Split,
    StandIns,
    Verbose,
    Weights,
    Workers,
    command_line,
    console,
    draw,
    every_table,
    path,
    read_class_names,
    read_radius,
    read_shape,
    show,
    show_outlook,
    write_report,
)
from sanact.run_file import Net, RunFile
from sanact.values import OneOf

log = logging.getLogger(__name__)


def demo(
    out: Out = Path("runs/demo"),
    examples: Annotated[int, typer.Option(min=1, max=449, help="Number of test images.")] = 60,
    opened: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    workers: Workers = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """See the point in a minute: three sanitizers under replayed examples, and under an attacker who knows of them.

    Example: sanact demo --open
    """
    from sanact.experiments.demo import demo as run_demo
    from sanact.report.gain import sentences

    table = run_demo(out, examples=examples, seed=seed, device=device, workers=workers, progress=not quiet)
    page = write_report([out], out / "report.html", "usual")
    if as_json:
        return show([table], as_json)
    draw([table])
    typer.echo()
    for sentence in sentences(table):
        console().print(sentence, highlight=False, soft_wrap=True)
    typer.echo(f"\nThe picture is {out / 'demo.png'}; everything is on one page: {page}\n")
    typer.echo(
        "Next:\n"
        "  sanact layers mnist-cnn --plan 'conv*=mask:0.3'         the activations that a plan sanitizes\n"
        "  sanact evaluate mnist-cnn --data digits --plan median    your own plan, model, data, attacks\n"
        "  sanact reproduce table2 --data mnist --examples 100      the paper's Table 2"
    )
    if opened:
        typer.launch(page.resolve().as_uri())


def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=MODEL, show_default=False)],
    data: Annotated[str, typer.Option(help=DATA)] = RunFile.data,
    split: Split = RunFile.split,
    weights: Weights = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    class_names: ClassNames = None,
    shape: InputShape = None,
    plan: Annotated[
        list[str] | None, typer.Option("--plan", "-p", help=PLAN + " Repeat for more rows.", show_default="none")
    ] = None,
    defense: Annotated[
        list[str] | None, typer.Option("--defense", help=DEFENSE + " Repeat for more rows.", show_default="none")
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            "-a",
            help="NAME[:KEY=VALUE,…], as in 'pgd:eps=8/255,steps=100'. Repeat for more. Names: fgsm, bim, ilcm, mim, pgd, cw, "
            "apgd, square, fab, rays, autoattack; or your own, path/to/file.py:function:eps=8/255.",
            show_default="fgsm and pgd at the data's usual budget",
        ),
    ] = None,
    knowledge: KnowledgeOption = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Number of images; classes keep their shares.", show_default="1000, or all")
    ] = None,
    classes: Classes = None,
    effort: EffortOption = RunFile.effort,
    l2: L2 = "usual",
    source: Source = None,
    stand_ins: StandIns = None,
    out: Out = RunFile.out,
    seed: Seed = RunFile.seed,
    device: Device = RunFile.device,
    batch_size: BatchSize = RunFile.batch_size,
    workers: Workers = None,
    engine: EngineOption = RunFile.engine,
    address: Address = None,
    save_run: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="PATH", help="Also write these options to a file for sanact run.", show_default="do not"
        ),
    ] = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Judge a model under attack: undefended, with each plan, and with each defense.

    Example: sanact evaluate mnist-cnn --data mnist --plan 'conv[12]=mask:0.3' --attack pgd:eps=0.1 --examples 100
    Example: sanact evaluate mnist-cnn --plan median:3 --defense feature-squeezing:bits=1 --examples 100
    """
    from sanact.naming import read_plan

    plans = plan or []
    for text in plans:
        read_plan(text)  # here, because its errors are about sanitizers; those of a defense are more general
    described = RunFile.of(
        context.params
        | {
            "models": [Net(model, weights, tuple(stand_ins or ()))],
            "class_names": read_class_names(class_names),
            "input": read_shape(shape),
            "defenses": [*plans, *(defense or ())],
            "attacks": attack,
            "l2": read_radius(l2),
        }
    )
    if len(plans) > 1:
        log.warning("each plan is a row of its own; one plan of all is written --plan '%s'", "; ".join(plans))
    if save_run:
        described.write(save_run)
    carry_out(described, dry_run=dry_run, quiet=quiet, as_json=as_json)


def run(
    file: Annotated[Path, typer.Argument(help="A run in TOML, as evaluate --save-run writes it.", show_default=False)],
    out: Annotated[Path | None, typer.Option(parser=path, metavar="PATH", help=OUT, show_default="what the file says")] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE, show_default="what the file says")] = None,
    workers: Workers = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Judge what a file describes: models, data, defenses, attacks, and all other options of evaluate.

    Example: sanact evaluate mnist-cnn --plan median:3 --examples 100 --save-run my.toml
    Example: sanact run my.toml
    """
    machine: dict[str, Any] = {"out": out, "device": device, "workers": workers}
    described = replace(RunFile.read(file), **{key: value for key, value in machine.items() if value is not None})
    carry_out(described, dry_run=dry_run, quiet=quiet, as_json=as_json)


def carry_out(described: RunFile, *, dry_run: bool, quiet: bool, as_json: bool) -> None:
    """Judge what is described and show the tables; in a dry run, show what would be done."""
    from sanact import engine
    from sanact.evaluating import cells_of, tables_of

    judged = cells_of(described, dry_run=dry_run, progress=not quiet)
    if dry_run:
        return show_outlook(engine.outlook(judged, **described.means), as_json)
    error = None
    try:
        paths = engine.run(judged, **described.means, progress=not quiet)
    except engine.Unjudged as unjudged:
        error, paths = unjudged, unjudged.paths
    show(tables_of(described, paths), as_json)
    if error:
        raise error
    if not as_json:
        folder = shlex.quote(str(described.out))
        typer.echo(f"\nThe rows are in {folder}. On one page: sanact report {folder}")


def reproduce(
    experiment: Annotated[
        str,
        typer.Argument(
            help="table2, robust, landscape, fig1, fig3 to fig7, mask-readings, budgets, or plans.", show_default=False
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set of the paper: mnist, cifar10, tiny-imagenet.",
            show_default="mnist; fig4: cifar10; fig5: tiny-imagenet",
        ),
    ] = None,
    examples: Annotated[
        int | None,
        typer.Option(min=1, help="Number of images, classes keep their shares.", show_default="1000, for fig1, 6, 7 100"),
    ] = None,
    classes: Classes = None,
    out: Out = Path("runs/reproduce"),
    knowledge: KnowledgeOption = None,
    effort: EffortOption = "standard",
    distance: Annotated[str, typer.Option(help="Distance in fig7: relative, rms, direction.")] = "relative",
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 100,
    workers: Workers = None,
    engine: EngineOption = "local",
    address: Address = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Reproduce a table or figure of the paper, or an experiment behind it, next to the paper's own figures.

    table2: accuracy under FGSM, C&W and PGD: adaptive, white-box, and oblivious as in the paper.
    robust: the same sanitizers on an adversarially trained network.
    fig1: what an adversarial image does to the hidden activations.  fig6: the same with the mask sanitizer.
    fig3, fig4, fig5: the sanitizers next to PGD-based training, PixelDefend and feature squeezing, one figure per data set.
    landscape: all defenses: what their papers claim, and the accuracy that is left by an attacker who knows them.
    fig7: how far the activations move, layer by layer, before and after sanitizing.
    mask-readings: which reading of the lost mask formula comes closest to the paper.
    budgets: the eps at which the undefended network comes near the paper's figures.
    plans: the best layers and strengths for each sanitizer.

    Example: sanact reproduce table2 --data mnist --examples 100
    """
    from sanact.device import pick_device
    from sanact.evaluation.threat import KNOWLEDGE
    from sanact.experiments import DATA as OF
    from sanact.experiments import EXPERIMENTS, FIGURES, NAMES, ON_ITSELF, Setting
    from sanact.experiments import DryRun as Looked
    from sanact.files import write_text
    from sanact.report.comparison import comparison
    from sanact.report.figures import accuracy_by_budget, save
    from sanact.report.inside import NAMES as DISTANCES
    from sanact.report.inside import Drawing, draw
    from sanact.report.landscape import FACTS, landscape, read_facts
    from sanact.report.tables import every_result, markdown

    OneOf(tuple(DISTANCES))(distance, "distance", "reproduce")
    OneOf(tuple(EXPERIMENTS))(experiment, "experiment", "reproduce")
    pick_device(device)
    if data not in (None, of := OF.get(experiment, data)):
        raise ValueError(f"{experiment} is for {of} only, got --data {data} (reproduce)")
    data = of or "mnist"
    setting = Setting(
        data=data,
        examples=examples or (100 if experiment in FIGURES else 1000),
        classes=tuple(classes or ()),
        out=out,
        seed=seed,
        device=device,
        batch_size=batch_size,
        knowledge=tuple(knowledge or KNOWLEDGE),  # type: ignore[arg-type]  # the cells check it
        effort=effort,  # type: ignore[arg-type]  # the attack checks it
        engine=engine,  # type: ignore[arg-type]  # the run checks it
        workers=workers,
        address=address,
        dry_run=dry_run,
        progress=not quiet,
    )
    try:
        grids, stem = EXPERIMENTS[experiment](setting), out / f"{experiment}-{data}"
    except Looked as looked:
        return show_outlook(looked.outlook, as_json)
    found = every_result(grids)
    if experiment in FIGURES:
        drawing = draw(stem.with_suffix(".npz"), distance)
    elif experiment == "landscape":
        drawing = landscape(found, out, read_facts(out / FACTS.format(data)))
    else:
        accuracies = comparison(found, NAMES, on_itself=ON_ITSELF) if experiment in OF else accuracy_by_budget(found)
        drawing = Drawing(accuracies, "", [])
    figure, caption, listings = drawing
    written = "\n".join(
        [*([caption + "\n"] if caption else []), markdown(*every_table(grids, listings)), f"`{command_line()}`\n"]
    )
    write_text(stem.with_suffix(".md"), written)
    if figure is not None:
        save(figure, stem)
    show(grids, as_json, listings)
    if not as_json:
        typer.echo(caption)
        typer.echo(("Rows, table and figure are in " if figure else "Rows and table are in ") + str(out))
