"""The command line: one function per verb, each a few calls into the library."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sanact.report.tables import Grid, Listing

app = typer.Typer(
    name="sanact",
    help="Sanitize the hidden activations of a CNN, attack it, and judge honestly what the defense bought.",
    epilog="New here? Run: sanact demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

MODEL = "mnist-cnn, timm:NAME, or path/to/file.py:factory."
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


def main() -> None:
    """Run the command line; an error that a user can mend is one line, not a traceback."""
    try:
        app()
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        from rich.console import Console

        message = " ".join(str(error).split())
        Console(stderr=True).print("error:", message, style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from error


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    examples: Annotated[int, typer.Option(min=1, help="Test images.")] = 60,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """See it work, on scikit-learn's digits: train a small net, sanitize it three ways, attack it, and read the table.

    Example: sanact demo --examples 200
    """
    from sanact.experiments.demo import demo as run_demo

    _show(run_demo(out, examples=examples, seed=seed, device=device, progress=not quiet), as_json)
    if not as_json:
        typer.echo(
            "How to read it: replayed examples flatter a defense, for their author did not know of it. The white-box attacker\n"
            "knows, but follows the defense's own gradient: where it does worse than replay, the gradient is masked, and the\n"
            "number says nothing. Neither is robustness.\n\n"
            "Next:\n"
            "  sanact layers mnist-cnn --plan 'conv*=mask:0.3'         which activations a plan hits\n"
            "  sanact evaluate mnist-cnn --data digits --plan median    your own plan, model, data, attacks\n"
            "  sanact reproduce table2 --data mnist --examples 100      the paper's Table 2\n"
        )


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL, show_default=False)],
    data: Annotated[str, typer.Option(help=DATA)] = "mnist",
    split: Annotated[str, typer.Option(help="Of the data: test, validation, train[:5000], …")] = "test",
    weights: Annotated[
        str | None, typer.Option(help="Safetensors file, or ours by name: mnist, mnist-pgd.", show_default="the model's own")
    ] = None,
    plan: Annotated[list[str] | None, typer.Option("--plan", "-p", help=PLAN)] = None,
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
        int | None, typer.Option(min=1, help="Images, with equal class shares.", show_default="1000, or all")
    ] = None,
    effort: EffortOption = "standard",
    l2: Annotated[float, typer.Option(min=0, help="Budget at which attacks without one (cw) are reported again.")] = 2.0,
    out: Out = Path("runs"),
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 100,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Judge a model, defended by a plan and undefended, under attack.

    Example: sanact evaluate mnist-cnn --data mnist --plan 'conv[12]=mask:0.3' --attack pgd:eps=0.1 --examples 100
    """
    from sanact.attacks import ATTACKS
    from sanact.data import load_data, usual_eps
    from sanact.engine import run
    from sanact.evaluation.judge import cells
    from sanact.evaluation.threat import KNOWLEDGE
    from sanact.graph import input_shape
    from sanact.models import load_model
    from sanact.report.tables import grid, results
    from sanact.spec import parse

    eps = usual_eps(data)
    attacks = [parse("attack", ATTACKS, text) for text in attack or [f"fgsm:eps={eps}", f"pgd:eps={eps}"]]
    defenses = [None, _plan(plan)] if plan else [None]
    classes = len(load_data(data, split).classes) if weights else None
    network = load_model(model, weights=weights, classes=classes)
    whole = load_data(data, split, shape=input_shape(network))
    chosen = whole.sample(examples or min(1000, len(whole)), seed=seed)
    calibration = load_data(data, "train", shape=input_shape(network)) if _calibrated(plan) else None
    judged = cells(
        chosen,
        network,
        f"{model} ({Path(weights).stem})" if weights else model,
        defenses,
        attacks,
        knowledge or KNOWLEDGE,  # type: ignore[arg-type]  # the cell checks it
        seed=seed,
        calibration=calibration and calibration.sample(min(1000, len(calibration)), seed=seed),
        effort=effort,  # type: ignore[arg-type]  # the attack checks it
        l2=l2,
    )
    found = results(run(judged, out=out, batch_size=batch_size, device=device, progress=not quiet), l2=l2)
    known = {cell.knowledge for cell in judged}
    _show([grid(found, one) for one in reversed(KNOWLEDGE) if one in known], as_json)


@app.command()
def reproduce(
    experiment: Annotated[
        str, typer.Argument(help="table2, robust, fig1, fig6, fig7, mask-readings, budgets, or plans.", show_default=False)
    ],
    data: Annotated[str, typer.Option(help="Whose row of the paper: mnist.")] = "mnist",
    examples: Annotated[
        int | None, typer.Option(min=1, help="Images, with equal class shares.", show_default="1000, for figures 100")
    ] = None,
    out: Out = Path("runs/reproduce"),
    knowledge: KnowledgeOption = None,
    effort: EffortOption = "standard",
    distance: Annotated[str, typer.Option(help="Of fig7: relative, rms, direction.")] = "relative",
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 100,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a table or figure of the paper, or what it rests on, and put it beside what the paper reports.

    table2: accuracy under FGSM, C&W and PGD: adaptive, white-box, and oblivious as in the paper.
    robust: the same sanitizers on a net that was trained adversarially.
    fig1: what an adversarial image does to the hidden activations.  fig6: the same with the mask sanitizer.
    fig7: how far it moves them, layer by layer, before and after sanitizing.
    mask-readings: which reading of the lost mask formula comes closest.
    budgets: at which eps the undefended net lands near the paper's figures.
    plans: each sanitizer's best layers and strengths.

    Example: sanact reproduce table2 --data mnist --examples 100
    """
    from sanact.evaluation.threat import KNOWLEDGE
    from sanact.experiments import EXPERIMENTS, FIGURES, Setting
    from sanact.files import replacing
    from sanact.report.figures import accuracy_by_budget, save
    from sanact.report.inside import Drawing, draw
    from sanact.report.tables import every_result, markdown, shares

    if experiment not in EXPERIMENTS:
        raise ValueError(f"experiment must be one of {', '.join(EXPERIMENTS)}, got '{experiment}'")
    setting = Setting(
        data=data,
        examples=examples or (100 if experiment in FIGURES else 1000),
        out=out,
        seed=seed,
        device=device,
        batch_size=batch_size,
        knowledge=tuple(knowledge or KNOWLEDGE),  # type: ignore[arg-type]  # the cells check it
        effort=effort,  # type: ignore[arg-type]  # the attack checks it
        progress=not quiet,
    )
    grids, stem = EXPERIMENTS[experiment](setting), out / f"{experiment}-{data}"
    accuracies = Drawing(accuracy_by_budget(every_result(grids)), "", [])
    figure, caption, listings = draw(stem.with_suffix(".npz"), distance) if experiment in FIGURES else accuracies
    tables: list[Grid | Listing] = [*listings, *grids, *shares(every_result(grids))]
    written = "\n".join([*([caption + "\n"] if caption else []), *map(markdown, tables), f"`{_command()}`\n"])
    with replacing(stem.with_suffix(".md")) as temporary:
        temporary.write_text(written, encoding="utf-8")
    if figure is not None:
        save(figure, stem)
    _show(grids, as_json, listings)
    if not as_json:
        typer.echo(caption)
        typer.echo(("Rows, table and figure are in " if figure else "Rows and table are in ") + str(out))


@app.command()
def train(
    model: Annotated[str, typer.Argument(help=MODEL, show_default=False)],
    data: Annotated[str, typer.Option(help=DATA)] = "digits",
    out: Annotated[Path, typer.Option(help="Safetensors file; a card in Markdown is put beside it.")] = Path(
        "weights.safetensors"
    ),
    validation: Annotated[
        int | None, typer.Option(min=1, help="Training images to hold out, with equal class shares.", show_default="a twelfth")
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option("--attack", "-a", help="Train on its examples: pgd:eps=0.3,steps=7.", show_default="on the images"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", show_default="50")] = None,
    lr: Annotated[float | None, typer.Option(help="Step size.", show_default="0.01")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step.", show_default="128")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a model from scratch and save its weights with a card that says how.

    The recipe is Carlini and Wagner's for MNIST-CNN. Example: sanact train mnist-cnn --data mnist --out mnist.safetensors
    """
    from sanact.attacks import ATTACKS
    from sanact.spec import parse
    from sanact.training import Recipe, train_from_scratch

    given: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed}
    recipe = Recipe(**{key: value for key, value in given.items() if value is not None})
    card = train_from_scratch(
        model,
        data,
        out,
        recipe,
        validation=validation,
        attack=parse("attack", ATTACKS, attack) if attack else None,
        device=device,
        command=_command(),
        progress=not quiet,
    )
    typer.echo(json.dumps(card, indent=2) if as_json else f"{card['test accuracy']} of the test split; saved to {out}")


@app.command()
def layers(
    model: Annotated[str, typer.Argument(help=MODEL, show_default=False)],
    plan: Annotated[list[str] | None, typer.Option("--plan", "-p", help=PLAN)] = None,
    shape: Annotated[
        str | None, typer.Option("--input", help="C,H,W of an input.", show_default="what the model was made for")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the convolution and linear layers of a model, where their hidden activations are, and what a plan hits.

    Example: sanact layers timm:resnet18 --plan 'network.layer1.*=mask:0.3'
    """
    from dataclasses import asdict

    import torch

    from sanact.models import build_model
    from sanact.plan import list_layers
    from sanact.report.tables import layer_table

    network = build_model(model).eval()
    try:
        example = torch.zeros(1, *map(int, shape.split(","))) if shape else None
    except ValueError as error:
        raise ValueError(f"input must be C,H,W, as in 3,224,224, got '{shape}'") from error
    listed = list_layers(network, _plan(plan) if plan else None, example=example)
    if as_json:
        typer.echo(json.dumps([asdict(layer) for layer in listed], indent=2))
    else:
        _console().print(layer_table(model, [asdict(layer) for layer in listed]))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A file of rows, or a folder of them.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Another, or the same folder again.", show_default=False)],
    l2: Annotated[float, typer.Option(min=0, help="Budget at which attacks without one (cw) are compared.")] = 2.0,
    as_json: Json = False,
) -> None:
    """Compare two defenses on the same examples: which is better, by how much, and is it chance?

    Of a folder, all cells are compared that agree in examples, model, attack and knowledge, and differ in the defense.

    Example: sanact compare runs/demo runs/demo
    """
    from sanact.report.compare import as_json as to_json
    from sanact.report.compare import compare as compare_rows
    from sanact.report.compare import rich_table

    found = compare_rows(a, b, l2=l2)
    if as_json:
        typer.echo(json.dumps(to_json(found), indent=2))
        return
    _console().print(rich_table(found))
    typer.echo("\n".join(comparison.sentence for comparison in found))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of rows, or files of rows.", show_default=False)],
    out: Annotated[Path, typer.Option(help="HTML file.")] = Path("report.html"),
    l2: Annotated[float, typer.Option(min=0, help="Budget at which attacks without one (cw) are reported again.")] = 2.0,
) -> None:
    """Write one page of a run, or of several: verdict and headline first, then tables, curves, examples and parameters.

    It needs no model and no network, and can be mailed. Example: sanact report runs/demo --out demo.html
    """
    from sanact.files import replacing
    from sanact.report.page import write_page

    page = write_page(runs, l2=l2)
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    typer.echo(f"{out}, {len(page.encode()) / 2**20:.1f} MiB: open it in a browser")


@app.command()
def explore(
    model: Annotated[str, typer.Argument(help=MODEL)] = "mnist-cnn",
    data: Annotated[str, typer.Option(help=DATA)] = "mnist",
    split: Annotated[str, typer.Option(help="Of the data: test, validation, train[:5000], …")] = "test",
    weights: Annotated[
        str | None, typer.Option(help="Safetensors file, or ours by name: mnist, mnist-pgd.", show_default="the model's own")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of this machine.", show_default="the first free one")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Open a local page: choose an image, turn the attack and the plan, and watch the hidden activations.

    Nobody but this machine can reach it. It needs the extra app: pip install 'sanact[app]'. Example: sanact explore mnist-cnn
    """
    try:
        from sanact.app import build, launch
    except ImportError as error:
        raise ValueError(f"the explorer needs Gradio: pip install 'sanact[app]' ({error})") from error
    from sanact.data import load_data, usual_eps
    from sanact.graph import input_shape
    from sanact.models import load_model

    classes = len(load_data(data, split).classes) if weights else None
    network = load_model(model, weights=weights, classes=classes)
    page = build(network, load_data(data, split, shape=input_shape(network)), eps=usual_eps(data) / 2)
    address = launch(page, port=port, browser=browser)
    typer.echo(f"{address} — stop it with Ctrl-C")
    page.block_thread()


@app.command()
def robustbench(
    rows: Annotated[list[Path], typer.Argument(help="Files of rows: of autoattack, adaptive, or both.", show_default=False)],
    name: Annotated[str, typer.Option(help="Title of the paper, or what the model is called.", show_default=False)],
    out: Annotated[Path, typer.Option(help="JSON file.")] = Path("record.json"),
    reported: Annotated[
        float | None, typer.Option(help="Robust accuracy that the authors claim, in %.", show_default="what the rows say")
    ] = None,
    architecture: Annotated[str, typer.Option(help="Of the network.", show_default="the model's name")] = "",
    link: Annotated[str, typer.Option(help="To the paper.")] = "",
    authors: Annotated[str, typer.Option(help="Of the paper.")] = "",
    venue: Annotated[str, typer.Option(help="As in 'ICLR 2026'.")] = "",
    additional_data: Annotated[bool, typer.Option("--additional-data", help="It was trained on more than its data.")] = False,
    as_json: Json = False,
) -> None:
    """Write a result as RobustBench keeps them; of an oblivious or plain white-box attacker it takes none.

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


def _plan(texts: list[str]) -> Any:
    """A plan from the command line, or from a JSON file as `plan_to_dict` has it."""
    from sanact.plan import parse_plan, plan_from_dict

    if len(texts) == 1 and texts[0].endswith(".json"):
        try:
            return plan_from_dict(json.loads(Path(texts[0]).read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError, AttributeError, TypeError) as error:
            raise ValueError(f"'{texts[0]}' holds no plan, {{pattern: {{name: …, argument: …}}}}: {error}") from error
    return parse_plan(texts)


def _calibrated(texts: list[str] | None) -> bool:
    return any(part.needs_data for part in (_plan(texts) if texts else {}).values())


def _show(grids: list[Grid], as_json: bool, listings: Sequence[Listing] = ()) -> None:
    from dataclasses import asdict

    from sanact.report.tables import as_json as to_json
    from sanact.report.tables import every_result, rich_table, shares

    if as_json:
        typer.echo(json.dumps([*to_json(grids), *map(asdict, listings)], indent=2))
        return
    tables: list[Grid | Listing] = [*listings, *grids, *shares(every_result(grids))]
    for table in tables:
        _console().print(f"[bold]{table.title}[/bold]", highlight=False)
        _console().print(rich_table(table))


def _console() -> Any:
    from rich.console import Console

    return Console()


def _command() -> str:
    return shlex.join(["sanact", *sys.argv[1:]])
