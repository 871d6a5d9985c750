"""The compiled library: found, checked, and called with tensors.

It is plain C, reached by ctypes: one file serves every Python and every torch.  Its threads are those of the OpenMP runtime
that torch has loaded, never of a second one.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from sanact.kernels.build import LIBRARY, digest, made_from

SWITCH = "SANACT_KERNELS"

POINTER, INT, WHOLE, REAL = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double
MAPS = [WHOLE] * 4 + [INT] * 2  # N, C, H, W; whether the channels lie innermost; threads
FUNCTIONS = {
    "sanact_mask": [POINTER] * 4 + MAPS + [WHOLE, INT, REAL],
    "sanact_median": [POINTER] * 4 + MAPS + [WHOLE, POINTER, WHOLE, POINTER, WHOLE, WHOLE],
    "sanact_nl_means": [POINTER] * 6 + MAPS + [WHOLE, WHOLE, ctypes.c_float, INT, INT],
}
LARGEST = 2**18  # elements of a map: the kernels work on up to sixteen maps at once, with several copies of each
SINGLE_AND_HALF = (torch.float32, torch.float16, torch.bfloat16)
TENSORS = (Tensor, nn.Parameter)  # but no subclasses, which may override any operation

_switched_off = False


@contextmanager
def plain_torch() -> Iterator[None]:
    """Disable the compiled kernels for the block, in all threads.  For a whole process set SANACT_KERNELS=off."""
    global _switched_off
    before, _switched_off = _switched_off, True
    try:
        yield
    finally:
        _switched_off = before


def at_work() -> str:
    """The kernels in use, in words: the instruction set of the compiled ones, or why there are none."""
    library, why_not = _library()
    if library is None:
        return f"plain torch ({why_not})"
    return "plain torch (switched off)" if _switched_off else f"compiled, {library.sanact_instructions().decode()}"


def compiled(a: Tensor, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> ctypes.CDLL | None:
    """The library, if it can be called with these maps now; otherwise None, and the plain form is used.

    dtypes: those that the caller can convert without changing a result.
    """
    if torch.compiler.is_compiling() or _switched_off or a.dtype not in dtypes or not a.is_cpu or type(a) not in TENSORS:
        return None
    if torch._C._get_tracing_state() or torch._C._len_torch_dispatch_stack() or forward_ad._current_level >= 0:
        return None  # compiled calls bypass torch, so whatever watches its operations would miss them
    if a.layout != torch.strided or a.is_neg() or not a.numel() or a.shape[2] * a.shape[3] > LARGEST:
        return None
    try:
        a.data_ptr()
    except RuntimeError:  # inside a transform of torch.func
        return None
    return _library()[0]


def dense(a: Tensor) -> tuple[Tensor, bool]:
    """The tensor (N, C, H, W) in one of two memory formats, and whether that is channels-last."""
    if a.is_contiguous():
        return a, False
    if a.is_contiguous(memory_format=torch.channels_last):
        return a, True
    return a.contiguous(), False


def like(a: Tensor, last: bool) -> Tensor:
    """The tensor in the given memory format."""
    return a.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def threads(elements: int, grain: int) -> int:
    """The number of threads: torch's, but fewer if each would get too few elements to be worth starting."""
    return max(min(torch.get_num_threads(), elements // grain), 1)


def call(function: Any, *arguments: Any) -> None:
    """Call a function of the library; tensors are passed as pointers."""
    if function(*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)):
        raise MemoryError("not enough memory for the buffers of the compiled kernels")


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and the reason."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0"):
        return None, f"{SWITCH}={os.environ[SWITCH]}"
    if not LIBRARY.exists():
        return None, "no compiled library: there was no C compiler when sanact was installed"
    try:
        if (theirs := made_from(LIBRARY)) != (ours := digest()):
            raise OSError(f"it was made from the sources {theirs}, these are {ours}")
        library = ctypes.CDLL(str(LIBRARY))
        library.sanact_instructions.restype = ctypes.c_char_p
        for name, arguments in FUNCTIONS.items():
            getattr(library, name).argtypes = arguments
    except (OSError, AttributeError) as error:
        why_not = f"the compiled library was refused: {error}"
        warnings.warn(f"{why_not}; plain torch is used. Install sanact again.", RuntimeWarning, stacklevel=2)
        return None, why_not
    if (parallel := _openmp()) is not None:
        library.sanact_use_openmp(parallel)
    return library, ""


def _openmp() -> Any:
    """GOMP_parallel of torch's OpenMP runtime (LLVM's and Intel's have it, too); None if torch uses another runtime."""
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        path = Path(torch.__file__).parent / "lib" / name
        if path.exists():
            return getattr(ctypes.CDLL(str(path)), "GOMP_parallel", None)
    return None
