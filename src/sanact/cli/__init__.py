"""The command line: one function per verb, each a few calls into the library."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from sanact.cli.certifying import certify
from sanact.cli.ending import contained, told
from sanact.cli.judging import demo, evaluate, reproduce, run
from sanact.cli.listing import attacks, defenses, sanitizers
from sanact.cli.reading import compare, explore, layers, pack, report, robustbench
from sanact.cli.searching import search, sensitivity
from sanact.cli.stopping import stoppable
from sanact.cli.telling import tell
from sanact.cli.training import train

app = typer.Typer(
    name="sanact",
    help="Sanitize the hidden activations of a CNN, attack it, and judge honestly what the defense bought.",
    epilog="New here? Run: sanact demo",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def version(asked: bool) -> None:
    """Print the versions of sanact and torch, and which kernels are in use."""
    if asked:
        from importlib.metadata import version

        from sanact.kernels import at_work

        typer.echo(f"sanact {version('sanact')}, torch {version('torch')}\nkernels: {at_work()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=version, is_eager=True, help="Show the version, and which kernels are in use."),
    ] = False,
) -> None:
    """Sanitize the hidden activations of a CNN, attack it, and judge honestly what the defense bought."""


VERBS = (
    *(demo, evaluate, certify, run, search, sensitivity, reproduce, train),
    *(layers, attacks, sanitizers, defenses, compare, report, pack, explore, robustbench),
)
for verb in VERBS:
    app.command()(stoppable(contained(verb)))


def main() -> None:
    """Run the command line; an error that a user can fix is one line, not a traceback."""
    tell(logging.WARNING)
    try:
        app()
    except Exception as error:
        from rich.console import Console

        Console(stderr=True).print("error:", told(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from error
