"""Verbs that read a model, or the rows of a run."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sanact.cli.options import (
    DATA,
    L2,
    MODEL,
    PLAN,
    ClassNames,
    ImageColumn,
    InputShape,
    Json,
    KnowledgeOption,
    LabelColumn,
    OutFile,
    Split,
    Weights,
    columns,
    console,
    read_model,
    read_radius,
    read_shape,
    write_report,
)
from sanact.values import OneOf, shown


def layers(
    model: Annotated[str, typer.Argument(help=MODEL, show_default=False)],
    plan: Annotated[list[str] | None, typer.Option("--plan", "-p", help=PLAN)] = None,
    shape: Annotated[
        str | None, typer.Option("--input", help="C,H,W of an input.", show_default="the model's input shape")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the convolution and linear layers of a model, where their hidden activations are, and what a plan sanitizes.

    Example: sanact layers timm:resnet18 --plan 'network.layer1.*=mask:0.3'
    """
    from dataclasses import asdict

    import torch

    from sanact.models import build_model
    from sanact.naming import read_plan
    from sanact.plan import list_layers
    from sanact.report.tables import layer_table

    network = build_model(model).eval()
    sides = read_shape(shape)
    example = torch.zeros(1, *sides) if sides else None
    listed = list_layers(network, read_plan("; ".join(plan)) if plan else None, example=example)
    if as_json:
        typer.echo(json.dumps([asdict(layer) for layer in listed], indent=2))
    else:
        terminal = console()
        terminal.print(layer_table(model, [asdict(layer) for layer in listed], terminal.width))


def explore(
    model: Annotated[str, typer.Argument(help=MODEL)] = "mnist-cnn",
    data: Annotated[str, typer.Option(help=DATA)] = "mnist",
    split: Split = "test",
    weights: Weights = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    class_names: ClassNames = None,
    shape: InputShape = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", "-p", help="First plan shown, or any other defense.", show_default="mask on all layers"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of this machine.", show_default="the first free one")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Open a local page: choose an image, an attack and a plan, and see the hidden activations.

    Only this machine can reach the page. It needs the extra app: pip install 'sanact[app]'.

    Example: sanact explore mnist-cnn --plan runs/search/best.json
    """
    try:
        from sanact.app import build, launch
    except ImportError as error:
        raise ValueError(f"the explorer needs Gradio: pip install 'sanact[app]' ({error})") from error
    from sanact.evaluation.threat import usual_eps
    from sanact.naming import clean_images, read_defense
    from sanact.report.results import plan_text

    if plan is not None:
        plan = plan_text(read_defense(plan).config)
    found_by = columns(image_column, label_column, class_names, shape)
    network, images = read_model(model, data, split, weights, found_by=found_by)
    training = partial(clean_images, data, network, seed=0, found_by=found_by)
    page = build(network, images, eps=usual_eps(data) / 2, plan=plan, training=training)
    address = launch(page, port=port, browser=browser)
    typer.echo(f"{address} — stop it with Ctrl-C")
    page.block_thread()


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of rows, files of rows, or folders of searches.", show_default=False)
    ],
    out: Annotated[Path, OutFile] = Path("report.html"),
    l2: L2 = "usual",
) -> None:
    """Write one page about one or several runs: verdict and headline first, then tables, curves, examples and parameters.

    The page is a single file that needs no model and no network. Example: sanact report runs/demo --out demo.html
    """
    page = write_report(runs, out, read_radius(l2))
    typer.echo(f"{page}, {page.stat().st_size / 2**20:.1f} MiB: open it in a browser")


def compare(
    a: Annotated[Path, typer.Argument(help="A file of rows, or a folder of them.", show_default=False)],
    b: Annotated[Path | None, typer.Argument(help="Another one.", show_default="the same folder")] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Only pairs with this defense: none, a name, or a plan. all: all pairs.",
            show_default="none, if one folder alone is given; else all",
        ),
    ] = None,
    pair: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this pair, as in 'mask vs median' or 'mask@white-box vs mask@oblivious': [MODEL/]DEFENSE[@KNOWLEDGE] of "
            "the first path, and of the second. Repeat for more.",
            show_default="those above",
        ),
    ] = None,
    knowledge: KnowledgeOption = None,
    l2: L2 = "usual",
    as_json: Json = False,
) -> None:
    """Compare two defenses on the same examples: which is better, by how much, and may it be chance?

    Compared are cells with the same examples, model, attack and knowledge but different defenses: of one folder each defense
    with none, of two all pairs. More pairs mean wider intervals and larger p-values, so select the pairs that you ask about.

    Example: sanact compare runs/demo --knowledge adaptive
    Example: sanact compare runs/demo --pair 'mask vs median'
    """
    from sanact.evaluation.threat import KNOWLEDGE
    from sanact.report.compare import as_json as to_json
    from sanact.report.compare import compare as compare_rows
    from sanact.report.compare import rich_table, sentences

    for known in knowledge or ():
        OneOf(tuple(KNOWLEDGE))(known, "knowledge", "compare")
    pairs = [read_pair(text) for text in pair or ()]
    if pairs and (against or knowledge):
        raise ValueError("--pair names all that is compared; leave out --against and --knowledge (compare)")
    found = compare_rows(a, b, against=against, knowledge=knowledge or (), pairs=pairs, l2=read_radius(l2))
    if as_json:
        return typer.echo(json.dumps(to_json(found), indent=2))
    terminal = console()
    terminal.print(rich_table(found, terminal.width))
    for sentence in sentences(found):
        console().print(sentence, highlight=False, markup=False, soft_wrap=True)


def read_pair(text: str) -> tuple[str, str]:
    """Two sides with "vs" between; ValueError for anything else."""
    first, between, second = text.partition(" vs ")
    if not (between and first.strip() and second.strip()):
        raise ValueError(f"pair must be two sides with ' vs ' between, as in 'mask vs median', got {shown(text)} (compare)")
    return first.strip(), second.strip()


def pack(
    folder: Annotated[Path, typer.Argument(help="Folder of rows.", show_default=False)],
) -> None:
    """Put the rows of all cells in a folder into one file, cells.parquet, which runs and reports read in the same way.

    Example: sanact pack runs/demo
    """
    from sanact.evaluation.packed import PACK
    from sanact.evaluation.packed import pack as pack_rows

    typer.echo(f"{folder / PACK} holds {pack_rows(folder)} cells")


def robustbench(
    rows: Annotated[
        list[Path], typer.Argument(help="Files of rows of autoattack, of the adaptive attacker, or both.", show_default=False)
    ],
    name: Annotated[str, typer.Option(help="Title of the paper, or name of the model.", show_default=False)],
    out: Annotated[Path, OutFile] = Path("record.json"),
    reported: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Robust accuracy that the authors claim, in %.", show_default="what the rows say"),
    ] = None,
    architecture: Annotated[str, typer.Option(help="Architecture of the network.", show_default="the model's name")] = "",
    link: Annotated[str, typer.Option(help="Link to the paper.")] = "",
    authors: Annotated[str, typer.Option(help="Authors of the paper.")] = "",
    venue: Annotated[str, typer.Option(help="Where it was published, as in 'ICLR 2026'.")] = "",
    additional_data: Annotated[bool, typer.Option("--additional-data", help="It was trained on additional data.")] = False,
    as_json: Json = False,
) -> None:
    """Write a result in RobustBench's format. Rows of oblivious and plain white-box attackers are refused.

    Example: sanact robustbench runs/*_autoattack_white-box_*.parquet --name 'My Defense' --out my-defense.json
    """
    from sanact.evaluation.robustbench import write_record

    found = write_record(
        rows,
        out,
        name=name,
        reported=reported,
        architecture=architecture,
        link=link,
        authors=authors,
        venue=venue,
        additional_data=additional_data,
    )
    typer.echo(out.read_text(encoding="utf-8").strip() if as_json else f"{found}; saved to {out}")
