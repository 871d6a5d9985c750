"""One call that judges: a model and its defenses under attack, as a result that shows itself."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from torch import nn

from sanact.attacks import Attack, as_attack, own_attack
from sanact.attacks.projections import Norm
from sanact.data import Data, load_data
from sanact.defenses import Defense, as_defense
from sanact.engine import run
from sanact.evaluating import every_cell, undefended_and_defended, usual_attacks
from sanact.evaluation.rows import read_rows
from sanact.evaluation.threat import KNOWLEDGE, Effort, Knowledge, Radius
from sanact.files import write_text
from sanact.graph import input_shape
from sanact.models import load_model
from sanact.naming import LEARNT
from sanact.report.comparison import comparison
from sanact.report.figures import accuracy_by_budget
from sanact.report.page import write_page
from sanact.report.tables import CLEAN, Grid, Result, grid, markdown, results, words
from sanact.values import OneOf
from sanact.wrapping import in_float32, unwrapped

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

USUAL = 1000  # images, where a data set has more


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found.

    results: the accuracies, of each defense the one on clean images first.  paths: the files of rows, one a cell.
    l2: the budget in L2 at which attacks without one are reported, too.
    """

    results: list[Result]
    paths: list[Path]
    l2: Radius | None

    def table(self, knowledge: Knowledge | None = None) -> Grid:
        """A row a defense, a column an attack, for attackers with this knowledge; None takes those who know most."""
        return grid(self.results, self._known[-1] if knowledge is None else knowledge)

    @property
    def _known(self) -> list[Knowledge]:
        """Who attacked, the one who knows least first."""
        return [known for known in KNOWLEDGE if any(result.knowledge == known for result in self.results)]

    def figure(self) -> Figure:
        """Accuracies over the budget, where an attack was run at three or more; else defenses side by side."""
        names = {result.defense: result.defense for result in self.results}
        return accuracy_by_budget(self.results) or comparison(self.results, names)

    def report(self, path: Path | str = "report.html") -> Path:
        """Write one page that needs no network: verdict first, then tables, curves, examples and parameters."""
        write_text(path, write_page(self.paths, l2=self.l2))
        return Path(path)

    def to_pandas(self, *, examples: bool = False) -> pandas.DataFrame:
        """A line an accuracy; or, with examples, a line an example of each cell."""
        import pandas

        if not examples:
            return pandas.DataFrame([_line(result) for result in self.results])
        named = {result.rows: result for result in self.results if result.attack != CLEAN}
        of = ("defense", "attack", "knowledge")
        tables = []
        for path in self.paths:
            frame = read_rows(path).to_pandas()
            for place, key in enumerate(of):
                frame.insert(place, key, getattr(named[path.name], key))
            tables.append(frame)
        return pandas.concat(tables, ignore_index=True)

    def to_markdown(self) -> str:
        """All tables, for a README or a model card."""
        return "\n".join(markdown(self.table(known)) for known in reversed(self._known))

    def __str__(self) -> str:
        tables = [self.table(known) for known in reversed(self._known)]
        return "\n".join([*map(str, tables), *words(tables)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(self.table(known)._repr_html_() for known in reversed(self._known))


def evaluate(
    model: nn.Module | str,
    data: Any,
    *,
    defenses: Iterable[Any] = (),
    attacks: Iterable[Any] | None = None,
    knowledge: Iterable[Knowledge] | Knowledge | None = None,
    effort: Effort = "standard",
    examples: int | None = None,
    training: Any = None,
    source: nn.Module | None = None,
    name: str = "",
    l2: Radius | None = "usual",
    seed: int = 0,
    out: Path | str | None = None,
    workers: int | None = None,
    batch_size: int = 100,
    device: str = "auto",
    progress: bool = False,
) -> Evaluation:
    """Judge a model, undefended and with each defense, under attack.

    model: x in [0, 1] → logits, in evaluation mode; or a name, see `load_model`.  One that is sanitized already is judged
        as it is, beside itself without sanitizers.
    data: what `Data.of` takes: a name, a pair of images and labels, a data set or loader of PyTorch, a Dataset of Hugging Face.
    defenses: what `defend` takes, a row each: ``["conv*=mask:0.3", "feature-squeezing:bits=1"]``.
    attacks: a column each: attacks, their texts as ``"pgd:eps=8/255"``, or functions (model, x, y) → examples, see
        `own_attack`.  None takes FGSM and PGD at the budget that is usual for the data.
    knowledge: of the attackers, of "oblivious", "white-box", "adaptive"; None takes all.  effort: of the adaptive one.
    examples: drawn with the class shares of the whole; None takes 1,000, or all.
    training: clean training images, as data, for defenses that learn from some; of a name, its split "train".  None takes that
        of data with a name.
    source: another network of the same data, whose examples the adaptive attacker tries, too.
    name: of the model, for tables; "" takes that of its class.
    l2: see `Evaluation`.  out: a folder for rows, from which an interrupted run goes on; None keeps them as long as the result.
    workers, batch_size, device, progress: see `engine.run`.
    Raises ValueError or TypeError for whatever would make a number mean nothing, before the first attack runs.
    """
    network, name = _network(model, name)
    images = _images(data, network)
    network, note = in_float32(network)
    images = images.noted(note)
    defended = [as_defense(one) for one in _listed(defenses)]
    chosen = images.sample(examples or min(USUAL, len(images)), seed=seed)
    known = [knowledge] if isinstance(knowledge, str) else list(knowledge or KNOWLEDGE)
    for one in known:
        OneOf(tuple(KNOWLEDGE))(one, "knowledge", "evaluate")
    OneOf(get_args(Effort))(effort, "effort", "evaluate")
    attackers = [as_attack(one) for one in (usual_attacks(images.name) if attacks is None else _listed(attacks))]
    clean = _training(training, data, defended, network, seed)
    how: dict[str, Any] = {"seed": seed, "calibration": clean, "effort": effort, "l2": l2, "source": source}
    judged = every_cell(undefended_and_defended(network, defended), name, chosen, defended, attackers, known, **how)
    folder = Path(tempfile.mkdtemp(prefix="sanact-") if out is None else out)
    paths = run(judged, out=folder, workers=workers, batch_size=batch_size, device=device, progress=progress)
    found = Evaluation(results(paths, l2=l2), paths, l2)
    if out is None:
        weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


def judge_attack(
    model: nn.Module | str,
    data: Any,
    attack: Callable[..., Any] | Attack | str,
    *,
    eps: float | None = None,
    norm: Norm | None = None,
    against: Sequence[Any] | None = None,
    defenses: Iterable[Any] = (),
    knowledge: Iterable[Knowledge] | Knowledge = "white-box",
    **more: Any,
) -> Evaluation:
    """Judge an attack of one's own beside ours, on the same images, with the same checks.

    attack: (model, x, y) → examples; of torchattacks, foolbox and ART `sanact.attacks.adapters` makes such functions.  The
        model is a module that returns logits; a function with the parameters eps and norm is given them.
    eps, norm: the ball that its examples must stay in, "Linf" unless told; None for one that looks for the nearest example.
    against: attacks to compare it with; None takes PGD in the same ball, or C&W where there is none.
    defenses, knowledge, more: as for `evaluate`.
    """
    own = own_attack(attack, eps=eps, norm=norm) if callable(attack) and not isinstance(attack, Attack) else as_attack(attack)
    if own is attack and (eps is not None or norm is not None):
        raise ValueError(f"eps and norm are of the attack already, got them again ({own}, judge_attack)")
    kind, radius = own.budget
    usual: list[Any] = [f"pgd:eps={radius},norm={kind}" if kind != "L1" else f"apgd:eps={radius},norm=L1"] if radius else ["cw"]
    return evaluate(
        model, data, attacks=[own, *(usual if against is None else against)], defenses=defenses, knowledge=knowledge, **more
    )


def _network(model: nn.Module | str, name: str) -> tuple[nn.Module, str]:
    if isinstance(model, str):
        return load_model(model), name or model
    network = unwrapped(model)
    return network, name or type(network).__name__


def _images(data: Any, network: nn.Module) -> Data:
    """The data, those with a name in the shape that the network takes."""
    return Data.of(data, shape=input_shape(network)) if isinstance(data, str) else Data.of(data)


def _training(training: Any, data: Any, defenses: Sequence[Defense], network: nn.Module, seed: int) -> Data | None:
    """Clean images for defenses that learn from some; None where none does."""
    if not any(one.needs_data for one in defenses):
        return None
    training = data if training is None and isinstance(data, str) else training
    if isinstance(training, str):
        training = load_data(training, "train", shape=input_shape(network))
    if training is None:
        learner = next(one for one in defenses if one.needs_data)
        raise ValueError(f"it learns from clean training images, got none: give training=… ({learner}, evaluate)")
    return Data.of(training).at_most(LEARNT, seed=seed)


def _listed(given: Any) -> list[Any]:
    """Several, or one alone."""
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _line(result: Result) -> dict[str, Any]:
    own = ("data", "split", "model", "defense", "attack", "knowledge", "eps", "verdict")
    value, low, high, n = (getattr(result.accuracy, key) for key in ("value", "low", "high", "n"))
    return {key: getattr(result, key) for key in own} | {"accuracy": value, "low": low, "high": high, "n": n}
