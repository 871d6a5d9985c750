"""Verbs that attack and judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from sanact.cli.options import (
    DATA,
    DEFENSE,
    L2,
    MODEL,
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
    Json,
    KnowledgeOption,
    LabelColumn,
    Out,
    Quiet,
    Seed,
    Source,
    Split,
    StandIns,
    Weights,
    Workers,
    columns,
    command_line,
    every_table,
    path,
    read_class_names,
    read_defense,
    read_model,
    read_plan,
    read_radius,
    read_source,
    show,
    show_outlook,
    usual_source,
    with_stand_ins,
)
from sanact.values import OneOf, shown

if TYPE_CHECKING:
    from torch import nn


def demo(
    out: Out = Path("runs/demo"),
    examples: Annotated[int, typer.Option(min=1, help="Test images.")] = 60,
    seed: Seed = 0,
    device: Device = "auto",
    workers: Workers = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """See it work, on scikit-learn's digits: train a small net, sanitize it three ways, attack it, and read the table.

    Example: sanact demo --examples 200
    """
    from sanact.experiments.demo import demo as run_demo

    show(run_demo(out, examples=examples, seed=seed, device=device, workers=workers, progress=not quiet), as_json)
    if not as_json:
        typer.echo(
            "How to read it: replayed examples flatter a defense, for their author did not know of it. The white-box attacker\n"
            "knows, but follows the defense's own gradient: where it does worse than replay, the gradient is masked, and the\n"
            "number says nothing. Neither is robustness.\n\n"
            "Next:\n"
            "  sanact report runs/demo                                  all of it on one page\n"
            "  sanact layers mnist-cnn --plan 'conv*=mask:0.3'         which activations a plan hits\n"
            "  sanact evaluate mnist-cnn --data digits --plan median    your own plan, model, data, attacks\n"
            "  sanact reproduce table2 --data mnist --examples 100      the paper's Table 2\n"
        )


def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL, show_default=False)],
    data: Annotated[str, typer.Option(help=DATA)] = "mnist",
    split: Split = "test",
    weights: Weights = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    class_names: ClassNames = None,
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
            help="NAME[:KEY=VALUE,…], as in 'pgd:eps=8/255,steps=100'; repeat for more. Names: fgsm, bim, ilcm, mim, pgd, cw, "
            "apgd, square, fab, rays, autoattack.",
            show_default="fgsm and pgd at the data's usual budget",
        ),
    ] = None,
    knowledge: KnowledgeOption = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Images, with the class shares of the whole.", show_default="1000, or all")
    ] = None,
    classes: Classes = None,
    effort: EffortOption = "standard",
    l2: L2 = "usual",
    source: Source = None,
    stand_ins: StandIns = None,
    out: Out = Path("runs"),
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 100,
    workers: Workers = None,
    engine: EngineOption = "local",
    address: Address = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Judge a model, undefended and with each plan and each defense, under attack.

    Example: sanact evaluate mnist-cnn --data mnist --plan 'conv[12]=mask:0.3' --attack pgd:eps=0.1 --examples 100
    Example: sanact evaluate mnist-cnn --plan median:3 --defense feature-squeezing:bits=1 --examples 100
    """
    from sanact.attacks import ATTACKS
    from sanact.data import load_data
    from sanact.defenses import as_defense
    from sanact.device import pick_device
    from sanact.engine import Engine, folder, outlook, run
    from sanact.evaluation.adaptive import WORK
    from sanact.evaluation.cell import cells
    from sanact.evaluation.threat import KNOWLEDGE, usual_eps
    from sanact.graph import input_shape
    from sanact.parts import removable
    from sanact.report.tables import grid, results
    from sanact.spec import parse

    pick_device(device)
    folder(out)
    OneOf(tuple(WORK))(effort, "effort", "evaluate")
    OneOf(get_args(Engine))(engine, "engine", "evaluate")
    for attacker in knowledge or ():
        OneOf(tuple(KNOWLEDGE))(attacker, "knowledge", "evaluate")
    eps, radius = usual_eps(data), read_radius(l2)
    attacks = [parse("attack", ATTACKS, text) for text in attack or [f"fgsm:eps={eps}", f"pgd:eps={eps}"]]
    if twice := [one for one in attacks if attacks.count(one) > 1]:
        raise ValueError(f"each attack must be given once, got {twice[0]!r} twice (evaluate)")
    chosen_defenses = [*map(as_defense, map(read_plan, plan or ())), *map(read_defense, defense or ())]
    texts = [*(plan or ()), *(defense or ())]
    if again := [text for text in texts if texts.count(text) > 1]:
        raise ValueError(f"each plan and defense must be given once, got '{again[0]}' twice (evaluate)")
    if plan and len(plan) > 1:
        typer.echo(f"each plan is a row of its own; one plan of all is written --plan '{'; '.join(plan)}'", err=True)
    found_by = columns(image_column, label_column, class_names)
    network, whole = read_model(model, data, split, weights, found_by=found_by)
    network = with_stand_ins(network, stand_ins or ())
    inside = ", ".join(map(str, removable(network)))
    if inside and chosen_defenses:
        came = shown([one.name for one in chosen_defenses])
        raise ValueError(f"the model is defended from inside ({inside}): other defenses cannot be added, got {came} (evaluate)")
    whole = whole.only(classes) if classes else whole
    chosen = whole.sample(examples or min(1000, len(whole)), seed=seed)
    learns = any(one.needs_data for one in chosen_defenses)
    calibration = load_data(data, "train", shape=input_shape(network), **found_by) if learns else None
    wanted = (source or usual_source(model, weights, effort)) if "adaptive" in (knowledge or KNOWLEDGE) else "none"
    another = read_source(wanted, chosen, out=out, seed=seed, quiet=quiet, dry_run=dry_run, found_by=found_by)
    if inside and not quiet:
        typer.echo(f"the model is defended from inside ({inside}): it is judged as it is, and beside it without them", err=True)
    judged = [
        cell
        for one in ([bare(network), network] if inside else [network])
        for cell in cells(
            chosen,
            one,
            f"{model} ({Path(weights).stem})" if weights else model,
            [None, *chosen_defenses],
            attacks,
            knowledge or KNOWLEDGE,  # type: ignore[arg-type]  # checked above
            seed=seed,
            calibration=calibration and calibration.sample(min(1000, len(calibration)), seed=seed),
            effort=effort,  # type: ignore[arg-type]  # checked above
            l2=radius,
            source=another,
        )
    ]
    if not judged:
        raise ValueError(f"nothing to judge: no attack has a budget for the {', '.join(knowledge or ())} attacker (evaluate)")
    how: dict[str, Any] = {"out": out, "engine": engine, "workers": workers, "address": address}
    how |= {"batch_size": batch_size, "device": device}
    if dry_run:
        return show_outlook(outlook(judged, **how), as_json)
    found = results(run(judged, **how, progress=not quiet), l2=radius)
    known = {cell.knowledge for cell in judged}
    show([grid(found, one) for one in reversed(KNOWLEDGE) if one in known], as_json)


def bare(network: nn.Module) -> nn.Module:
    """A copy of a network with parts inside, in which all of them are bypassed."""
    from sanact.parts import removable
    from sanact.preserve import copied

    twin = copied(network)
    for part in removable(twin):
        part.bypassed = True
    return twin


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
            help="Whose row of the paper: mnist, cifar10, tiny-imagenet.",
            show_default="mnist; fig4: cifar10; fig5: tiny-imagenet",
        ),
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Images, with equal class shares.", show_default="1000, for fig1, 6, 7 100")
    ] = None,
    classes: Classes = None,
    out: Out = Path("runs/reproduce"),
    knowledge: KnowledgeOption = None,
    effort: EffortOption = "standard",
    distance: Annotated[str, typer.Option(help="Of fig7: relative, rms, direction.")] = "relative",
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 100,
    workers: Workers = None,
    engine: EngineOption = "local",
    address: Address = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a table or figure of the paper, or what it rests on, and put it beside what the paper reports.

    table2: accuracy under FGSM, C&W and PGD: adaptive, white-box, and oblivious as in the paper.
    robust: the same sanitizers on a net that was trained adversarially.
    fig1: what an adversarial image does to the hidden activations.  fig6: the same with the mask sanitizer.
    fig3, fig4, fig5: the sanitizers beside PGD-based training, PixelDefend and feature squeezing, a figure a data set.
    landscape: every defense there is: what is claimed of it, and what an attacker leaves who knows it.
    fig7: how far it moves them, layer by layer, before and after sanitizing.
    mask-readings: which reading of the lost mask formula comes closest.
    budgets: at which eps the undefended net lands near the paper's figures.
    plans: each sanitizer's best layers and strengths.

    Example: sanact reproduce table2 --data mnist --examples 100
    """
    from sanact.device import pick_device
    from sanact.evaluation.threat import KNOWLEDGE
    from sanact.experiments import DATA as OF
    from sanact.experiments import EXPERIMENTS, FIGURES, NAMES, ON_ITSELF, Setting, facts_path
    from sanact.experiments import DryRun as Looked
    from sanact.files import replacing
    from sanact.report.comparison import comparison
    from sanact.report.figures import accuracy_by_budget, save
    from sanact.report.inside import NAMES as DISTANCES
    from sanact.report.inside import Drawing, draw
    from sanact.report.landscape import landscape
    from sanact.report.tables import every_result, markdown

    OneOf(tuple(DISTANCES))(distance, "distance", "reproduce")
    OneOf(tuple(EXPERIMENTS))(experiment, "experiment", "reproduce")
    pick_device(device)
    if data not in (None, of := OF.get(experiment, data)):
        raise ValueError(f"{experiment} is of {of}, got --data {data} (reproduce)")
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
        drawing = landscape(found, out, json.loads(facts_path(out, data).read_text(encoding="utf-8")))
    else:
        accuracies = comparison(found, NAMES, on_itself=ON_ITSELF) if experiment in OF else accuracy_by_budget(found)
        drawing = Drawing(accuracies, "", [])
    figure, caption, listings = drawing
    written = "\n".join(
        [*([caption + "\n"] if caption else []), *map(markdown, every_table(grids, listings)), f"`{command_line()}`\n"]
    )
    with replacing(stem.with_suffix(".md")) as temporary:
        temporary.write_text(written, encoding="utf-8")
    if figure is not None:
        save(figure, stem)
    show(grids, as_json, listings)
    if not as_json:
        typer.echo(caption)
        typer.echo(("Rows, table and figure are in " if figure else "Rows and table are in ") + str(out))


def train(
    model: Annotated[str, typer.Argument(help=MODEL, show_default=False)],
    data: Annotated[str, typer.Option(help=DATA)] = "digits",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    class_names: ClassNames = None,
    out: Annotated[
        Path, typer.Option(parser=path, metavar="PATH", help="Safetensors file; a card in Markdown is put beside it.")
    ] = Path("weights.safetensors"),
    start: Annotated[Path | None, typer.Option(help="File of weights to start from.", show_default="fresh ones")] = None,
    validation: Annotated[
        int | None, typer.Option(min=1, help="Training images to hold out, with equal class shares.", show_default="a twelfth")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Training images, with the class shares of the whole.", show_default="all")
    ] = None,
    classes: Classes = None,
    attack: Annotated[
        str | None,
        typer.Option("--attack", "-a", help="Train on its examples: pgd:eps=0.3,steps=7.", show_default="on the images"),
    ] = None,
    defense: Annotated[
        str | None,
        typer.Option(
            help="Train for it, as in pgd-at:eps=0.3. Afterwards NAME:…,weights=FILE is what evaluate takes.",
            show_default="none",
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", "-p", help=PLAN + " The network is trained with them inside.", show_default="none"),
    ] = None,
    gradient: Annotated[
        str | None,
        typer.Option(
            help="What attack and training differentiate in place of the sanitizers: exact, identity, the name of a surrogate, "
            "or drawn, another each step.",
            show_default="exact",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", show_default="50")] = None,
    lr: Annotated[float | None, typer.Option(help="Step size.", show_default="0.01")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step.", show_default="128")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Of the step size: constant, cosine, one-cycle.", show_default="constant")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of all weights, per step.", show_default="0")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share of all classes alike.", show_default="0")] = None,
    crop: Annotated[int | None, typer.Option(help="Move images by up to so many pixels.", show_default="0")] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror images half of the time.")] = False,
    cutout: Annotated[int | None, typer.Option(help="Lose a square of so many pixels a side.", show_default="0")] = None,
    ema: Annotated[
        float | None, typer.Option(help="Keep the average of the weights, with this decay per step.", show_default="0")
    ] = None,
    mixed_precision: Annotated[bool, typer.Option("--mixed-precision", help="The forward pass in bfloat16.")] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Channels innermost in memory: faster for colour images.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="With torch.compile.")] = False,
    half: Annotated[bool, typer.Option("--half", help="Save the weights in 16 bits.")] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for the metrics of each epoch; they are in a CSV file in any case.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a model and save its weights with a card that says how.

    The recipe is Carlini and Wagner's for MNIST-CNN. An interrupted training goes on where it was. Beside the weights lie their
    card, in Markdown, and loss, accuracies and step size of each epoch, as CSV.

    Example: sanact train mnist-cnn --data mnist --out mnist.safetensors
    Example: sanact train mnist-cnn --data mnist --defense pgd-at:eps=0.3 --epochs 8 --lr 0.03 --out pgd.safetensors
    Example: sanact train mnist-cnn --data mnist --defense pgd-at:eps=0.3 --plan smooth-mask:learnable=true --gradient drawn
    --out smooth.safetensors; then sanact evaluate mnist-cnn --weights smooth.safetensors
    Example: sanact train resnet18:width=24 --data cifar10 --epochs 25 --schedule one-cycle --lr 0.2 --weight-decay 5e-4
    --crop 4 --flip --mixed-precision --channels-last
    """
    from sanact.attacks import ATTACKS
    from sanact.defenses import Trained
    from sanact.objectives import Adversarial
    from sanact.spec import parse
    from sanact.training import Recipe, train_and_save

    if attack and defense:
        raise ValueError(
            f"a network is trained on an attack or for a defense, got --attack {attack} and --defense {defense} (train)"
        )
    if gradient and not plan:
        raise ValueError(f"a gradient is of the sanitizers of a plan, got --gradient {gradient} and no --plan (train)")
    wanted = read_defense(defense) if defense else None
    if wanted is not None and not isinstance(wanted, Trained):
        raise ValueError(f"defense must be one that trains a network, got {wanted.name}, which is {wanted.kind} (train)")

    given: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed, "schedule": schedule}
    given |= {"weight_decay": weight_decay, "label_smoothing": label_smoothing, "crop": crop, "flip": flip}
    given |= {"cutout": cutout, "ema": ema}
    given |= {"mixed_precision": mixed_precision, "channels_last": channels_last, "compile": compiled}
    recipe = Recipe(**{key: value for key, value in given.items() if value is not None})
    card = train_and_save(
        model,
        data,
        out,
        recipe,
        start=start,
        plan=read_plan(plan) if plan else None,
        gradient=gradient or "exact",
        validation=validation,
        examples=examples,
        classes=classes or (),
        image=image_column,
        label=label_column,
        names=read_class_names(class_names),
        half=half,
        objective=Adversarial(parse("attack", ATTACKS, attack)) if attack else None,  # type: ignore[arg-type]  # it checks
        defense=wanted,
        device=device,
        command=command_line(),
        tensorboard=tensorboard,
        progress=not quiet,
    )
    typer.echo(json.dumps(card, indent=2) if as_json else f"{card['test accuracy']} of the test split; saved to {out}")
