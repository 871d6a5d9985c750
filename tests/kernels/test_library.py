"""Which library is taken, which is refused, and how sanact says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sanact import MedianFilter
from sanact.cli import app
from sanact.kernels import at_work, build, library, plain_torch

ROOT = Path(__file__).parents[2]
needs_library = pytest.mark.skipif(not build.is_current(), reason="needs the compiled kernels, and so a C compiler")


@pytest.fixture
def afresh() -> Iterator[None]:
    """The library is looked for again, here and afterwards."""
    library._library.cache_clear()
    yield
    library._library.cache_clear()


def expected(a: torch.Tensor) -> torch.Tensor:
    with plain_torch():
        return MedianFilter()(a)


@needs_library
def test_it_says_what_is_at_work():
    assert at_work().startswith("compiled, ")
    with plain_torch():
        assert at_work() == "plain torch (switched off)"
    assert at_work().startswith("compiled, ")
    said = CliRunner().invoke(app, ["--version"]).stdout
    assert (
        said.startswith("sanact 0.") and f"torch {torch.__version__.split('+')[0]}" in said and f"kernels: {at_work()}" in said
    )


@pytest.mark.parametrize("value", ["off", "0", "OFF"])
def test_the_environment_switches_it_off(value, afresh, monkeypatch):
    monkeypatch.setenv("SANACT_KERNELS", value)
    assert at_work() == f"plain torch (SANACT_KERNELS={value})"
    assert library.compiled(torch.ones(1, 1, 3, 3)) is None


def test_where_there_is_none_plain_torch_takes_over(afresh, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
    a = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(MedianFilter()(a), expected(a))
    assert "there was no C compiler when sanact was installed" in at_work()


@needs_library
def test_one_made_from_other_sources_is_refused_with_a_word(afresh, monkeypatch):
    monkeypatch.setattr(library, "digest", lambda: "0123456789abcdef")
    a = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    with pytest.warns(RuntimeWarning, match=r"refused: it was made from the sources \w{16}, these are 0123456789abcdef"):
        assert torch.equal(MedianFilter()(a), expected(a))
    assert at_work().startswith("plain torch (the compiled library was refused")


@pytest.mark.parametrize("foreign", ["text", "another library"])
def test_a_foreign_file_is_refused_with_a_word(foreign, afresh, monkeypatch, tmp_path):
    other = tmp_path / "kernels.so"
    if foreign == "text":
        other.write_text("not a library")
    else:
        shutil.copyfile(torch._C.__file__, other)
    monkeypatch.setattr(library, "LIBRARY", other)
    with pytest.warns(RuntimeWarning, match="the compiled library was refused"):
        assert library.compiled(torch.ones(1, 1, 3, 3)) is None
    assert not build.is_current(other)


@needs_library
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux tells about a process")
def test_its_threads_are_those_of_the_runtime_that_torch_has_loaded():
    script = """
import torch, sanact
from sanact.kernels import at_work
runtimes = lambda: {line.split()[-1] for line in open("/proc/self/maps") if any(n in line for n in ("gomp", "iomp", "libomp"))}
threads = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("Threads"))
torch.set_num_threads(2)
a = torch.randn(64, 32, 26, 26)
a.relu()  # wakes torch's threads
before, count = runtimes(), threads()
sanact.MedianFilter()(a), sanact.NonLocalMeans(window_size=3)(a)
assert at_work().startswith("compiled") and runtimes() == before and len(before) == 1, (before, runtimes())
print(count, threads())
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True).stdout
    before, after = said.split()
    assert before == after


@needs_library
def test_no_memory_is_an_error():
    with pytest.raises(MemoryError, match="not enough memory"):
        library.call(lambda *given: 1, torch.ones(1))


@pytest.mark.parametrize("compiler", ["no/such/compiler", "false"])
def test_a_compiler_that_does_not_work_is_no_error_but_a_reason(compiler, monkeypatch, tmp_path):
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(build.NoLibrary, match="does not start" if "/" in compiler else "failed"):
        build.compile_library(tmp_path / "new.so")
    monkeypatch.setenv("CC", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.NoLibrary, match="no C compiler was found; set CC to one"):
        build.compile_library(tmp_path / "new.so")


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["cc", "no/such/compiler"])
def test_a_wheel_has_the_library_of_its_platform_or_none_and_serves_any_python(compiler, tmp_path):
    if compiler == "cc" and not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    for name in ("src", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "src/sanact/kernels/c/kernels.so").unlink(missing_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"CC": compiler}
    build_wheel = [*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path / "wheels"), str(tmp_path)]
    subprocess.run(build_wheel, env=environment, check=True)
    (wheel,) = (tmp_path / "wheels").iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "installed"), str(wheel)], check=True)
    library_there = (tmp_path / "installed/sanact/kernels/c/kernels.so").exists()
    script = "import sanact, sanact.kernels; print(sanact.__file__, sanact.kernels.at_work())"
    environment["PYTHONPATH"] = str(tmp_path / "installed")
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) in said
    if compiler == "cc":
        assert "-py3-none-" in wheel.name and not wheel.name.endswith("-any.whl") and library_there and "compiled, " in said
    else:
        assert wheel.name.endswith("-py3-none-any.whl") and not library_there and "no C compiler" in said
