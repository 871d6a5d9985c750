"""One call that judges a model and its defenses under attack, and a result that displays itself."""

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
from sanact.report.results import CLEAN, Result, results
from sanact.report.tables import Grid, grid, markdown, words
from sanact.values import OneOf
from sanact.wrapping import in_float32, unwrapped

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

USUAL = 1000  # images, if a data set has more


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of `evaluate`.

    results: the accuracies; for each defense, the one on clean images comes first.  paths: the files of rows, one per cell.
    l2: the L2 budget at which attacks without a budget are reported, too.
    """

    results: list[Result]
    paths: list[Path]
    l2: Radius | None

    def table(self, knowledge: Knowledge | None = None) -> Grid:
        """One row per defense, one column per attack, for attackers with this knowledge; None takes those who know most."""
        return grid(self.results, self._known[-1] if knowledge is None else knowledge)

    @property
    def _known(self) -> list[Knowledge]:
        """The kinds of knowledge that were tested, the least first."""
        return [known for known in KNOWLEDGE if any(result.knowledge == known for result in self.results)]

    def figure(self) -> Figure:
        """A figure: accuracies over the budget if an attack was run at three budgets or more, else defenses side by side."""
        names = {result.defense: result.defense for result in self.results}
        return accuracy_by_budget(self.results) or comparison(self.results, names)

    def report(self, path: Path | str = "report.html") -> Path:
        """Write one HTML page that needs no network: verdict first, then tables, curves, examples and parameters."""
        write_text(path, write_page(self.paths, l2=self.l2))
        return Path(path)

    def to_pandas(self, *, examples: bool = False) -> pandas.DataFrame:
        """One line per accuracy; with ``examples``, one line per example of each cell."""
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
    """Judge a model under attack, undefended and with each defense.

    model: x in [0, 1] → logits, in evaluation mode; or a name, see `load_model`.  A sanitized model is judged as it is, next
        to itself without sanitizers.
    data: anything that `Data.of` takes: a name, a pair of images and labels, a PyTorch data set or loader, a Hugging Face
        Dataset.
    defenses: anything that `defend` takes; each is a row: ``["conv*=mask:0.3", "feature-squeezing:bits=1"]``.
    attacks: each is a column: attacks, texts such as ``"pgd:eps=8/255"``, or functions (model, x, y) → examples, see
        `own_attack`.  None takes FGSM and PGD at the usual budget for the data.
    knowledge: what attackers know: "oblivious", "white-box" or "adaptive"; None takes all.
    effort: how hard the adaptive attacker tries.
    examples: how many to draw, with the class shares of the whole; None takes 1,000, or all if there are fewer.
    training: clean training images, in any form of ``data``, for defenses that learn from them.  A name stands for its
        split "train".  None takes the training split of ``data``, if that is a name.
    source: another network for the same data.  The adaptive attacker also tries examples crafted on it.
    name: the model's name in tables; "" takes the name of its class.
    l2: see `Evaluation`.
    out: a folder for rows, from which an interrupted run continues; None keeps rows only as long as the result.
    workers, batch_size, device, progress: see `engine.run`.
    Raises ValueError or TypeError before the first attack runs, for anything that would make the numbers meaningless.
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
    """Judge your own attack next to ours, on the same images and with the same checks.

    attack: (model, x, y) → examples, where model is a module that returns logits.  If the function has parameters eps and
        norm, it is given them.  `sanact.attacks.adapters` makes such functions of attacks of torchattacks, foolbox and ART.
    eps, norm: the ball that its examples must stay in, "Linf" by default; eps=None is for attacks that look for the nearest
        example.
    against: attacks to compare it with; None takes PGD in the same ball, or C&W if there is no eps.
    defenses, knowledge, more: as for `evaluate`.
    """
    own = own_attack(attack, eps=eps, norm=norm) if callable(attack) and not isinstance(attack, Attack) else as_attack(attack)
    if own is attack and (eps is not None or norm is not None):
        raise ValueError(f"the attack has its own eps and norm, which must not be given again ({own}, judge_attack)")
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
    """The data; if given by name, in the shape that the network takes."""
    return Data.of(data, shape=input_shape(network)) if isinstance(data, str) else Data.of(data)


def _training(training: Any, data: Any, defenses: Sequence[Defense], network: nn.Module, seed: int) -> Data | None:
    """Clean images for defenses that learn from them; None if there are no such defenses."""
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
    """A list, of several values or of one alone."""
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _line(result: Result) -> dict[str, Any]:
    own = ("data", "split", "model", "defense", "attack", "knowledge", "eps", "verdict")
    value, low, high, n = (getattr(result.accuracy, key) for key in ("value", "low", "high", "n"))
    return {key: getattr(result, key) for key in own} | {"accuracy": value, "low": low, "high": high, "n": n}
