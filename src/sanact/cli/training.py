"""The verb that trains a network."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sanact.cli.options import (
    DATA,
    MODEL,
    PLAN,
    Classes,
    ClassNames,
    Device,
    ImageColumn,
    InputShape,
    Json,
    LabelColumn,
    Quiet,
    Seed,
    Verbose,
    command_line,
    path,
    read_class_names,
    read_shape,
)


def train(
    model: Annotated[str, typer.Argument(help=MODEL, show_default=False)],
    data: Annotated[str, typer.Option(help=DATA)] = "digits",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    class_names: ClassNames = None,
    shape: InputShape = None,
    out: Annotated[
        Path, typer.Option(parser=path, metavar="PATH", help="Safetensors file; its card in Markdown is put next to it.")
    ] = Path("weights.safetensors"),
    start: Annotated[Path | None, typer.Option(help="File of weights to start from.", show_default="fresh weights")] = None,
    validation: Annotated[
        int | None,
        typer.Option(min=1, help="Training images to hold out; classes keep their shares.", show_default="a twelfth"),
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Training images to use; classes keep their shares.", show_default="all")
    ] = None,
    classes: Classes = None,
    attack: Annotated[
        str | None,
        typer.Option("--attack", "-a", help="Train on examples of this attack: pgd:eps=0.3,steps=7.", show_default="none"),
    ] = None,
    defense: Annotated[
        str | None,
        typer.Option(
            help="Train for this defense, as in pgd-at:eps=0.3. Afterwards, evaluate takes NAME:…,weights=FILE.",
            show_default="none",
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", "-p", help=PLAN + " They are part of the network during training.", show_default="none"),
    ] = None,
    gradient: Annotated[
        str | None,
        typer.Option(
            help="What attack and training differentiate in place of the sanitizers: exact, identity, the name of a surrogate, "
            "or drawn, which changes at each step.",
            show_default="exact",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", show_default="50")] = None,
    lr: Annotated[float | None, typer.Option(help="Step size.", show_default="0.01")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per step.", show_default="128")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Schedule of the step size: constant, cosine, one-cycle.", show_default="constant")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay, for all weights.", show_default="0")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Share of the target spread over all classes.", show_default="0")
    ] = None,
    crop: Annotated[
        int | None, typer.Option(help="Shift images at random by up to this many pixels.", show_default="0")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror images with probability 1/2.")] = False,
    cutout: Annotated[int | None, typer.Option(help="Erase a square of this side, in pixels.", show_default="0")] = None,
    ema: Annotated[
        float | None, typer.Option(help="Save a moving average of the weights, with this decay per step.", show_default="0")
    ] = None,
    mixed_precision: Annotated[bool, typer.Option("--mixed-precision", help="Run the forward pass in bfloat16.")] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Channels innermost in memory: faster for colour images.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    half: Annotated[bool, typer.Option("--half", help="Save the weights in 16 bits.")] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard's metrics of each epoch; a CSV file is written in any case.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Overwrite finished weights of another training unasked.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Train a model and save its weights with a card that says how.

    The default recipe is Carlini and Wagner's for MNIST-CNN. An interrupted training continues. Next to the weights are their
    card, in Markdown, and loss, accuracies and step size of each epoch, as CSV.

    Example: sanact train mnist-cnn --data mnist --out mnist.safetensors
    Example: sanact train mnist-cnn --data mnist --defense pgd-at:eps=0.3 --epochs 8 --lr 0.03 --out pgd.safetensors
    Example: sanact train mnist-cnn --data mnist --defense pgd-at:eps=0.3 --plan smooth-mask:learnable=true --gradient drawn
    --out smooth.safetensors; then sanact evaluate mnist-cnn --weights smooth.safetensors
    Example: sanact train resnet18:width=24 --data cifar10 --epochs 25 --schedule one-cycle --lr 0.2 --weight-decay 5e-4
    --crop 4 --flip --mixed-precision --channels-last
    """
    from sanact.attacks import as_attack
    from sanact.defenses import Trained
    from sanact.naming import read_defense, read_plan
    from sanact.objectives import Adversarial
    from sanact.training import Recipe, train_and_save

    if attack and defense:
        raise ValueError(
            f"a network is trained on an attack or for a defense, got --attack {attack} and --defense {defense} (train)"
        )
    if gradient and not plan:
        raise ValueError(f"--gradient is for the sanitizers of a plan, got --gradient {gradient} and no --plan (train)")
    wanted = read_defense(defense) if defense else None
    if wanted is not None and not isinstance(wanted, Trained):
        raise ValueError(f"defense must be one that trains a network, got {wanted.name}, which is {wanted.kind} (train)")
    spare(out, yes)
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
        shape=read_shape(shape),
        half=half,
        objective=Adversarial(as_attack(attack)) if attack else None,  # type: ignore[arg-type]  # it checks
        defense=wanted,
        device=device,
        command=command_line(),
        tensorboard=tensorboard,
        progress=not quiet,
    )
    typer.echo(json.dumps(card, indent=2) if as_json else f"{card['test accuracy']} of the test split; saved to {out}")


SAID = ("--yes", "-y", "--quiet", "-q", "--verbose", "--json")  # options that change no weights


def spare(out: Path, yes: bool) -> None:
    """Before overwriting finished weights that another command made, ask; if nobody can be asked, raise ValueError."""
    from sanact.models import read_card

    if yes or not out.is_file():
        return
    made_by = read_card(out).get("command", "")
    asked, before = ([word for word in shlex.split(text) if word not in SAID] for text in (command_line(), made_by))
    if asked == before:
        return
    told = f"'{out}' holds finished weights of another training" + f" ({made_by})" * bool(made_by)
    if not sys.stdin.isatty():
        raise ValueError(f"{told}; choose another --out, or overwrite them with --yes")
    typer.confirm(f"{told}. Overwrite them?", abort=True, err=True)
