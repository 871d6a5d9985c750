"""The verb that certifies robust accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sanact.cli.options import (
    DATA,
    DEFENSE,
    MODEL,
    PLAN,
    BatchSize,
    Classes,
    ClassNames,
    Device,
    EffortOption,
    ImageColumn,
    InputShape,
    Json,
    LabelColumn,
    Out,
    Quiet,
    Seed,
    Split,
    Weights,
    Workers,
    columns,
    read_model,
    show,
)


def certify(
    model: Annotated[str, typer.Argument(help=MODEL, show_default=False)],
    data: Annotated[str, typer.Option(help=DATA)] = "mnist",
    split: Split = "test",
    weights: Weights = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    class_names: ClassNames = None,
    shape: InputShape = None,
    plan: Annotated[str | None, typer.Option("--plan", "-p", help=PLAN, show_default="none")] = None,
    defense: Annotated[str | None, typer.Option("--defense", help=DEFENSE, show_default="none")] = None,
    eps: Annotated[
        list[float] | None,
        typer.Option(
            "--eps",
            help="Radius, in input units: L2 for a smoothed network, else Linf. Repeat for a curve.",
            show_default="the data's usual budget",
        ),
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Number of images; classes keep their shares.", show_default="1000, or all")
    ] = None,
    classes: Classes = None,
    draws: Annotated[int, typer.Option(help="Noisy copies of each image, for a smoothed network.")] = 1000,
    alpha: Annotated[float, typer.Option(help="Chance of a wrong radius per image, for a smoothed network.")] = 0.001,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Also attack the same images: the true accuracy lies between the two.")
    ] = False,
    effort: EffortOption = "standard",
    out: Out = Path("runs"),
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 100,
    workers: Workers = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Prove a robust accuracy: by interval bounds in Linf or, for a smoothed network, by noise in L2.

    No attack can break a certified image. An image that is not certified may still be robust. A network that was not trained
    for certification is rarely certified at a useful radius.

    Example: sanact certify mnist-cnn --weights ibp.safetensors --eps 0.05 --eps 0.1 --examples 1000
    Example: sanact certify mnist-cnn --defense smoothing:sigma=0.25 --eps 0.25 --draws 1000 --examples 100
    """
    from sanact.certificates import Job
    from sanact.defenses import as_defense
    from sanact.device import pick_device
    from sanact.engine import folder, run
    from sanact.evaluation.rows import read_rows
    from sanact.naming import clean_images, read_defense, read_plan
    from sanact.progress import duration
    from sanact.run_file import Net

    if plan and defense:
        raise ValueError(f"give a plan or a defense, or both as one chain, got {plan} and {defense} (certify)")
    chosen_device = str(pick_device(device))
    folder(out)
    wanted = as_defense(read_plan(plan)) if plan else read_defense(defense) if defense else None
    found_by = columns(image_column, label_column, class_names, shape)
    network, whole = read_model(model, data, split, weights, found_by=found_by)
    whole = whole.only(classes) if classes else whole
    chosen = whole.sample(examples or min(1000, len(whole)), seed=seed)
    learns = wanted is not None and wanted.needs_data
    training = clean_images(data, network, seed=seed, found_by=found_by) if learns else None
    named: dict[str, Any] = {"model_name": Net(model, weights).title}
    drawn: dict[str, Any] = {"draws": draws, "alpha": alpha, "seed": seed}
    job = Job(data=chosen, model=network, defense=wanted, calibration=training, eps=tuple(eps or ()), **named, **drawn)
    if (cost := job.cost) is not None:
        told = (
            f"{cost.passes:,} passes of single images for {len(chosen)} certificates, about {duration(cost.seconds)} on a CPU"
        )
        typer.echo(told, err=True)
    table = job.run(batch_size=batch_size, device=chosen_device, progress=not quiet)
    saved = job.save(table, out)
    how: dict[str, Any] = {"out": out, "workers": workers, "batch_size": batch_size, "device": device}
    paths = run(job.cells(effort), **how, progress=not quiet) if adaptive else []  # type: ignore[arg-type]  # it checks the effort
    attacked = dict(zip(job.eps, map(read_rows, paths), strict=False))
    show([], as_json, [_listing(job, table, attacked)])
    if not as_json:
        typer.echo(f"Rows are in {saved}")


def _listing(job: Any, table: Any, attacked: dict[float, Any]) -> Any:
    """One row per radius: clean accuracy, certified accuracy and, if there are attacks, the accuracy under them."""
    from sanact.certificates import certified, clean, contradicted
    from sanact.evaluation.rows import accuracy
    from sanact.report.tables import Listing

    def text(share: Any) -> str:
        return f"{share.value:.1f} ({share.low:.1f} to {share.high:.1f})"

    rows = {
        f"{eps:g}": [text(clean(table, eps)), text(certified(table, eps))]
        + ([text(accuracy(attacked[eps]))] if eps in attacked else [])
        for eps in job.eps
    }
    notes = [f"{len(job.data)} images, {job.settings['method']}. In brackets 95 % intervals."]
    if attacked and (broken := contradicted(table, attacked)):
        notes.append(f"{broken} certified examples were broken all the same: do not believe this certificate.")
    title = f"{job.model_name}, {job.defense.name if job.defense else 'as it is'}: certified accuracy in {job.norm}, %"
    return Listing(title, ["clean", "certified", *(["adaptive"] if attacked else [])], rows, notes, first="eps")
