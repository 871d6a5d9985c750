"""The judge: has an attack run, re-checks what it returned, predicts again, and decides example by example."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from sanact.attacks import Attack, Suite
from sanact.attacks.projections import Norm, diameter, length
from sanact.attacks.suite import Outcome, reason
from sanact.checks import check_inputs, check_mode, logits_of
from sanact.content import content
from sanact.data import Batch, Data, Integers
from sanact.device import pick_device
from sanact.evaluation.adaptive import Adaptive, Effort
from sanact.evaluation.diagnostics import EXAMPLES, Check, diagnose, verdict
from sanact.evaluation.journal import Journal
from sanact.evaluation.rows import SCHEMA, Parts, clean_accuracy, failures
from sanact.evaluation.threat import KNOWLEDGE, Knowledge, Radius, l2_budget
from sanact.faithful import difference
from sanact.folding import fold_batch_norms
from sanact.identity import fingerprint, own_code
from sanact.plan import Plan, SanitizedModel, as_plan, calibrate, changed, plan_to_dict, sanitize
from sanact.preserve import copied
from sanact.progress import Advance
from sanact.sanitizers import Sanitizer, bypass, sanitizers_of
from sanact.values import BATCH_SIZE, SEED, OneOf, Whole, shown

GUIDES = 100
KEPT = 16
KEEP = Whole(0, 2**31)
LONGEST = 150  # bytes of a cell's name before its hash: file systems take 255, of which endings need some


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One unit of evaluation.

    model: undefended, in evaluation mode; x in [0, 1] → logits.  model_name: for people; weights are told apart by content.
    defense: what is attached to the model; None judges it as it is.  calibration: clean training data, for a defense that
        needs some.  attack, knowledge: who attacks.  seed: of the attack's draws, of which each example has its own.
    source: another network of the same data, whose examples the adaptive attacker tries, too.
    """

    data: Data
    model: nn.Module
    model_name: str
    defense: Sanitizer | Plan | None
    attack: Attack
    knowledge: Knowledge
    seed: int = 0
    calibration: Data | None = None
    source: nn.Module | None = None

    def __post_init__(self) -> None:
        kinds = {
            "data": Data,
            "model": nn.Module,
            "model_name": str,
            "attack": Attack,
            "calibration": Data | None,
            "source": nn.Module | None,
        }
        for name, kind in kinds.items():
            if not isinstance(value := getattr(self, name), kind):
                raise TypeError(f"{name} must be of type {getattr(kind, '__name__', kind)}, got {shown(value)} (cell)")
        if self.defense is not None:
            as_plan(self.defense)
        OneOf(tuple(KNOWLEDGE))(self.knowledge, "knowledge", str(self))
        object.__setattr__(self, "seed", SEED(self.seed, "seed", str(self)))
        if isinstance(self.attack, Adaptive) != (self.knowledge == "adaptive"):
            raise ValueError(f"an adaptive attacker, and nobody else, runs the attack Adaptive, got {self.attack} ({self})")
        if self.defense is None and self.knowledge == "oblivious":  # there is nothing to be oblivious of
            object.__setattr__(self, "knowledge", "white-box")
        if self.attack.targeted:
            raise ValueError(f"the judge has labels, not targets: targeted must be False ({self.attack})")

    @property
    def defense_name(self) -> str:
        return "+".join(dict.fromkeys(config["name"] for config in (self._parts or {}).values())) or "none"

    @property
    def _parts(self) -> dict[str, Any] | None:
        """The plan, or the sanitizers that the model has inside it, by their modules' names."""
        if self.defense is not None:
            return plan_to_dict(self.defense)
        return self._inside.get("inside")

    @property
    def _inside(self) -> dict[str, Any]:
        named = self.model.named_modules()
        inside = {part.where or name: part.config for name, part in named if isinstance(part, Sanitizer) and not part.bypassed}
        return {"inside": inside} if inside else {}

    @property
    def identity(self) -> dict[str, Any]:
        """What the rows depend on; two cells with the same identity have the same rows."""
        return self._crafting() | {
            "defense": self._parts,
            **({"sanitizers": content(dict(as_plan(self.defense))).hex()[:16]} if self.defense is not None else {}),
            "calibration": self.calibration.fingerprint if self.calibration else None,
            "attack": self.attack.config,
            "knowledge": self.knowledge,
            **self._helped,
        }

    def _crafting(self) -> dict[str, Any]:
        """What examples crafted on the undefended model depend on."""
        code = own_code(self.attack)
        return {
            "data": {
                "name": self.data.name,
                "split": self.data.split,
                "examples": len(self.data),
                "fingerprint": self.data.fingerprint,
                **self.data.marks,
            },
            "model": {"name": self.model_name, "fingerprint": fingerprint(self.model, self._shape)} | self._inside,
            "attack": self.attack.for_replay().config,
            "seed": self.seed,
            **({"attack_code": code} if code else {}),
        }

    @property
    def _helped(self) -> dict[str, str]:
        """The key of the source, if its examples are tried."""
        if self.source is None or self.knowledge != "adaptive":
            return {}
        return {"source": fingerprint(self.source, self._shape)}

    @property
    def _shape(self) -> tuple[int, ...] | None:
        """(C, H, W) of the images."""
        return next((tuple(batch.x.shape[1:]) for batch in self.data[:1].batches(1)), None)

    @property
    def replays(self) -> bool:
        """Whether the examples are crafted on the undefended model: whatever its defense, they are the same."""
        return self.knowledge == "oblivious" or (self.defense is None and self.knowledge == "white-box")

    @property
    def slug(self) -> str:
        """A file name: for people, and a hash that tells all cells apart."""
        return _slug([self.data.name, self.model_name, self.defense_name, self.attack.name, self.knowledge], self.identity)

    @property
    def crafting_slug(self) -> str:
        """Of the folder that holds the crafted examples; cells that replay the same share it."""
        if not self.replays:
            return self.slug
        return _slug([self.data.name, self.model_name, self.attack.name], self._crafting())

    def __str__(self) -> str:
        return f"{self.defense_name} · {self.attack.name} · {self.knowledge}"


def cells(
    data: Data,
    model: nn.Module,
    model_name: str,
    defenses: Iterable[Sanitizer | Plan | None],
    attacks: Iterable[Attack],
    knowledge: Iterable[Knowledge],
    *,
    seed: int = 0,
    calibration: Data | None = None,
    effort: Effort = "standard",
    l2: Radius | None = None,
    source: nn.Module | None = None,
) -> list[Cell]:
    """Every combination, defense by defense; of the undefended model, replayed and white-box examples are the same.

    calibration: for the defenses that need data.
    effort, l2: of the adaptive attacker, who goes for each norm and budget of the attacks once, the smallest first, and for L2
        balls of radius ``l2`` where an attack has no budget; "usual" is that of the data.  source: see `Cell`.
    """
    attacks, knowledge = list(attacks), list(knowledge)
    attackers: list[tuple[Attack, Knowledge]] = [(a, k) for a, k in itertools.product(attacks, knowledge) if k != "adaptive"]
    if "adaptive" in knowledge:
        nearest = l2_budget(l2, data.name)
        balls = {attack.budget if attack.budget[1] else ("L2", nearest) for attack in attacks}
        ordered = sorted(((norm, eps) for norm, eps in balls if eps), key=lambda ball: (get_args(Norm).index(ball[0]), ball[1]))
        attackers += [(Adaptive(norm=norm, eps=eps, effort=effort), "adaptive") for norm, eps in ordered]
    return [
        Cell(
            data=data,
            model=model,
            model_name=model_name,
            defense=defense,
            attack=attack,
            knowledge=known,
            seed=seed,
            calibration=calibration if defense and any(part.needs_data for part in as_plan(defense).values()) else None,
            source=source,
        )
        for defense in defenses
        for attack, known in attackers
        if defense is not None or known != "oblivious" or "white-box" not in knowledge  # that would be the same cell again
    ]


def judge(
    cell: Cell,
    *,
    batch_size: int = 100,
    device: str | torch.device = "auto",
    folder: Path | None = None,
    keep: int = KEPT,
    advance: Advance | None = None,
) -> pa.Table:
    """The rows of a cell, in the order of its data; see `rows.SCHEMA`.

    batch_size: examples at once; memory grows with it, the rows do not depend on it but for the last bits of arithmetic, and
        for defenses that draw random numbers.
    device: "auto" takes CUDA where there is one, else the CPU.
    folder: where finished batches are kept until the cell is done, and crafted examples: those that other cells can replay, and
        of other cells the first ``keep``; None keeps nothing.
    An attack that fails leaves the images as they are, and the rows say why; see `examine`.
    Raises ValueError for what would be a false claim of robustness: a sanitizer that changes nothing, a defended model that
    without its sanitizers is another than the undefended, an attack that left its ball; and for a model or data as `Attack`
    does.
    """
    BATCH_SIZE(batch_size, "batch_size", str(cell))
    KEEP(keep, "keep", str(cell))
    device = pick_device(device)
    cell = _with_guides(cell, device)
    base, judged = _models(cell, device)
    finished = Parts(folder / "unfinished" / cell.slug, strict=True) if folder else None
    crafted = Parts(folder / "examples" / cell.crafting_slug, strict=True) if folder else None
    kept = cell.data.index if cell.replays else cell.data.index[:keep]
    order = finished.missing(cell.data.index) if finished else np.arange(len(cell.data))
    if advance:
        advance(len(cell.data) - len(order), str(cell))
    tables = []
    for number, batch in enumerate(cell.data.batches(batch_size, order=order)):
        x, y = batch.x.to(device), batch.y.to(device)
        if number == 0:
            _check_models(cell, base, judged, x, y)
            _check_budget(cell, x)
        known = crafted and not len(crafted.missing(batch.index))
        if crafted and known and cell.replays:
            outcome = _untold(_replayed(crafted, batch).to(x))
        else:
            outcome = _attack(cell, base, judged, x, y, [_generator(cell.seed, place) for place in batch.index])
        if crafted and not known and (chosen := np.isin(batch.index, kept)).any() and not any(outcome.failed):
            crafted.write(_to_table(batch.index[chosen], outcome.examples[chosen], x[chosen]))
        rows = _decide(cell, judged, batch, x, y, outcome)
        if finished:
            finished.write(rows)
        tables.append(rows)
        if advance:
            advance(len(rows))
    return finished.read(cell.data.index) if finished else pa.concat_tables(tables)


def check_plans(cells: Iterable[Cell], *, batch_size: int = 100, device: str | torch.device = "auto") -> None:
    """Raise what `judge` raises for a model, its images, a plan or a budget: before the first attack runs, not after hours."""
    device = pick_device(device)
    last, x = None, torch.empty(0)  # cells of one defense mostly come together
    for cell in cells:
        if last is None or any(getattr(cell, name) is not getattr(last, name) for name in ("model", "defense", "data")):
            first = next(cell.data.batches(batch_size))
            last, x = cell, first.x.to(device)
            _check_models(cell, *_models(cell, device), x, first.y.to(device))
        _check_budget(cell, x)


def crafted_examples(cell: Cell, folder: Path) -> Tensor:
    """What the attack of this cell made of its images when it was run, (N, C, H, W), in the order of its data.

    Raises KeyError where not all were kept; see `judge`.
    """
    shape = next(cell.data[:1].batches(1)).x.shape[1:]
    return _from_table(Parts(folder / "examples" / cell.crafting_slug, strict=True).read(cell.data.index), "x", shape)


def examine(cell: Cell, rows: pa.Table, *, device: str | torch.device = "auto", folder: Path | None = None) -> dict[str, Any]:
    """The diagnostics of a cell, of which these are the rows, and its verdict, for its header.

    Replayed examples claim nothing: of them only what went wrong is told.
    folder: as for `judge`; what was found before a kill is not measured again.
    """
    checks = _mishaps(cell, rows)
    if cell.knowledge != "oblivious":
        device = pick_device(device)
        cell = _with_guides(cell, device)
        _, judged = _models(cell, device)
        first = next(cell.data.batches(min(2 * EXAMPLES, len(cell.data))))
        by = rows["by"].to_pylist()[: len(first.y)]
        x, y = first.x.to(device), first.y.to(device)
        journal = Journal(folder / "unfinished" / cell.slug / "checks.jsonl" if folder else None)
        checks += _as_far_as_it_goes(diagnose(cell.attack, judged, x, y, by=by, once=journal.once))
    elif not checks:
        return {}
    bound = isinstance(cell.attack, Adaptive) and cell.attack.effort == "quick"
    return {"verdict": verdict(checks, bound=bound), "checks": [check._asdict() for check in checks]}


def _mishaps(cell: Cell, rows: pa.Table) -> list[Check]:
    """What the rows themselves say against their number."""
    checks = [
        Check(f"{part} failed on {number} of {len(rows)} images: {why}", number / len(rows), 0.0)
        for part, (number, why) in failures(rows).items()
    ]
    if pc.max(rows["linf"]).as_py() == 0 and clean_accuracy(rows).hits and not checks:
        checks.append(Check(f"{cell.attack} returned its input for all {len(rows)} images: it attacked nothing", 1.0, 0.0))
    return checks


def _as_far_as_it_goes(checks: Iterable[Check]) -> Iterator[Check]:
    """The checks; one that fails with an error ends them, and is itself a reason to doubt the number."""
    try:
        yield from checks
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of as many kinds as there are models
        yield Check(f"the checks ended early: {reason(error)}", 1.0, 0.0)


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
    """The cell, its adaptive attacker equipped with the first images of the data to drive others to."""
    if not isinstance(cell.attack, Adaptive):
        return cell
    guides = next(cell.data.batches(min(GUIDES, len(cell.data)))).x.to(device)
    source = copied(cell.source).to(device) if cell.source is not None else None
    return replace(cell, attack=replace(cell.attack, guides=guides, source=source))


def _models(cell: Cell, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """The undefended model and the one to be judged, on the device and without batch norms; the cell's own stays as it is."""
    check_mode(cell.model, str(cell))
    base, example = copied(cell.model).to(device), next(cell.data[:1].batches(1)).x.to(device)
    fold_batch_norms(base, example)
    if cell.defense is None:
        return base, base
    defended = sanitize(base, cell.defense, example=example)
    if cell.calibration is not None:
        calibrate(defended, next(cell.calibration.batches(len(cell.calibration))).x.to(device))
    return base, defended


@torch.no_grad()
def _check_models(cell: Cell, base: nn.Module, judged: nn.Module, x: Tensor, y: Tensor) -> None:
    check_inputs(x, y, str(cell))
    logits_of(base, x, y, str(cell))
    if isinstance(judged, SanitizedModel):
        with bypass(judged.sanitizers.values()):
            if found := difference(base, judged, x):
                raise ValueError(f"without its sanitizers the defended model is another than the undefended: {found} ({cell})")
        idle = [layer for layer, share in changed(judged, x).items() if share == 0 and not judged.sanitizers[layer].bypassed]
        if idle:
            raise ValueError(f"{judged.sanitizers[idle[0]]} changed nothing in {len(x)} examples: it defends nothing ({cell})")


def _check_budget(cell: Cell, x: Tensor) -> None:
    norm, eps = cell.attack.budget
    if eps is None:
        return
    if eps > (whole := diameter(x, norm)):
        raise ValueError(f"eps must be at most {whole:g} in {norm}, where the ball holds every image, got {eps} ({cell})")
    if torch.equal(x + eps, x) and torch.equal(x - eps, x):
        raise ValueError(f"with eps {eps:g} every pixel stays what it is in {x.dtype}: it attacked nothing ({cell})")


def _attack(cell: Cell, base: nn.Module, judged: nn.Module, x: Tensor, y: Tensor, generators: list[torch.Generator]) -> Outcome:
    """The examples of one batch; where the attack fails they are the images themselves, with the reason."""
    for sanitizer in sanitizers_of(judged):
        sanitizer.rewind()
    attack = cell.attack
    try:
        if isinstance(attack, Suite) and cell.knowledge != "oblivious":
            return attack.credited(judged, x, y, generator=generators)
        if cell.replays:
            return _untold(attack.for_replay()(base, x, y, generator=generators))
        return _untold(attack(judged, x, y, generator=generators))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of as many kinds as there are models and attacks
        return Outcome(x.clone(), [], [{attack.name: reason(error)} for _ in x])


def _untold(examples: Tensor) -> Outcome:
    """Examples of which only the judge knows what they won."""
    return Outcome(examples, [], [])


@torch.no_grad()
def _decide(cell: Cell, judged: nn.Module, batch: Batch, x: Tensor, y: Tensor, outcome: Outcome) -> pa.Table:
    """Range and budget again, and the predictions that count."""
    adversarial, by, failed = outcome
    if adversarial.shape != x.shape:
        raise ValueError(f"{cell.attack} returned {tuple(adversarial.shape)} for {tuple(x.shape)} ({cell})")
    check_inputs(adversarial, y, str(cell.attack))
    distances = {norm: length(adversarial - x, norm) for norm in get_args(Norm)}
    norm, eps = cell.attack.budget
    if eps is not None and (far := distances[norm].max()) > eps + 1e-6 * max(1, eps):
        raise ValueError(f"{cell.attack} went {far:.6g} away in {norm}, its budget is {eps:.6g} ({cell})")
    clean, attacked = (logits_of(judged, images, y, str(cell)) for images in (x, adversarial))
    already, won = (clean.argmax(1) != y).tolist(), (attacked.argmax(1) != y).tolist()
    by = by or ["clean" if a else cell.attack.name if w else "" for a, w in zip(already, won, strict=True)]
    columns = [
        batch.index,
        batch.y,
        clean.argmax(1).cpu(),
        attacked.argmax(1).cpu(),
        distances["Linf"].cpu(),
        distances["L2"].cpu(),
        by,
        ["\n".join(f"{name}: {why}" for name, why in errors.items()) for errors in failed] or [""] * len(x),
    ]
    return pa.table(
        [pa.array(np.asarray(column), type=field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def _generator(seed: int, place: int) -> torch.Generator:
    """A stream of random numbers for one example of one seed."""
    (state,) = np.random.SeedSequence((seed, int(place))).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state))


def _to_table(index: Integers, adversarial: Tensor, clean: Tensor) -> pa.Table:
    def column(x: Tensor) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(x.cpu().float().flatten().numpy()), x[0].numel())

    return pa.table({"index": index, "x": column(adversarial), "clean": column(clean)})


def _replayed(crafted: Parts, batch: Batch) -> Tensor:
    """The examples of these images, (N, C, H, W); ValueError where they were crafted of others."""
    table = crafted.read(batch.index)
    if not torch.equal(_from_table(table, "clean", batch.x.shape[1:]), batch.x.cpu().float()):
        raise ValueError(f"the examples in '{crafted.folder}' are of other images than those asked for; move it away")
    return _from_table(table, "x", batch.x.shape[1:])


def _from_table(table: pa.Table, column: str, shape: Sequence[int]) -> Tensor:
    if (size := table[column].type.list_size) != math.prod(shape):
        raise ValueError(f"the examples asked for are {tuple(shape)}, those that were kept have {size} numbers each")
    flat = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(flat.copy()).reshape(-1, *shape)


def _slug(words: Sequence[str], identity: dict[str, Any]) -> str:
    """The words, the ends of them where they are too long for a file's name, and a hash."""
    parts = [re.sub(r"[^\w.-]+", "-", word) for word in words]
    if len("_".join(parts).encode()) > LONGEST:
        parts = [part.encode()[-(LONGEST // len(parts) - 1) :].decode(errors="ignore") for part in parts]
    return "_".join([*parts, hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]])


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
