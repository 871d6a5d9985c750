"""Run the benchmarks, write what was measured and the tables made of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.measure import Options, Row, machine, one_thread
from benchmarks.tables import markdown, rich_table, tables
from sanact.files import replacing
from sanact.progress import progress_bar

RESULTS = Path("docs/results/benchmarks")
QUICK = Path("build/benchmarks")


class Section(StrEnum):
    ATTACKS = "attacks"
    SANITIZERS = "sanitizers"
    DEFENSES = "defenses"
    MEMORY = "memory"
    AUTOATTACK = "autoattack"


def main(
    only: Annotated[Section | None, typer.Option(help="One section; the results of the others stay as they are.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often every contestant has its turn.")] = Options.rounds,
    examples: Annotated[int, typer.Option(min=2, help="Images in a batch.")] = Options.examples,
    quick: Annotated[bool, typer.Option("--quick", help="One round on four images: to see that it runs.")] = False,
    out: Annotated[
        Path | None, typer.Option(help=f"Folder for the results.  [default: {RESULTS}, {QUICK} with --quick]")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Time attacks, sanitizers and defenses beside other libraries, and measure their peak memory.

    It takes about twenty minutes on two cores.

    What AutoAttack leaves beside the original takes an hour, and is measured with --only autoattack.
    """
    options = Options(rounds=1, examples=4, quick=True) if quick else Options(rounds=rounds, examples=examples)
    folder = out or (QUICK if quick else RESULTS)
    one_thread()
    results = _read(folder / "benchmarks.json")
    usual = [section for section in Section if section is not Section.AUTOATTACK or quick]
    for section in [only] if only else usual:
        results[section.value] = measure(section, options, progress=not quiet)
        results = {name: results[name] for name in Section if name in results}
        _write(folder / "benchmarks.json", json.dumps(results, indent=1) + "\n")
        _write(folder / "README.md", markdown(results))
    for table in tables(results):
        Console().print(rich_table(table))
    typer.echo(f"written to {folder}")


def measure(section: Section, options: Options, *, progress: bool) -> Row:
    """The rows of one section, with what they depend on."""
    from benchmarks.inputs import images

    settings = asdict(options) | {"data": images(options.examples).name}
    found: dict[str, list[Row]] = {}
    result: dict[str, Any] = {"machine": machine(), "settings": settings, "tables": found}
    if section is Section.MEMORY:
        from benchmarks.memory import probes, run_probes

        wanted = probes(options)
        with progress_bar("memory", len(wanted), show=progress) as advance:
            for table, row in run_probes(wanted, advance):
                found.setdefault(table, []).append(row)
        return result
    entered = import_module(f"benchmarks.{section.value}").races(options)
    with progress_bar(section.value, sum(race.calls for race in entered), show=progress) as advance:
        for race in entered:
            found.setdefault(race.table, []).extend(race.run(advance))
    return result


def _read(path: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return results


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    typer.run(main)
