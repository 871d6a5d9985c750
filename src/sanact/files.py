"""Writing files whole, so that a killed run or a full disk never leaves half of one, and locking them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 200  # bytes of a file's name that the temporary name repeats: file systems allow 255 in all


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``, and move it to ``path`` when the block ends without an error.

    Readers see the old file or the whole new one.  On an error the temporary file is removed and the old one stays.  A system
    error, such as a full disk, names ``path``.
    """
    path, temporary = Path(path), None
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=_beginning(path), suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if error.filename and str(error.filename) != str(temporary or error.filename):
            raise  # about another file, which it names
        told = OSError(error.errno, error.strerror, str(path)) if error.errno else OSError(f"'{path}' was not written: {error}")
        raise told from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a file whole or not at all; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(path: Path) -> None:
    """Remove temporary files left by killed writers of ``path``; nobody may be writing it meanwhile."""
    beginning = _beginning(path)
    for leftover in path.parent.glob(".*.tmp"):
        if leftover.name.startswith(beginning):
            leftover.unlink(missing_ok=True)


@contextmanager
def alone(path: Path, *, wait: bool) -> Iterator[bool]:
    """Lock a file for the block; yields whether the lock was free.  wait: until it is free.

    The system releases the lock when the process ends, for any reason.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _beginning(path: Path) -> str:
    return f".{path.name.encode()[:LONGEST].decode(errors='ignore')}."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
