"""Verbs that search: which layers to sanitize, with what, and how strongly."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sanact.cli.options import (
    DATA,
    MODEL,
    ClassNames,
    Device,
    ImageColumn,
    InputShape,
    Json,
    LabelColumn,
    Out,
    Quiet,
    Seed,
    Weights,
    columns,
    draw,
    read_model,
)
from sanact.search.asked import Scanning, Searching

if TYPE_CHECKING:
    from torch import nn

    from sanact.data import Data
    from sanact.report.search import Search
    from sanact.report.tables import Listing

SanitizersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sanitizer",
        "-s",
        help="NAME[:ARGUMENT,…]; repeat for more. What is given stays: 'mask:reading=max' searches its strength alone. "
        "Names: mask, median, nl-means, mean-sparse, k-wta, sap, ash, smooth-mask, soft-shrink, denoise; "
        "and before the network feature-squeezing, jpeg, tv-minimization, random-resize-pad, crop-rescale, sparse-fourier, "
        "region-voting, smoothing.",
        show_default="mask",
    ),
]
Layers = Annotated[
    list[str] | None, typer.Option("--layers", "-l", help="Pattern of layers, as in --plan; repeat for more.", show_default="*")
]
ObjectiveOption = Annotated[
    str,
    typer.Option(
        "--objective",
        help="Who attacks: adaptive knows the defense; white-box and oblivious reward plans that mask their gradients.",
    ),
]
Attacks = Annotated[
    list[str] | None,
    typer.Option(
        "--attack",
        "-a",
        help="NAME[:KEY=VALUE,…]; repeat for more budgets. The adaptive attacker takes norm and eps of it.",
        show_default="pgd, at the data's usual eps, halved until a third of what is right withstands",
    ),
]
EffortOption = Annotated[str, typer.Option("--effort", help="Of the adaptive attacker in the search.")]
SearchSplit = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Of the images to search on: some that the model was not fitted to, and that you will not report.",
        show_default="held-out training images for our nets, else validation, else half of test",
    ),
]
Examples = Annotated[int, typer.Option(min=10, help="Images to search on, with the class shares of the whole.")]
SearchWorkers = Annotated[int, typer.Option(min=1, help="Processes; each judges one plan at a time.")]


def search(
    model: Annotated[str, typer.Argument(help=MODEL, show_default=False)],
    data: Annotated[str, typer.Option(help=DATA)] = "mnist",
    sanitizer: SanitizersOption = None,
    layers: Layers = None,
    objective: ObjectiveOption = Searching.objective,
    attack: Attacks = None,
    effort: EffortOption = Searching.effort,
    drop: Annotated[
        float, typer.Option(min=0, max=100, help="Points of clean accuracy that a plan may cost.")
    ] = Searching.drop,
    overhead: Annotated[bool, typer.Option("--overhead", help="The time of a pass is an objective, too.")] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="Plans to try.", show_default="100, without --hours")] = None,
    hours: Annotated[float | None, typer.Option(help="To search.", show_default="no end but --trials")] = None,
    levels: Annotated[
        int, typer.Option(min=0, help="Of each strength in the scan that comes first; 0 leaves it out.")
    ] = Searching.levels,
    split: SearchSplit = None,
    examples: Examples = 200,
    unseen: Annotated[
        str | None,
        typer.Option(
            help="Split to judge the best plan on; none: do not.", show_default="test, without the images searched on"
        ),
    ] = None,
    unseen_examples: Annotated[int, typer.Option(min=1, help="Images of it.")] = 200,
    judge_effort: Annotated[
        str, typer.Option(help="Of the adaptive attacker who judges the best plan.")
    ] = Searching.judge_effort,
    weights: Weights = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    class_names: ClassNames = None,
    shape: InputShape = None,
    out: Out = Path(Searching.out),
    seed: Seed = Searching.seed,
    device: Device = Searching.device,
    workers: SearchWorkers = Searching.workers,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search which layers to sanitize, with what, and how strongly, for a model of your own.

    Each layer alone comes first, at each strength. Then Optuna proposes plans; each is attacked on ever more images, and given
    up once another is better by a paired test. The best is judged again, by a harder attacker, on images not seen before.
    Found are best.json, which --plan takes, best.md, which says how it was found, the front in plans/, and pictures.
    The same command goes on where it was stopped; with more --trials, it goes on from its end.

    Example: sanact search mnist-cnn --sanitizer mask --sanitizer median --layers 'conv*' --trials 50 --workers 2

    Then: sanact evaluate mnist-cnn --plan runs/search/best.json
    """
    from sanact.report.search import front_table, import_optuna, judged_table, scan_table
    from sanact.search import search as run

    import_optuna()
    named = _Named(model, data, weights, seed, image_column, label_column, class_names, shape)
    network, chosen, rest = named.images(split, examples)
    found = run(
        network,
        chosen,
        **named.asked(network, sanitizer, layers, objective, attack, effort),
        drop=drop,
        overhead=overhead,
        trials=trials,
        hours=hours,
        levels=levels,
        unseen=named.unseen(unseen, unseen_examples, chosen, rest),
        judge_effort=judge_effort,  # type: ignore[arg-type]  # it is checked there
        out=out,
        workers=workers,
        device=device,
        progress=not quiet,
    )
    tables = [scan_table(found)] if found.scan else []
    tables += [front_table(found)] + ([judged_table(found)] if found.judged else [])
    _show(found, tables, as_json)
    if not as_json:
        typer.echo(_said(found, named, attack or [f"pgd:eps={found.facts['attacks'][0]['eps']:.4g}"]))


def sensitivity(
    model: Annotated[str, typer.Argument(help=MODEL, show_default=False)],
    data: Annotated[str, typer.Option(help=DATA)] = "mnist",
    sanitizer: SanitizersOption = None,
    layers: Layers = None,
    objective: ObjectiveOption = Scanning.objective,
    attack: Attacks = None,
    effort: EffortOption = Scanning.effort,
    drop: Annotated[
        float, typer.Option(min=0, max=100, help="Points of clean accuracy; what costs more for certain is not attacked.")
    ] = Scanning.drop,
    levels: Annotated[int, typer.Option(min=1, help="Of each strength.")] = Scanning.levels,
    split: SearchSplit = None,
    examples: Examples = 50,
    weights: Weights = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    class_names: ClassNames = None,
    shape: InputShape = None,
    out: Out = Path(Scanning.out),
    seed: Seed = Scanning.seed,
    device: Device = Scanning.device,
    workers: SearchWorkers = Scanning.workers,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Sanitize each layer alone, at each strength: what it costs of clean accuracy, and what it buys under attack.

    Example: sanact sensitivity mnist-cnn --sanitizer mask:reading=max --sanitizer median

    Example: sanact sensitivity my/net.py:build --data my/images --layers 'layer[34]*' --objective oblivious
    """
    from sanact.report.search import scan_table
    from sanact.search import sensitivity as run

    named = _Named(model, data, weights, seed, image_column, label_column, class_names, shape)
    network, chosen, _ = named.images(split, examples)
    found = run(
        network,
        chosen,
        **named.asked(network, sanitizer, layers, objective, attack, effort),
        drop=drop,
        levels=levels,
        out=out,
        workers=workers,
        device=device,
        progress=not quiet,
    )
    _show(found, [scan_table(found)], as_json)
    if not as_json:
        typer.echo(f"The picture is {found.out / 'scan.png'}; it is on a page, too: sanact report {found.out}")


@dataclass(frozen=True)
class _Named:
    """A model and data, as the command line names them."""

    model: str
    data: str
    weights: str | None
    seed: int
    image_column: str | None
    label_column: str | None
    class_names: str | None
    input: str | None

    @cached_property
    def found_by(self) -> dict[str, Any]:
        """See `columns`."""
        return columns(self.image_column, self.label_column, self.class_names, self.input)

    @property
    def evaluate(self) -> list[str]:
        """The words of a command that judges this model on these data."""
        names = [field.name for field in fields(self) if field.name not in ("model", "seed")]
        given = {f"--{name.replace('_', '-')}": getattr(self, name) for name in names}
        return [
            "sanact",
            "evaluate",
            self.model,
            *(word for option in given.items() if option[1] is not None for word in option),
        ]

    def images(self, split: str | None, examples: int) -> tuple[nn.Module, Data, Data | None]:
        """The network, the images to search on, and, where they are a part of the test images, the others."""
        from sanact.data import load_data
        from sanact.naming import usual_source

        if split is not None:
            network, whole = self._read(split)
            return network, whole.at_most(examples, seed=self.seed), None
        if usual_source(self.model, self.weights, "standard") == "none":  # weights of ours: `sanact train` held out a twelfth
            network, whole = self._read("train")
            held_out = whole.sample(max(len(whole) // 12, 1), seed=0)
            return network, held_out.at_most(examples, seed=self.seed), None
        try:
            load_data(self.data, "validation", **self.found_by)
        except ValueError:  # it has no such split
            network, whole = self._read("test")
            half, rest = whole.split_off(max(len(whole) // 2, 1), seed=self.seed)
            return network, half.at_most(examples, seed=self.seed), rest
        network, whole = self._read("validation")
        return network, whole.at_most(examples, seed=self.seed), None

    def _read(self, split: str) -> tuple[nn.Module, Data]:
        network, whole = read_model(self.model, self.data, split, self.weights, found_by=self.found_by)
        return network, whole

    def unseen(self, split: str | None, examples: int, chosen: Data, rest: Data | None) -> Data | None:
        """The images to judge on; chosen, rest: see `images`."""
        from dataclasses import replace

        import numpy as np

        from sanact.data import load_data

        if split == "none":
            return None
        if split is not None or rest is None:
            shape = tuple(next(chosen[:1].batches(1)).x.shape[1:])
            rest = replace(load_data(self.data, split or "test", **{**self.found_by, "shape": shape}), note=chosen.note)
            others = np.flatnonzero(~np.isin(rest.index, chosen.index))
            if rest.split == chosen.split and len(others):
                rest = rest[others]
        return rest.at_most(examples, seed=self.seed)

    def asked(
        self,
        network: nn.Module,
        sanitizer: list[str] | None,
        layers: list[str] | None,
        objective: str,
        attack: list[str] | None,
        effort: str,
    ) -> dict[str, Any]:
        """The arguments that both verbs share."""
        from sanact.attacks import as_attack
        from sanact.naming import clean_images
        from sanact.run_file import Net
        from sanact.sanitizers import SANITIZERS
        from sanact.spec import parse

        names = sanitizer or list(Scanning.sanitizers)
        needs = any(parse("sanitizer", SANITIZERS, text).needs_data for text in names if text.partition(":")[0] in SANITIZERS)
        return {
            "sanitizers": names,
            "layers": layers or list(Scanning.layers),
            "objective": objective,
            "attacks": [as_attack(text) for text in attack or ()],
            "effort": effort,
            "calibration": clean_images(self.data, network, seed=self.seed, found_by=self.found_by) if needs else None,
            "model_name": Net(self.model, self.weights).title,
            "seed": self.seed,
        }


def _show(found: Search, tables: list[Listing], as_json: bool) -> None:
    """The tables on the terminal, and the pictures in the folder."""
    from dataclasses import asdict

    from sanact.report.figures import save
    from sanact.report.search import pictures

    for name, figure in pictures(found).items():
        save(figure, found.out / name)
    if as_json:
        typer.echo(json.dumps([asdict(table) for table in tables], indent=2))
        return
    draw(tables)


def _said(found: Search, named: _Named, attacks: list[str]) -> str:
    """What was found, in words, and the command that judges it."""
    where = f"Pictures, tables and rows are in {found.out}; all on one page: sanact report {found.out}"
    if not found.winner.plan:
        return f"No plan beats the undefended model within {found.facts['drop']:g} points of clean accuracy. {where}"
    from sanact.report.search import doubt

    best = found.out / "best.json"
    command = shlex.join([*named.evaluate, *(word for text in attacks for word in ("--attack", text)), "--plan", str(best)])
    lines = [f"The best plan of the search is {best}. {doubt(found)}".rstrip(), f"To judge it: {command}"]
    if found.facts["data"]["split"] == "test":
        seen = found.facts["data"]["examples"]
        lines += [f"That includes the {seen} test images of the search, which flatter the plan."]
    return "\n".join([*lines, where])
