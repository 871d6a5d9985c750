"""Compiling the kernels: by the hook that builds a wheel, or in place with `python src/sanact/kernels/build.py`.

It imports only the standard library, because neither torch nor sanact may be installed where a wheel is built.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).with_name("c")
LIBRARY = SOURCES / "kernels.so"  # so named everywhere, as it is opened by its path; not in the package, as it is no module

FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-DNDEBUG", "-Wall", "-Wextra")
VARIANTS = {  # one object each; the library uses the best one for the processor
    "portable": (),
    "avx2": ("-mavx2", "-mfma", "-mpopcnt"),
    "avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mpopcnt"),
}


class NoLibrary(Exception):
    """There is no compiler, or it cannot compile the kernels."""


def digest(folder: Path = SOURCES) -> str:
    """A hash of the C sources; a library knows the hash of its own sources."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".c", ".h"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def made_from(library: Path) -> str:
    """The hash of the sources that a library was made from; OSError or AttributeError for a file that is not ours."""
    function = ctypes.CDLL(str(library)).sanact_sources
    function.restype = ctypes.c_char_p
    return str(function().decode())


def is_current(library: Path = LIBRARY) -> bool:
    """Whether there is a library that was made from the current sources."""
    try:
        return library.exists() and made_from(library) == digest()
    except (OSError, AttributeError):
        return False


def compile_library(to: Path = LIBRARY) -> None:
    """Compile the kernels with $CC, cc, gcc or clang, unless they are current; NoLibrary if that fails."""
    if is_current(to):
        return
    compiler = (
        shlex.split(os.environ.get("CC", "")) or [found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))][:1]
    )
    if not compiler:
        raise NoLibrary("no C compiler was found; set CC to one")
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    with tempfile.TemporaryDirectory() as folder:
        objects = [f"{folder}/dispatch.o"]
        _run(*compiler, *FLAGS, f'-DSOURCES="{digest()}"', "-c", f"{SOURCES}/dispatch.c", "-o", objects[0])
        for name, flags in VARIANTS.items():
            if x86 or not flags:
                objects.append(f"{folder}/{name}.o")
                _run(*compiler, *FLAGS, *flags, f"-DVARIANT={name}", "-c", f"{SOURCES}/variant.c", "-o", objects[-1])
        _run(*compiler, "-shared", "-o", f"{folder}/library", *objects, "-lm")
        shutil.copyfile(f"{folder}/library", f"{to}.new")
        os.replace(f"{to}.new", to)  # never write into a library in use


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise NoLibrary(f"the C compiler does not start: {error}") from error
    if done.returncode:
        raise NoLibrary(f"{shlex.join(command)} failed: {done.stderr.strip()[-2000:]}")


if __name__ == "__main__":
    compile_library()
