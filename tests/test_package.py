"""The package as a whole: what an import costs, what is public, and what must not be shipped."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import sanact
from sanact.cli import main

ROOT = Path(__file__).parent.parent
MODULES = ["sanact", *(module.name for module in pkgutil.walk_packages(sanact.__path__, "sanact."))]
VOCABULARY = set(  # a new word is added here on purpose, never as a second name for an old one
    [
        "targeted",
        "eps",
        "norm",
        "loss",
        "early_stop",
        "steps",
        "step_size",
        "restarts",
        "random_start",
        "decay",
        "draws",
        "rho",
        "targets",
        "queries",
        "p_init",
        "alpha_max",
        "eta",
        "beta",
        "version",
        "search_steps",
        "confidence",
        "initial_c",
        "abort_early",
        "queries",
        "strength",
        "reading",
        "kernel_size",
        "h",
        "patch_size",
        "window_size",
        "unit",
        "alpha",
        "share",
        "over",
        "draws",
        "seed",
        "percentile",
        "variant",
        "temperature",
        "learnable",
    ]
)
HEAVY = [
    "datasets",
    "jinja2",
    "matplotlib",
    "numpy",
    "optuna",
    "PIL",
    "pandas",
    "pyarrow",
    "rich",
    "scipy",
    "sklearn",
    "timm",
    "torch",
    "torchvision",
    "typer",
]


def test_importing_the_package_imports_none_of_its_dependencies():
    script = f"import sys, sanact; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_asking_for_an_attack_imports_no_plotting_data_sets_compiler_or_command_line():
    heavy = [name for name in [*HEAVY, "torch._dynamo"] if name not in ("numpy", "torch")]
    script = f"import sys; from sanact import PGD, Mask, sanitize; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_public_function_stays_what_it_is_when_the_package_of_its_name_is_imported():
    script = "import sanact, sanact.search.study; print(callable(sanact.search))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "True\n"


def test_what_is_not_public_is_not_there():
    assert "Spline" not in dir(sanact) and not hasattr(sanact, "Spline")
    names: dict[str, object] = {}
    exec("from sanact import *", names)
    assert names.keys() - {"__builtins__"} == set(sanact.__all__)


@pytest.mark.parametrize("name", [name for name in sanact.__all__ if not isinstance(getattr(sanact, name), dict)])
def test_what_is_public_says_what_it_is(name):
    public = getattr(sanact, name)
    own = vars(public).get("__doc__") if inspect.isclass(public) else public.__doc__
    assert own and not own.startswith(f"{name}(")  # what a dataclass writes by itself


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_they_are_for(name):
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", [*sanact.ATTACKS, *sanact.SANITIZERS])
def test_one_word_for_one_idea(name):
    kind = (sanact.ATTACKS | sanact.SANITIZERS)[name]
    assert set(inspect.signature(kind).parameters) <= VOCABULARY


def test_the_command_is_the_command_line():
    (script,) = entry_points(group="console_scripts", name="sanact")
    assert script.load() is main


def test_types_are_shipped():
    assert (Path(sanact.__file__).parent / "py.typed").exists()


def test_no_file_names_a_folder_of_somebodys_machine():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("needs the repository: a copy without it does not say which files belong to it")
    files = [ROOT / name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]
    private = re.compile(rb"(?<![\w.-])/(home|root|tmp|work|Users)/\w")
    assert len(files) > 50 and [str(file) for file in files if private.search(file.read_bytes())] == []
