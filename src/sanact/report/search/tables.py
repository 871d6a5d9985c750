"""A search as tables: the front, the scan, the verdict on the best plan; and the card of that plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from sanact.evaluation.statistics import Accuracy, Paired, paired, wilson
from sanact.evaluation.threat import Effort
from sanact.report.results import CLEAN, plan_text
from sanact.report.search.found import Search, Trial, bits_of
from sanact.report.tables import Listing


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
    gain = f"gain: over the undefended model on the same images, under {attacked[0].partition(': ')[2]}, and McNemar's p"
    star = f"*: the best that costs at most {found.facts['drop']:g} points of clean accuracy; the search flatters its figures"
    return Listing(
        f"the front of {len(states)} trials ({counts})\n{found.label}",
        [*names, *overhead, "gain"],
        rows,
        [*(f"{trial.number}{_star(found, trial)}: {plan_text(trial.plan)}" for trial in found.front), star, gain],
        first="trial",
    )


def _star(found: Search, trial: Trial) -> str:
    return " *" if trial.number == found.best_number else ""


def scan_table(found: Search) -> Listing:
    """The scan: points of accuracy that each layer alone costs on clean images, and gains under attack."""
    columns, few = list(dict.fromkeys(column_of(entry) for entry in found.scan)), scanned(found)
    rows: dict[str, list[str]] = {}
    for entry in found.scan:
        row = rows.setdefault(entry["layer"], [""] * len(columns))
        row[columns.index(column_of(entry))] = _change_text(entry, found)
    return Listing(
        f"each layer alone: points of clean accuracy / under attack\n{found.label}",
        columns,
        rows,
        [
            *[f"under attack: on the first {few} images alone"] * (few > 0),
            f"-: it costs more than {found.facts['drop']:g} points for certain, and was not attacked. ?: not judged",
            *{f"{entry['layer']} {column_of(entry)}: {entry['error']}" for entry in found.scan if entry["error"]},
        ],
        first="layer",
    )


def judged_table(found: Search) -> Listing:
    """The best plan on images that the search has not seen, beside what the search said of it: the fall."""
    rows, winner = {}, found.winner
    for name, seen in found.judged["figures"].items():
        before = winner.accuracy(searched_as(found, name))
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


def doubt(found: Search) -> str:
    """Why the gain of the best plan is in doubt, or ""."""
    if not found.judged:
        return "It was not judged on other images: the figures of the search flatter it."
    attacked = {name: seen for name, seen in found.judged["figures"].items() if name != CLEAN and seen["low"] <= 0}
    told = ", ".join(f"{seen['difference']:+.1f} points, {name} (p = {seen['p']:.2g})" for name, seen in attacked.items())
    return f"On images that the search has not seen, no gain is proven: {told}." if told else ""


def searched_as(found: Search, name: str) -> str:
    """The figure of the search that a figure of the verdict is to be compared with, or "": the effort may be another."""
    return next((one for one in found.facts["figures"] if _without_effort(one) == _without_effort(name)), "")


def _without_effort(name: str) -> str:
    return re.sub(rf" \(({'|'.join(get_args(Effort))})\)", "", name)


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


def column_of(entry: Mapping[str, Any]) -> str:
    variant = "" if entry["variant"] == "usual" else f" {entry['variant']}"
    return f"{entry['sanitizer']}{variant} {entry['value']:g}"


def changes(entry: Mapping[str, Any], found: Search) -> tuple[Paired | None, Paired | None]:
    """On clean images, and under the first attack, against the undefended model."""
    hits = bits_of(entry["hits"])
    attacked = next(name for name in found.facts["figures"] if name != CLEAN)
    return tuple(  # type: ignore[return-value]
        paired(found.undefended[name][: len(hits[name])], hits[name]) if name in hits else None for name in (CLEAN, attacked)
    )


def scanned(found: Search) -> int:
    """Images of the scan under attack, where they are fewer than those of the search; otherwise 0."""
    attacked = next(name for name in found.facts["figures"] if name != CLEAN)
    few = max((len(entry["hits"].get(attacked, "")) for entry in found.scan), default=0)
    return few if few < found.facts["data"]["examples"] else 0


def _change_text(entry: Mapping[str, Any], found: Search) -> str:
    clean, attacked = changes(entry, found)
    if clean is None:
        return "?"
    return f"{clean.difference:+.1f}/" + (f"{attacked.difference:+.1f}" if attacked else "-")
