"""The tables, made from the recorded rows alone: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from statistics import fmean, median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

Row = dict[str, Any]
FASTER = "◀"
PAPER = {"mask": 0.2, "median": 0.2, "nl-means": 5.0}  # overhead in percent
MIB = 2**20
NAMES = (
    "network · eps · seed",
    "attack",
    "library",
    "sanitizer",
    "transform",
    "defense",
    "attached",
    "patch",
    "kernel",
)  # columns of words, not numbers


@dataclass(frozen=True)
class Table:
    """sentence: what it says, for people in a hurry.  notes: what to know before believing it."""

    title: str
    sentence: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()


def tables(results: dict[str, Any]) -> Iterator[Table]:
    for section in results.values():
        for name, rows in section["tables"].items():
            yield from TABLES[name](rows)


def attacks(rows: list[Row]) -> Iterator[Table]:
    lines = []
    for title, contest in _grouped(rows, "attack"):
        ours = contest[0]
        for row in contest:
            lines.append(
                (
                    title if row is ours else "",
                    row["library"],
                    f"{1e6 * median(row['seconds']) / row['examples'] / row['steps']:.0f}",
                    _ratio(row, ours),
                    f"{round(row['forward'], 1):g} + {round(row['backward'], 1):g}",
                    f"{row['won']} of {row['examples']}",
                    _distance(row, ours),
                )
            )
    columns = ("attack", "library", "µs per example·step", "time / sanact's", "passes", "won", "mean L2 (sanact's)")
    notes = (
        "Every library gets the same budget, steps, step size, batch and network; one judge predicts again what it returns.",
        "Passes: forward + backward through the network, per example. sanact keeps the best point of all it visits, the start "
        "and the last included: one or two forward passes more than there are steps, which costs FGSM most.",
        "The weights are frozen, but in one contest: foolbox and ART compute their gradients too where they can.",
        "APGD chooses its step sizes itself. A targeted run counts all its targets' steps. Of AutoAttack's 6,900 steps, which "
        "few examples need, 5,000 are Square's queries; torchattacks' suite, which has 10 steps by default, gets 100 as ours.",
        "C&W: torchattacks has one fixed c, hence two contests; ART's searches along a line in each step. The mean is over the "
        "examples both have won, with sanact's on the same.",
    )
    yield Table("Time and success", _verdict(_grouped(rows, "attack"), "library"), columns, lines, notes)


def success(rows: list[Row]) -> Iterator[Table]:
    lines, faster = [], []
    for title, contest in _grouped(rows, "attack"):
        libraries = [runs for _, runs in _grouped(contest, "library")]
        goal = min(max(row["won"] for row in runs) for runs in libraries)
        first = [min((row for row in runs if row["won"] >= goal), key=lambda row: row["steps"]) for runs in libraries]
        times = {row["library"]: 1e3 * median(row["seconds"]) / row["examples"] for row in first}
        for row in first:
            name, library = f"{title}, {goal} won" if row is first[0] else "", row["library"]
            ratio = f"{times[library] / times['sanact']:.2f}"
            lines.append((name, library, str(row["steps"]), f"{times[library]:.1f}", ratio))
        faster += [f"{library} on {title}" for library, time in times.items() if time < times["sanact, stopping early"]]
    tried = ", ".join(str(steps) for steps in sorted({row["steps"] for row in rows}))
    yield Table(
        "Time to equal success",
        f"Faster than sanact, stopping early: {_listed(faster)}.",
        ("attack", "library", "steps", "ms per example", "time / sanact's"),
        lines,
        (f"Of {tried} steps, the fewest with which a library wins as many examples as every library does in the end.",),
    )


def sanitizers(rows: list[Row]) -> Iterator[Table]:
    contests = _grouped(rows, "sanitizer", "layer", "pass")
    lines = []
    for title, contest in contests:
        for row in contest:
            off = row.get("difference")
            lines.append(
                (
                    title if row is contest[0] else "",
                    row["library"],
                    f"{1e9 * median(row['seconds']) / prod(row['shape']):.2f}",
                    _ratio(row, contest[0]),
                    "" if row["library"] == "sanact" or off is None else f"{off:.1g}",
                )
            )
    shapes = ", ".join(f"{layer} {' x '.join(map(str, layers[0]['shape']))}" for layer, layers in _grouped(rows, "layer"))
    columns = ("sanitizer", "library", "ns per element", "time / sanact's", "largest difference / max")
    notes = (
        f"On activations that MNIST-CNN really has: {shapes}. Each library gets the memory layout it likes, and conversions do "
        "not count; OpenCV's median takes four maps as one picture. Only sanact, torch and kornia have a gradient.",
        "OpenCV's non-local means takes 8 bits only, too few for an activation. scikit-image's adds up 2 x 2 differences where "
        "3 x 3 are asked for and skips weights below 0.007: it does less, and returns something else.",
        "No library has a mask relative to the map's maximum: beside it stands its formula in one line of torch.",
    )
    yield Table("Beside other libraries", _verdict(contests, "library"), columns, lines, notes)


def kernels(rows: list[Row]) -> Iterator[Table]:
    places = dict(_grouped(rows, "layer", "pass"))
    lines = []
    for contest in zip(*places.values(), strict=True):
        cells = [_ratio(row, place[0]) for row, place in zip(contest, places.values(), strict=True)]
        lines.append((contest[0]["kernel"], *cells))
    copies = ", ".join(f"{1e9 * median(r[0]['seconds']) / prod(r[0]['shape']):.3f} on {place}" for place, r in places.items())
    notes = (
        f"A copy takes, in ns per element: {copies}.",
        "Backward is the backward pass alone, of the exact gradient.",
    )
    yield Table(
        "Kernels",
        "Time of a sanitizer, over that of torch's `copy_` of the same activation.",
        ("kernel", *places),
        lines,
        notes,
    )


def overhead(rows: list[Row]) -> Iterator[Table]:
    for network, contest in _grouped(rows, "network"):
        nothing = contest[0]
        lines = [("nothing", f"{1e3 * median(nothing['seconds']):.1f}", "", "")]
        above = []
        for row in contest[1:]:
            percent = [100 * (a / b - 1) for a, b in zip(row["seconds"], nothing["seconds"], strict=True)]
            middle = 100 * (median(row["seconds"]) / median(nothing["seconds"]) - 1)
            claim = PAPER[row["attached"].split(",")[0]]
            interval = f"{middle:.1f} ({min(percent):.1f} to {max(percent):.1f})"
            lines.append((row["attached"], f"{1e3 * median(row['seconds']):.1f}", interval, f"{claim:g}"))
            above += [row["attached"]] * (middle > claim)
        yield Table(
            f"Overhead of the defense, {network}",
            f"What sanitizers on all layers add to a forward pass on {nothing['examples']} images; above the paper's figure: "
            f"{'; '.join(above) or 'none'}.",
            ("attached", "ms", "overhead in %", "paper"),
            lines,
            ("The paper does not say on which layers, machine or library it measured.",),
        )


def transforms(rows: list[Row]) -> Iterator[Table]:
    contests = _grouped(rows, "transform")
    lines = [
        (
            title if row is contest[0] else "",
            row["library"],
            f"{1e3 * median(row['seconds']) / row['examples']:.3g}",
            _ratio(row, contest[0]),
        )
        for title, contest in contests
        for row in contest
    ]
    notes = (
        "ART's PixelDefend is left out: it ends in an OverflowError under NumPy 2, where it subtracts from bytes.",
        "ART's total variation stops after 10 iterations of L-BFGS an image and a channel, ours after 50 of a batch.",
    )
    yield Table(
        "Transforms beside ART's",
        _verdict(contests, "library"),
        ("transform", "library", "ms per image", "time / sanact's"),
        lines,
        notes,
    )


def defense_overhead(rows: list[Row]) -> Iterator[Table]:
    nothing = rows[0]
    lines = [
        (row["defense"], f"{1e3 * median(row['seconds']) / row['examples']:.3g}", _ratio(row, nothing).rstrip(f" {FASTER}"))
        for row in rows
    ]
    yield Table(
        f"Overhead of defenses, {nothing['network']}",
        "A forward pass behind or inside each defense, over one of the network alone.",
        ("defense", "ms per image", "time / the network's"),
        lines,
        ("Defenses that train another network are left out: a pass of theirs takes what that network takes.",),
    )


def patches(rows: list[Row]) -> Iterator[Table]:
    elements = prod(rows[0]["shape"])
    lines = [(f"{r['patch']} x {r['patch']}", f"{1e9 * median(r['seconds']) / elements:.1f}", _ratio(r, rows[0])) for r in rows]
    growth = median(rows[-1]["seconds"]) / median(rows[0]["seconds"])
    area = (int(rows[-1]["patch"]) / int(rows[0]["patch"])) ** 2
    yield Table(
        "Non-local means: time over the patch size",
        f"Patches of {area:.0f} times the area take {growth:.2f} times as long.",
        ("patch", "ns per element", "time / that of the first"),
        lines,
    )


def attack_memory(rows: list[Row]) -> Iterator[Table]:
    contests = _grouped(rows, "attack")
    lines = [
        (title if row is contest[0] else "", row["library"], f"{row['bytes'] / MIB:.0f}")
        for title, contest in contests
        for row in contest
    ]
    less = [
        f"{row['library']} on {title}" for title, (ours, *others) in contests for row in others if row["bytes"] < ours["bytes"]
    ]
    yield Table(
        "Peak memory of attacks",
        f"On {rows[0]['examples']} images at once, above what the process held before. Less than sanact: {_listed(less)}.",
        ("attack", "library", "MiB"),
        lines,
    )


def sanitizer_memory(rows: list[Row]) -> Iterator[Table]:
    size = 4 * prod(rows[0]["shape"])
    lines = [
        (name, *(f"{row['bytes'] / size:.1f}" for row in pair))
        for name, pair in _grouped(rows, "sanitizer")  # forward, then forward and backward
    ]
    yield Table(
        "Peak memory of sanitizers",
        "Copies of all windows side by side would be 25 activations for a window of 5, 441 for one of 21.",
        ("sanitizer", "forward", "forward and backward"),
        lines,
        (
            f"In multiples of the activation, {' x '.join(map(str, rows[0]['shape']))} in float32, {size / MIB:.0f} MiB; "
            "what is returned counts, what was given does not.",
        ),
    )


def evaluation_memory(rows: list[Row]) -> Iterator[Table]:
    few, many = rows
    yield Table(
        "Peak memory of an evaluation",
        f"{many['examples'] / few['examples']:.0f} times the images take {many['bytes'] / few['bytes']:.2f} times the memory.",
        ("images", "MiB"),
        [(f"{row['examples']:,}", f"{row['bytes'] / MIB:.1f}") for row in rows],
        ("`sanact.engine.run`: white-box FGSM on the masked network, in batches of 100.",),
    )


def purification_memory(rows: list[Row]) -> Iterator[Table]:
    (row,) = rows
    yield Table(
        "Peak memory of PixelDefend",
        f"{row['bytes'] / MIB:.0f} MiB for {row['examples']} images of {' x '.join(map(str, row['shape']))} at once.",
        ("images", "MiB"),
        [(f"{row['examples']:,}", f"{row['bytes'] / MIB:.0f}")],
    )


def autoattack(rows: list[Row]) -> Iterator[Table]:
    lines, worse, slower, rival = [], [], [], rows[1]["library"]
    for title, (ours, theirs) in _grouped(rows, "network", "eps", "seed"):
        left = [100 * row["left"] / row["examples"] for row in (ours, theirs)]
        times = [median(row["seconds"]) for row in (ours, theirs)]
        lines.append((title, f"{left[0]:.1f}", f"{left[1]:.1f}", f"{times[0]:.0f}", f"{times[1]:.0f}"))
        worse += [title] * (left[0] > left[1])
        slower += [title] * (times[0] > times[1])
    steps = "100 steps of APGD and FAB here, 10 in torchattacks; 5,000 queries of Square in both."
    if "steps" in rows[0]:
        steps = f"{rows[0]['steps']} steps of APGD and FAB and {rows[0]['queries']:,} queries of Square in both."
    yield Table(
        "Accuracy that AutoAttack leaves",
        f"Of {rows[0]['examples']:,} images, in %, and seconds. More is left by sanact than by {rival} on: {_listed(worse)}. "
        f"Slower is sanact on: {_listed(slower)}.",
        ("network · eps · seed", "sanact", rival, "sanact, s", f"{rival}, s"),
        lines,
        (steps,),
    )


TABLES: dict[str, Callable[[list[Row]], Iterator[Table]]] = {
    "attacks": attacks,
    "success": success,
    "kernels": kernels,
    "sanitizers": sanitizers,
    "overhead": overhead,
    "transforms": transforms,
    "overhead of defenses": defense_overhead,
    "patches": patches,
    "attack memory": attack_memory,
    "sanitizer memory": sanitizer_memory,
    "evaluation memory": evaluation_memory,
    "purification memory": purification_memory,
    "autoattack": autoattack,
}


def rich_table(table: Table) -> RichTable:
    caption = "\n".join([table.sentence, *table.notes])
    drawn = RichTable(title=table.title, caption=caption, box=SIMPLE_HEAD, pad_edge=False)
    drawn.title_justify = drawn.caption_justify = "left"
    for column in table.columns:
        drawn.add_column(column, justify="left" if column in NAMES else "right")
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def markdown(results: dict[str, Any]) -> str:
    """The whole report."""
    lines = [
        "# Speed and memory",
        "",
        "Made by `make bench`, which writes every time of every round to `benchmarks.json` here.",
        "",
        "One process, one thread, float32, on the CPU. The contestants of a table take turns, round after round; times are "
        "medians over the rounds. A ratio is that of the medians; after it stand the least and the greatest of a single round. "
        f"{FASTER} marks what was faster than sanact in every round. Peak memory is the highest resident size of a fresh "
        "process, less what it held after imports and a warm-up.",
        "",
    ]
    for name, section in results.items():
        m, s = section["machine"], section["settings"]
        versions = ", ".join(f"{library} {number}" for library, number in m["versions"].items())
        lines += [
            f"## {name.capitalize()}",
            "",
            f"{m['cpu']}, {m['cores']} cores, {m['threads']} thread, load {m['load']} at the start; {s['rounds']} rounds, "
            f"{s['examples']} images of {s['data']}. Python {m['python']} on {m['system']}; {versions}.",
            "",
        ]
        for table in tables({name: section}):
            lines += [f"### {table.title}", "", table.sentence, "", "| " + " | ".join(table.columns) + " |"]
            lines += ["|" + "|".join("---" if column in NAMES else "--:" for column in table.columns) + "|"]
            lines += ["| " + " | ".join(row) + " |" for row in table.rows]
            lines += ["", *(f"- {note}" for note in table.notes), *[""] * bool(table.notes)]
    return "\n".join(lines)


def _grouped(rows: Iterable[Row], *keys: str) -> list[tuple[str, list[Row]]]:
    """Rows that agree in ``keys``, with what they agree in, in the order they come."""
    ordered: dict[str, list[Row]] = {}
    for row in rows:
        ordered.setdefault(" · ".join(str(row[key]) for key in keys), []).append(row)
    return list(ordered.items())


def _per_round(row: Row, ours: Row) -> list[float]:
    return [theirs / own for theirs, own in zip(row["seconds"], ours["seconds"], strict=True)]


def _ratio(row: Row, ours: Row) -> str:
    if row is ours:
        return "1"
    rounds = _per_round(row, ours)
    ratio = median(row["seconds"]) / median(ours["seconds"])
    return f"{ratio:.2f} ({min(rounds):.2f} to {max(rounds):.2f})" + f" {FASTER}" * (max(rounds) < 1)


def _verdict(contests: list[tuple[str, list[Row]]], column: str) -> str:
    """Who beats us, said plainly; one that stops early is compared with ours that does."""
    faster: dict[str, list[str]] = {}
    for title, contest in contests:
        for row in contest:
            early = row[column].endswith("stopping early")
            ours = (
                next((own for own in contest if own[column] == "sanact, stopping early"), contest[0]) if early else contest[0]
            )
            if max(_per_round(row, ours)) < 1 and not row[column].startswith("sanact"):
                times = median(ours["seconds"]) / median(row["seconds"])
                faster.setdefault(row[column], []).append(f"{title} ({times:.1f} times)")
    who = "; ".join(f"{library} on {_listed(titles)}" for library, titles in faster.items())
    return f"Faster than sanact: {who or 'none'}."


def _distance(row: Row, ours: Row) -> str:
    """Mean L2 of the examples that both have won, and ours on the same."""
    if "l2" not in row:
        return ""
    both = [(a, b) for a, b in zip(row["l2"], ours["l2"], strict=True) if a is not None and b is not None]
    if not both:
        return "none won by both"
    return f"{fmean(a for a, _ in both):.3f}" + (f" ({fmean(b for _, b in both):.3f})" if row is not ours else "")


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
