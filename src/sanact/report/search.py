"""What a search has left on disk: the trials, the front, the scan; tables and pictures of them, without a model."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sanact.evaluation.statistics import Accuracy, Paired, paired, wilson
from sanact.files import write_text
from sanact.report.figures import COLOURS
from sanact.report.tables import Listing, plan_text

STUDY, JOURNAL, SCAN, JUDGED = "study.json", "trials.log", "scan.json", "judged.json"
CLEAN = "clean"
GREY = "#999999"
Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Trial:
    """One plan that was tried.

    plan: pattern → configuration; empty for the undefended model.  hits: by figure, of each image seen, in one order for all.
    state: "complete", "pruned" or "failed".  pruned, error: why.  source: what proposed it.  overhead: in percent, or None.
    """

    number: int
    plan: Mapping[str, Any]
    hits: Mapping[str, Bits]
    state: str
    pruned: str
    error: str
    source: str
    overhead: float | None
    seconds: float

    def accuracy(self, figure: str) -> Accuracy | None:
        bits = self.hits.get(figure, ())
        return wilson(int(np.sum(bits)), len(bits)) if len(bits) else None

    @property
    def attacked(self) -> float:
        """Accuracy under attack in percent, the mean over the attacks; NaN where it was not attacked."""
        shares = [100 * float(np.mean(bits)) for name, bits in self.hits.items() if name != CLEAN and len(bits)]
        return float(np.mean(shares)) if shares else float("nan")

    @property
    def clean(self) -> float:
        return 100 * float(np.mean(self.hits[CLEAN])) if CLEAN in self.hits else float("nan")

    @property
    def values(self) -> tuple[float, ...]:
        """What is maximized."""
        shares = [100 * float(np.mean(bits)) for bits in self.hits.values()]
        return (*shares, *(() if self.overhead is None else (-self.overhead,)))


@dataclass(frozen=True)
class Search:
    """What a search has left in a folder.

    facts: what the study is of.  undefended: hits of the model as it is.  trials: in the order in which they were proposed.
    scan: see `sanact.sensitivity`.  judged: the best plan on images that the search has not seen; empty if it was not judged.
    best_number: of the trial that the search chose; -1 before its end.
    """

    out: Path
    facts: Mapping[str, Any]
    undefended: Mapping[str, Bits]
    trials: Sequence[Trial]
    scan: Sequence[Mapping[str, Any]]
    judged: Mapping[str, Any]
    best_number: int = -1

    @property
    def label(self) -> str:
        """Who attacked, and on what."""
        data, first = self.facts["data"], next(name for name in self.facts["figures"] if name != CLEAN)
        return f"{self.facts['model']['name']} on {data['examples']} images of {data['name']} ({data['split']}), {first}"

    @cached_property
    def front(self) -> list[Trial]:
        """The trials that no other beats in one figure without losing in another, each plan once, the best clean one first."""
        complete = {json.dumps(trial.plan): trial for trial in reversed(self.trials) if trial.state == "complete"}.values()
        best = [one for one in complete if not any(_dominates(other.values, one.values) for other in complete)]
        return sorted(best, key=lambda trial: (-trial.clean, trial.attacked))

    @property
    def winner(self) -> Trial:
        """What the search chose of the trials: as a rule the highest under attack that keeps its clean accuracy."""
        return next(trial for trial in self.trials if trial.number == self.best_number)

    def write_plans(self) -> None:
        """Each plan of the front as the JSON that ``--plan`` takes, in the folder ``plans``; the best also as ``best.json``."""
        for trial in self.front:
            if trial.plan:
                self._write(self.out / "plans" / f"{trial.number:04d}.json", trial)
        if self.winner.plan:
            self._write(self.out / "best.json", self.winner)

    def _write(self, path: Path, trial: Trial) -> None:
        write_text(path, json.dumps(trial.plan, indent=1) + "\n")

    def figure(self) -> Figure:
        """The front, with 95 % intervals."""
        return front_figure(self)


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def read_search(out: Path | str) -> Search:
    """Read what `sanact.search` or `sanact.sensitivity` wrote; ValueError where there is nothing, or something else."""
    out = Path(out)
    try:
        written = json.loads((out / STUDY).read_text(encoding="utf-8"))
        facts, undefended = written["study"], _bits(written.get("undefended", {}))
        best = int(written.get("winner", -1))
        scan = json.loads((out / SCAN).read_text(encoding="utf-8")) if (out / SCAN).exists() else []
        judged = json.loads((out / JUDGED).read_text(encoding="utf-8")) if (out / JUDGED).exists() else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{out}' holds no search: {error}") from error
    return Search(out, facts, undefended, _trials(out / JOURNAL) if (out / JOURNAL).exists() else [], scan, judged, best)


def _bits(hits: Mapping[str, str]) -> dict[str, Bits]:
    return {name: np.array([digit == "1" for digit in digits], dtype=bool) for name, digits in hits.items()}


def _trials(journal: Path) -> list[Trial]:
    from optuna.trial import TrialState

    words = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    found = []
    for trial in _study(journal).get_trials(deepcopy=False):
        said = trial.user_attrs
        if trial.state in words:
            found.append(
                Trial(
                    trial.number,
                    said["plan"],
                    _bits(said.get("hits", {})),
                    words[trial.state],
                    said.get("pruned", ""),
                    said.get("error", ""),
                    said.get("source", "sampler"),
                    said.get("overhead"),
                    said.get("seconds", 0.0),
                )
            )
    return found


def _study(journal: Path) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return optuna.load_study(study_name="plans", storage=JournalStorage(JournalFileBackend(str(journal))))


# --- tables ----------------------------------------------------------------------------------------------------------------


def front_table(found: Search) -> Listing:
    """The front: what each plan keeps, in percent with 95 % intervals, and the test against the undefended model."""
    names, attacked = found.facts["figures"], [name for name in found.facts["figures"] if name != CLEAN]
    overhead = ["time"] if found.facts["overhead"] else []
    rows = {}
    for trial in found.front:
        cells = [_interval(trial.accuracy(name)) for name in names]
        cells += [f"{trial.overhead:+.0f} %"] if trial.overhead is not None else []
        compared = paired(found.undefended[attacked[0]], trial.hits[attacked[0]])
        cells.append(f"{compared.difference:+.1f} p={compared.p:.2g}" if trial.plan else "")
        rows[f"{trial.number}{_star(found, trial)}"] = cells
    states = [trial.state for trial in found.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed"))
    star = f"*: the best that costs at most {found.facts['drop']:g} points of clean accuracy; the search flatters its figures"
    return Listing(
        f"the front of {len(states)} trials ({counts})\n{found.label}",
        [*names, *overhead, "gain"],
        rows,
        [*(f"{trial.number}{_star(found, trial)}: {plan_text(trial.plan)}" for trial in found.front), star],
        first="trial",
    )


def _star(found: Search, trial: Trial) -> str:
    return " *" if trial.number == found.best_number else ""


def scan_table(found: Search) -> Listing:
    """The scan: points of accuracy that each layer alone costs on clean images, and gains under attack."""
    columns = list(dict.fromkeys(_column(entry) for entry in found.scan))
    rows: dict[str, list[str]] = {}
    for entry in found.scan:
        row = rows.setdefault(entry["layer"], [""] * len(columns))
        row[columns.index(_column(entry))] = _change_text(entry, found)
    return Listing(
        f"each layer alone: points of clean accuracy / under attack\n{found.label}",
        columns,
        rows,
        [
            f"-: it costs more than {found.facts['drop']:g} points for certain, and was not attacked. ?: not judged",
            *{f"{entry['layer']} {_column(entry)}: {entry['error']}" for entry in found.scan if entry["error"]},
        ],
        first="layer",
    )


def judged_table(found: Search) -> Listing:
    """The best plan on images that the search has not seen, beside what the search said of it: the fall."""
    rows, winner = {}, found.winner
    searched = {name.partition(":")[0]: name for name in found.facts["figures"]}
    for name, seen in found.judged["figures"].items():
        before = winner.accuracy(searched.get(name.partition(":")[0], "")) if name == CLEAN or _same(found, name) else None
        now = wilson(seen["best"], seen["n"])
        rows[name] = [
            _interval(before),
            _interval(now),
            f"{now.value - before.value:+.1f}" if before else "-",
            _interval(wilson(seen["undefended"], seen["n"])),
            f"{seen['difference']:+.1f} p={seen['p']:.2g}",
            seen.get("verdict", "").partition(":")[0],
        ]
    data = found.judged["data"]
    return Listing(
        f"judged again at the {found.judged['effort']} effort\ntrial {winner.number}: {plan_text(winner.plan)}, on "
        f"{data['examples']} images of {data['name']} ({data['split']}) that the search has not seen",
        ["search", "unseen", "fall", "undefended", "gain", "verdict"],
        rows,
        [
            "fall: from the figure of the search to this one. It holds the luck of whoever was chosen, and the harder attacker",
            "gain: over the undefended model, on the same unseen images, and McNemar's p",
        ],
        first="accuracy in %",
    )


def _same(found: Search, name: str) -> bool:
    """Whether the search had a figure of this attacker."""
    return name.partition(":")[0] == found.facts["objective"] and len(found.facts["figures"]) == 2


def card(found: Search) -> str:
    """How the best plan was found, in Markdown."""
    from sanact.report.tables import markdown

    facts, winner = found.facts, found.winner
    space = "; ".join(f"{name} ({', '.join(variants)})" for name, variants in facts["space"]["sanitizers"].items())
    lines = [
        "# The best plan of a search",
        "",
        f"`{plan_text(winner.plan)}`",
        "",
        f"- model: {facts['model']['name']} ({facts['model']['fingerprint']})",
        f"- searched on: {facts['data']['examples']} images of {facts['data']['name']} ({facts['data']['split']}), "
        f"{facts['data']['fingerprint']}",
        f"- objective: {', '.join(facts['figures'])}",
        f"- space: {space}, on {', '.join(facts['space']['layers'])}",
        f"- trials: {len(found.trials)}, of which {sum(trial.state == 'pruned' for trial in found.trials)} were pruned and "
        f"{sum(trial.state == 'failed' for trial in found.trials)} failed; at most {facts['drop']:g} points of clean accuracy",
        f"- seed: {facts['seed']}",
        "",
        markdown(front_table(found)),
    ]
    return "\n".join([*lines, *([markdown(judged_table(found))] if found.judged else [])])


def _interval(accuracy: Accuracy | None) -> str:
    return f"{accuracy.value:.1f} ({accuracy.low:.0f}–{accuracy.high:.0f})" if accuracy else "-"


def _column(entry: Mapping[str, Any]) -> str:
    variant = "" if entry["variant"] == "usual" else f" {entry['variant']}"
    return f"{entry['sanitizer']}{variant} {entry['value']:g}"


def _changes(entry: Mapping[str, Any], found: Search) -> tuple[Paired | None, Paired | None]:
    """On clean images, and under the first attack, against the undefended model."""
    hits = _bits(entry["hits"])
    attacked = next(name for name in found.facts["figures"] if name != CLEAN)
    return tuple(  # type: ignore[return-value]
        paired(found.undefended[name][: len(hits[name])], hits[name]) if name in hits else None for name in (CLEAN, attacked)
    )


def _change_text(entry: Mapping[str, Any], found: Search) -> str:
    clean, attacked = _changes(entry, found)
    if clean is None:
        return "?"
    return f"{clean.difference:+.1f} / " + (f"{attacked.difference:+.1f}" if attacked else "-")


# --- pictures --------------------------------------------------------------------------------------------------------------


def pictures(found: Search) -> dict[str, Figure]:
    """All that can be drawn, by name."""
    drawn: dict[str, Figure] = {}
    if found.scan:
        drawn["scan"] = scan_figure(found)
    if found.trials:
        drawn["front"], drawn["course"] = front_figure(found), course_figure(found)
        weights = importances(found)
        if weights.layers or weights.settings:
            drawn["importance"] = importance_figure(weights, found.label)
    return drawn


def front_figure(found: Search) -> Figure:
    """Clean accuracy against accuracy under each attack: all trials, the front with 95 % intervals, what was judged again."""
    attacked = [name for name in found.facts["figures"] if name != CLEAN]
    figure = Figure(figsize=(5.2 * len(attacked), 4.4), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(attacked), squeeze=False)[0], attacked, strict=True):
        _draw_front(panel, found, name)
    figure.suptitle(found.label.rpartition(",")[0] if len(attacked) > 1 else found.label.partition(", ")[0], fontsize="medium")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = 2 if len(attacked) == 1 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize="small")
    return figure


def _draw_front(panel: Axes, found: Search, name: str) -> None:
    for state, mark, words in (("complete", "o", "judged on all images"), ("pruned", "x", "stopped early")):
        own = [t for t in found.trials if t.state == state and name in t.hits]
        if own:
            x, y = [t.clean for t in own], [100 * float(np.mean(t.hits[name])) for t in own]
            panel.plot(x, y, linestyle="none", marker=mark, markersize=4, color=GREY, alpha=0.6, label=words)
    _bars(panel, found.front, name, COLOURS[1], "o", "the front")
    _bars(panel, [t for t in found.trials if not t.plan and t.state == "complete"][:1], name, COLOURS[0], "s", "undefended")
    if found.best_number >= 0 and found.winner.plan:
        _bars(panel, [found.winner], name, COLOURS[2], "D", "the best, in the search")
    again = [seen for key, seen in found.judged.get("figures", {}).items() if key != CLEAN and _same(found, key)]
    if again:
        clean = found.judged["figures"][CLEAN]
        x, y = 100 * clean["best"] / clean["n"], 100 * again[0]["best"] / again[0]["n"]
        panel.plot([x], [y], "D", color=COLOURS[2], markerfacecolor="white", markersize=7, label="the best, on images not seen")
    panel.set_xlabel("clean accuracy in %")
    panel.set_ylabel(f"accuracy in %, {name}", fontsize="small")
    panel.spines[["top", "right"]].set_visible(False)


def _bars(panel: Axes, trials: Sequence[Trial], name: str, colour: str, marker: str, label: str) -> None:
    points = [(clean, under) for t in trials if (clean := t.accuracy(CLEAN)) and (under := t.accuracy(name))]
    if not points:
        return
    (x, xerr), (y, yerr) = (
        ([a.value for a in axis], [[a.value - a.low for a in axis], [a.high - a.value for a in axis]])
        for axis in ([clean for clean, _ in points], [under for _, under in points])
    )
    panel.errorbar(x, y, yerr, xerr, linestyle="none", marker=marker, color=colour, markersize=6, elinewidth=0.8, label=label)


def scan_figure(found: Search) -> Figure:
    """Heat maps over layers and strengths: what each costs on clean images, and what it gains under attack."""
    layers = list(dict.fromkeys(entry["layer"] for entry in found.scan))
    columns = list(dict.fromkeys(_column(entry) for entry in found.scan))
    grids = np.full((2, len(layers), len(columns)), np.nan)
    for entry in found.scan:
        for grid, change in zip(grids, _changes(entry, found), strict=True):
            if change is not None:
                grid[layers.index(entry["layer"]), columns.index(_column(entry))] = change.difference
    height = 1.9 + 0.3 * len(layers) + 0.055 * max(map(len, columns))
    figure = Figure(figsize=(3 + 0.9 * len(columns), height), layout="constrained")
    if len(columns) > 6:
        figure.set_size_inches(3 + 0.5 * len(columns), 2 * height)
    stacked = len(columns) > 6
    panels = figure.subplots(*((2, 1) if stacked else (1, 2)), sharex=True, sharey=True)
    attacked = next(name for name in found.facts["figures"] if name != CLEAN)
    for panel, grid, title in zip(panels, grids, ("clean accuracy", attacked), strict=True):
        _heat(panel, grid, layers, columns)
        panel.set_title(
            f"change of {title}, in points" if title != attacked else f"{title}: change in points", fontsize="small"
        )
    figure.suptitle(f"each layer alone: {found.label.partition(', ')[0]}", fontsize="medium")
    return figure


def _heat(panel: Axes, grid: NDArray[np.float64], layers: Sequence[str], columns: Sequence[str]) -> None:
    most = max(1.0, float(np.nanmax(np.abs(grid)))) if np.isfinite(grid).any() else 1.0
    panel.imshow(grid, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    panel.set_facecolor("#dddddd")
    panel.set_xticks(range(len(columns)), columns, rotation=90, fontsize="small")
    panel.set_yticks(range(len(layers)), layers, fontsize="small")
    for (row, column), value in np.ndenumerate(grid):
        text, dark = ("–", False) if np.isnan(value) else (f"{value:+.0f}", abs(value) > 0.6 * most)
        panel.text(column, row, text, ha="center", va="center", fontsize="x-small", color="white" if dark else "black")


def course_figure(found: Search) -> Figure:
    """The accuracy under attack of each trial, in their order, and the best so far that keeps its clean accuracy."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    panel = figure.subplots()
    least = 100 * float(np.mean(found.undefended[CLEAN])) - found.facts["drop"] - 1e-9
    allowed = [t for t in found.trials if t.state == "complete" and t.clean >= least]
    dear = [t for t in found.trials if t.state == "complete" and t.clean < least]
    pruned = [t for t in found.trials if t.state == "pruned" and not np.isnan(t.attacked)]
    unseen = [t.number for t in found.trials if np.isnan(t.attacked) and t.state == "pruned"]
    failed = [t.number for t in found.trials if t.state == "failed"]
    for own, mark, colour, words in (
        (pruned, "x", GREY, "stopped early"),
        (dear, "o", GREY, f"costs more than {found.facts['drop']:g} points"),
        (allowed, "o", COLOURS[1], "judged on all images"),
    ):
        if own:
            x, y = [t.number for t in own], [t.attacked for t in own]
            panel.plot(x, y, mark, color=colour, markersize=4, label=words)
    best = np.maximum.accumulate([t.attacked for t in allowed]) if allowed else np.array([])
    ends = [*(t.number for t in allowed), found.trials[-1].number] if allowed else []
    panel.step(ends, [*best, *best[-1:]], where="post", color=COLOURS[2], label="best so far")
    floor = panel.get_ylim()[0]
    for numbers, mark, words in ((unseen, "|", "too dear to be attacked"), (failed, "1", "failed")):
        if numbers:
            panel.plot(numbers, [floor] * len(numbers), mark, color=COLOURS[0], markersize=6, label=words, clip_on=False)
    panel.set_xlabel("trial")
    panel.set_ylabel("accuracy under attack in %")
    panel.set_title(found.label, fontsize="small")
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


@dataclass(frozen=True)
class Importance:
    """layers: share of the variance of the accuracy under attack that goes with what a layer has, or none, all of them 1.
    settings: of readings and strengths, how far the tenth of trials that is best differs from all that have them; 0 is not.
    """

    layers: Mapping[str, float]
    settings: Mapping[str, float]


def importances(found: Search) -> Importance:
    """How much each choice matters; of settings that eight trials have at least.  Trials that were stopped early count, too.

    Papers: Hutter et al. 2014, fANOVA; Watanabe et al. 2023, PED-ANOVA, arXiv:2304.10255; both as Optuna has them.
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    attacked = {trial.number: trial.attacked for trial in found.trials if not np.isnan(trial.attacked)}
    study = optuna.create_study(direction="minimize")
    for trial in _study(found.out / JOURNAL).get_trials(deepcopy=False):
        if trial.number in attacked:
            chosen = {"params": trial.params, "distributions": trial.distributions}
            study.add_trial(create_trial(state=TrialState.COMPLETE, value=-attacked[trial.number], **chosen))
    values: dict[str, list[Any]] = {}
    for trial in study.get_trials(deepcopy=False):
        for name, value in trial.params.items():
            values.setdefault(name, []).append(value)
    many = [name for name, own in values.items() if len(own) >= 8 and len(set(own)) > 1]
    if len(set(attacked.values())) < 2:
        return Importance({}, {})
    layers = [name for name in many if name in found.facts["space"]["layers"]]
    settings = {name: _weights(study, [name], "ped")[name] for name in many if name not in layers}
    return Importance(_weights(study, layers, "fanova") if layers else {}, _sorted(settings))


def _weights(study: Any, names: list[str], method: str) -> dict[str, float]:
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", message="PedAnova")  # that low is good, which it is here
        evaluator: Any = FanovaImportanceEvaluator(seed=0) if method == "fanova" else PedAnovaImportanceEvaluator()
        return dict(get_param_importances(study, evaluator=evaluator, params=names, normalize=method == "fanova"))


def _sorted(weights: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(weights.items(), key=lambda item: -item[1]))


def importance_figure(weights: Importance, title: str) -> Figure:
    """Bars: of layers, and of readings and strengths."""
    groups = [
        (weights.layers, "what a layer has, if anything\n(share of the variance, fANOVA)", COLOURS[1]),
        (weights.settings, "its reading or strength\n(PED-ANOVA)", COLOURS[2]),
    ]
    groups = [group for group in groups if group[0]]
    longest = max(min(len(bars), 20) for bars, _, _ in groups)
    figure = Figure(figsize=(4.4 * len(groups), 1.5 + 0.24 * longest), layout="constrained")
    for panel, (bars, words, colour) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        shown = list(bars)[:20][::-1]
        panel.barh(shown, [bars[name] for name in shown], color=colour)
        panel.tick_params(labelsize="small")
        panel.set_xlabel(words, fontsize="small")
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize="small")
    return figure
