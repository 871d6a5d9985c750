"""The judge: runs an attack, checks again what it returned, predicts again, and decides example by example."""

from __future__ import annotations

import copy
import platform
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from sanact.attacks import Suite
from sanact.attacks.projections import Norm, diameter, length
from sanact.attacks.suite import Outcome, reason
from sanact.checks import check_inputs, check_mode, fooled, logits_of, refuses
from sanact.data import Batch, Integers
from sanact.defenses import as_defense, split
from sanact.device import one_thread, pick_device
from sanact.evaluation.adaptive import Adaptive
from sanact.evaluation.cell import Cell
from sanact.evaluation.crafted import examples_of, replayed, to_table
from sanact.evaluation.examining import concluded, diagnosed, journal_of, looked_at
from sanact.evaluation.rows import SCHEMA, Parts
from sanact.faithful import difference
from sanact.folding import fold_batch_norms
from sanact.parts import bypass, parts_of, removable
from sanact.passes import counting
from sanact.plan import changed
from sanact.preserve import copied, seeded
from sanact.remembering import once
from sanact.values import BATCH_SIZE, Whole

GUIDES = 100
KEPT = 16
SAME = ("model", "defense", "data", "calibration")  # if these agree, two cells have the same models
KEEP = Whole(0, 2**31)


class Judged(NamedTuple):
    """rows: of a batch, as `rows.SCHEMA`.  crafted: its examples that were to be kept, or None."""

    rows: pa.Table
    crafted: pa.Table | None


class Bench:
    """A cell prepared on a device.  It judges batches in any order, in this process or another, with the same rows.

    Batches do not affect each other: parts begin their draws again, and the global random states are set from the cell's seed
    and the batch.  One thread computes, because sums over several threads differ in their last bits.
    """

    def __init__(self, cell: Cell, device: str | torch.device) -> None:
        self.device = pick_device(device)
        self.cell = _with_guides(cell, self.device)
        self.base = _base(cell, self.device)
        self.bare, self.judged = _defended(cell, self.base, self.device)

    def of(self, cell: Cell) -> Bench:
        """A bench for another cell; it shares the models as far as model, data and defense are the same."""
        if any(getattr(cell, name) is not getattr(self.cell, name) for name in ("model", "data")):
            return Bench(cell, self.device)
        other = copy.copy(self)
        other.cell = _with_guides(cell, self.device)
        if any(getattr(cell, name) is not getattr(self.cell, name) for name in SAME):
            other.bare, other.judged = _defended(cell, self.base, self.device)
        return other

    def check(self, batch: Batch) -> None:
        """Raise what `judge` raises for a model, its images, a plan or a budget."""
        x, y = batch.x.to(self.device), batch.y.to(self.device)
        _check_models(self.cell, self.bare, self.judged, x, y)
        _check_budget(self.cell, x)

    def judge(self, positions: Integers, *, examples: pa.Table | None = None, keep: int = 0) -> Judged:
        """The rows of the images at these positions in the cell's data.

        examples: crafted before, to be replayed; None crafts them.  keep: how many of the cell's first examples to return.
        """
        cell = self.cell
        batch = next(cell.data.batches(len(positions), order=positions))
        x, y = batch.x.to(self.device), batch.y.to(self.device)
        for part in {*parts_of(self.base), *parts_of(self.judged)}:
            part.rewind()
        with self.drawing(batch.index[0]):
            if examples is not None:
                outcome, passes = _untold(replayed(examples, batch, cell).to(x)), torch.tensor(examples["passes"].to_numpy())
                _check_examples(cell, x, y, outcome.examples)
            else:
                generators = [_generator(cell.seed, place) for place in batch.index]
                with counting(x) as passes:
                    outcome = _attack(cell, self.base, self.judged, x, y, generators)
            rows = _decide(cell, self.judged, batch, x, y, outcome, passes)
        chosen = np.isin(batch.index, cell.data.index[:keep])
        crafted = None
        if chosen.any() and not any(outcome.failed):
            crafted = to_table(batch.index[chosen], outcome.examples[chosen], x[chosen], passes[chosen])
        return Judged(rows, crafted)

    @contextmanager
    def drawing(self, place: int) -> Iterator[None]:
        """For the block, one thread computes, and the global random states are those of the cell's seed and this place."""
        with one_thread(), seeded(self.judged, _state(self.cell.seed, place, np.uint32)):
            yield


class Case:
    """A cell in progress: which batches are judged, and where rows and examples are kept until all are.

    folder: see `judge`; None keeps them in memory.  crafted: examples of this cell and of others that replay the same ones.
    """

    def __init__(self, cell: Cell, folder: Path | None, *, keep: int = KEPT, crafted: Parts | None = None) -> None:
        self.cell = cell
        self.finished = Parts(folder / "unfinished" / cell.slug, strict=True) if folder else None
        self.crafted = crafted if crafted or not folder else examples_of(cell, folder)
        self.keep = len(cell.data) if cell.replays else keep
        self.tables: list[pa.Table] = []

    def missing(self, batch_size: int) -> list[Integers]:
        """The batches still to be judged, as positions in the data.  Their borders depend only on the batch size."""
        index = self.cell.data.index
        left = self.finished.missing(index) if self.finished else np.arange(len(index))
        parts = (left[(left >= start) & (left < start + batch_size)] for start in range(0, len(index), batch_size))
        return [part for part in parts if len(part)]

    def given(self, positions: Integers) -> dict[str, Any]:
        """The arguments of `Bench.judge` for a batch."""
        index = self.cell.data.index[positions]
        if self.crafted is None:
            return {}
        if len(self.crafted.missing(index)):
            return {"keep": self.keep}
        return {"examples": self.crafted.read(index)} if self.cell.replays else {}

    def take(self, judged: Judged) -> None:
        """Keep the rows of a batch; its examples are kept first."""
        if self.crafted and judged.crafted is not None:
            self.crafted.write(judged.crafted)
        if self.finished:
            self.finished.write(judged.rows)
        else:
            self.tables.append(judged.rows)

    def rows(self, positions: Integers | slice = slice(None)) -> pa.Table:
        """The rows at these positions of the data, which must have been judged; all of them by default."""
        index = self.cell.data.index[positions]
        return self.finished.read(index) if self.finished else pa.concat_tables(self.tables)


def judge(
    cell: Cell,
    *,
    batch_size: int = 100,
    device: str | torch.device = "auto",
    folder: Path | None = None,
    keep: int = KEPT,
) -> pa.Table:
    """The rows of a cell, in the order of its data; see `rows.SCHEMA`.

    batch_size: examples at once.  Memory grows with it.  The rows do not depend on it, except for the last bits of arithmetic
        and for defenses that draw random numbers.
    device: "auto" is CUDA if available, else the CPU, where one thread computes: more would change the last bits.
    folder: where finished batches are kept until the cell is done, and crafted examples: all that other cells can replay, and
        the first ``keep`` of other cells; None keeps nothing.
    If an attack fails, or returns what is no image within its budget, the images stay as they are, and the rows say why; see
    `examine`.
    Raises ValueError for anything that would be a false claim of robustness: a sanitizer that changes nothing, a defended model
    that differs from the undefended one even without its sanitizers.  Also raises what `Attack`
    raises for a model or data.
    """
    BATCH_SIZE(batch_size, "batch_size", str(cell))
    KEEP(keep, "keep", str(cell))
    bench, case = Bench(cell, device), Case(cell, folder, keep=keep)
    bench.check(next(cell.data.batches(batch_size)))
    for positions in case.missing(batch_size):
        case.take(bench.judge(positions, **case.given(positions)))
    return case.rows()


def examine(cell: Cell, rows: pa.Table, *, device: str | torch.device = "auto", folder: Path | None = None) -> dict[str, Any]:
    """The diagnostics and the verdict for a cell with these rows, for its header.

    Replayed examples make no claim, so for them only errors are reported.
    folder: as for `judge`; figures found before a kill are not measured again.
    """
    if cell.knowledge == "oblivious":
        return concluded(cell, rows, [])
    by = rows["by"].to_pylist()[: looked_at(cell)]
    checks = diagnosed(Bench(cell, device), by, journal=journal_of(cell, folder) if folder else None)
    return concluded(cell, rows, checks)


def checked(
    cells: Iterable[Cell], *, batch_size: int = 100, device: str | torch.device = "auto"
) -> Iterator[tuple[Bench, Batch]]:
    """The bench of each cell, and the first batch of its data.

    Raises what `judge` raises for a model, its images, a plan or a budget; so errors come before the first attack, not later.
    """
    looked: Bench | None = None
    for cell in cells:
        bench = looked.of(cell) if looked else Bench(cell, device)  # cells of one defense usually follow each other
        if looked is None or bench.judged is not looked.judged:
            first = next(cell.data.batches(batch_size))
            bench.check(first)
        _check_budget(cell, first.x)
        looked = bench
        yield bench, first


def circumstances(cell: Cell, device: str | torch.device) -> dict[str, Any]:
    """The header of a cell's rows: its identity, the classes, where its examples lie and their shape, and what made them."""
    return {
        "cell": cell.identity,
        "classes": list(cell.data.classes),
        "examples": cell.crafting_slug,
        "shape": list(next(cell.data[:1].batches(1)).x.shape[1:]),
        "versions": {name: version(name) for name in ("sanact", "torch", "numpy")} | {"python": platform.python_version()},
        "device": str(pick_device(device)),
        "commit": _commit(),
    }


def _with_guides(cell: Cell, device: torch.device) -> Cell:
    """The cell, with the first images of the data as guides for its adaptive attacker."""
    if not isinstance(cell.attack, Adaptive):
        return cell
    guides = next(cell.data.batches(min(GUIDES, len(cell.data)))).x.to(device)
    source = copied(cell.source).to(device) if cell.source is not None else None
    return replace(cell, attack=replace(cell.attack, guides=guides, source=source))


def _base(cell: Cell, device: torch.device) -> nn.Module:
    """The undefended model on the device, with batch norms folded.  The cell's own model stays as it is."""
    check_mode(cell.model, str(cell))
    example = _example(cell, device)
    folded = once(cell.model, lambda: _folded(copied(cell.model).to(device), example), "folded", device, example.shape)
    return copied(folded)  # what is remembered never sees an image that is judged


def _defended(cell: Cell, base: nn.Module, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """The model that parts are put into, and the model to be judged.

    The first is the base, unless a defense trains another one.
    """
    if cell.defense is None:
        return base, base
    example, bare = _example(cell, device), base
    trained, attached = split(as_defense(cell.defense))
    if trained is not None:
        bare = _folded(trained(copied(cell.model).to(device), cell.calibration, example=example).to(device), example)
        if not difference(base, bare, example):
            raise ValueError(f"{trained} left the network as it was: it defends nothing ({cell})")
    return bare, bare if attached is None else attached(bare, cell.calibration, example=example).to(device)


def _example(cell: Cell, device: torch.device) -> Tensor:
    """The first of its images, (1, C, H, W)."""
    return next(cell.data[:1].batches(1)).x.to(device)


def _folded(model: nn.Module, example: Tensor) -> nn.Module:
    folded = copied(model)
    fold_batch_norms(folded, example)
    return folded


@torch.no_grad()
def _check_models(cell: Cell, bare: nn.Module, judged: nn.Module, x: Tensor, y: Tensor) -> None:
    check_inputs(x, y, str(cell))
    logits_of(bare, x, y, str(cell))
    if untrained := [part for part in parts_of(judged) if part.untrained and not part.bypassed]:
        raise ValueError(
            f"{untrained[0]} has strengths to be learned, which were never trained: sanact train MODEL --plan … trains them, "
            f"with the network ({cell})"
        )
    if judged is bare:
        return
    parts = removable(judged)
    with bypass([*parts, *removable(bare)]):
        if parts and (found := difference(bare, judged, x)):
            raise ValueError(f"without its parts the defended model differs from the undefended: {found} ({cell})")
    if idle := [part for part, share in changed(judged, x).items() if share == 0]:
        raise ValueError(f"{idle[0]} changed nothing in {len(x)} examples: it defends nothing ({cell})")


def _check_budget(cell: Cell, x: Tensor) -> None:
    norm, eps = cell.attack.budget
    if eps is None:
        return
    if eps > (whole := diameter(x, norm)):
        raise ValueError(f"eps must be at most {whole:g} in {norm}, where the ball holds every image, got {eps} ({cell})")
    if torch.equal(x + eps, x) and torch.equal(x - eps, x):
        raise ValueError(f"eps {eps:g} is too small to change a pixel in {x.dtype}: it attacked nothing ({cell})")


def _attack(cell: Cell, base: nn.Module, judged: nn.Module, x: Tensor, y: Tensor, generators: list[torch.Generator]) -> Outcome:
    """The examples of one batch; if the attack fails, the images themselves, with the reason."""
    attack = cell.attack
    try:
        if isinstance(attack, Suite) and cell.knowledge != "oblivious":
            outcome = attack.credited(judged, x, y, generator=generators)
        elif cell.replays:
            outcome = _untold(attack.for_replay()(base, x, y, generator=generators))
        else:
            outcome = _untold(attack(judged, x, y, generator=generators))
        _check_examples(cell, x, y, outcome.examples)
        return outcome
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # models and attacks may raise any error
        return Outcome(x.clone(), [], [{attack.name: reason(error)} for _ in x])


def _check_examples(cell: Cell, x: Tensor, y: Tensor, examples: Tensor) -> None:
    """Raise ValueError where shape, range or budget are not those of the attack."""
    if examples.shape != x.shape:
        raise ValueError(f"{cell.attack} returned {tuple(examples.shape)} for {tuple(x.shape)}")
    check_inputs(examples, y, str(cell.attack))
    norm, eps = cell.attack.budget
    if eps is not None and (far := length(examples - x, norm).max()) > eps + 1e-6 * max(1, eps):
        raise ValueError(f"{cell.attack} went {far:.6g} away in {norm}, its budget is {eps:.6g}")


def _untold(examples: Tensor) -> Outcome:
    """Examples of an attack that does not say what it won; the judge will."""
    return Outcome(examples, [], [])


@torch.no_grad()
def _decide(cell: Cell, judged: nn.Module, batch: Batch, x: Tensor, y: Tensor, outcome: Outcome, passes: Tensor) -> pa.Table:
    """Make the predictions that count."""
    adversarial, by, failed = outcome
    distances = {norm: length(adversarial - x, norm) for norm in get_args(Norm)}
    clean, attacked = (logits_of(judged, images, y, str(cell)) for images in (x, adversarial))
    already, won = (clean.argmax(1) != y).tolist(), fooled(judged, attacked, y).tolist()
    by = by or [cell.attack.name if w else "" for w in won]
    by = ["clean" if a else who for a, who in zip(already, by, strict=True)]
    (at_first, first_score), (then, score) = (_predicted(judged, logits) for logits in (clean, attacked))
    columns = [
        batch.index,
        batch.y,
        at_first,
        then,
        distances["Linf"].cpu(),
        distances["L2"].cpu(),
        by,
        ["\n".join(f"{name}: {why}" for name, why in errors.items()) for errors in failed] or [""] * len(x),
        passes.cpu(),
        first_score,
        score,
    ]
    return pa.table(
        [
            pa.array(np.asarray(column), type=field.type, from_pandas=True)
            for column, field in zip(columns, SCHEMA, strict=True)
        ],
        schema=SCHEMA,
    )


def _predicted(model: nn.Module, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions as in `rows.SCHEMA`, (N,), and the lead of the refusal, (N,), which is NaN if the model cannot refuse."""
    if not refuses(model):
        return logits.argmax(1).cpu(), torch.full((len(logits),), torch.nan)
    highest, predicted = logits[:, :-1].max(1)
    score = logits[:, -1] - highest
    return torch.where(score > 0, ~predicted, predicted).cpu(), score.cpu()


def _generator(seed: int, place: int) -> torch.Generator:
    """A stream of random numbers for one example and seed."""
    return torch.Generator().manual_seed(_state(seed, place, np.uint64))


def _state(seed: int, place: int, kind: type[np.uint32 | np.uint64]) -> int:
    """The initial state of such a stream."""
    return int(np.random.SeedSequence((seed, int(place))).generate_state(1, kind)[0])


def _commit() -> str | None:
    """The commit of the source tree this package runs from, if it runs from one."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
