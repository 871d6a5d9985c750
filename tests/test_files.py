"""A file is replaced whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sanact import files
from sanact.files import replacing


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "rows"
    path.write_text("old")
    return path


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "rows"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_the_path_may_be_text(tmp_path):
    with replacing(str(tmp_path / "rows")) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "rows").read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_else(old, error):
    with pytest.raises(error), replacing(old) as temporary:
        temporary.write_text("half of the ne")
        raise error
    assert old.read_text() == "old" and list(old.parent.iterdir()) == [old]


def test_a_temporary_that_its_writer_removed_leaves_the_old_file(old):
    with pytest.raises(FileNotFoundError), replacing(old) as temporary:
        temporary.unlink()
    assert old.read_text() == "old" and list(old.parent.iterdir()) == [old]


def run(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run a script that knows `replacing` and `path`; it does without torch, which takes seconds to import."""
    given = f"import runpy; replacing = runpy.run_path({files.__file__!r})['replacing']; path = {str(path)!r}\n"
    return subprocess.run([sys.executable, "-c", given + script], capture_output=True, text=True)


def test_a_write_that_does_not_fit_leaves_the_old_file_and_nothing_else(old):
    script = """if True:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with replacing(path) as temporary:
            temporary.write_bytes(bytes(5000))
    """
    ended = run(script, old)
    assert ended.returncode == 1 and "File too large" in ended.stderr
    assert old.read_text() == "old" and list(old.parent.iterdir()) == [old]


def test_a_disk_that_is_full_when_the_data_are_flushed_leaves_the_old_file(old, monkeypatch):
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(os, "fsync", lambda _: os.write(full, b"any"))
    with pytest.raises(OSError, match="No space left"), replacing(old) as temporary:
        temporary.write_text("new")
    os.close(full)
    assert old.read_text() == "old" and list(old.parent.iterdir()) == [old]


def test_a_killed_writer_leaves_the_old_file(old):
    script = """if True:
        import os, signal
        with replacing(path) as temporary:
            temporary.write_text("half of the ne")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run(script, old).returncode == -9
    assert old.read_text() == "old"


@pytest.mark.parametrize(("umask", "permissions"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, permissions):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "rows"):
            pass
        assert os.umask(umask) == umask  # still the one that was set
    finally:
        os.umask(before)
    assert (tmp_path / "rows").stat().st_mode & 0o777 == permissions


def test_a_reader_meets_whole_files_only(tmp_path):
    path = tmp_path / "rows"
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    path.write_bytes(b"0" * 10_000)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    for number in range(1, 100):
        with replacing(path) as temporary, temporary.open("wb") as file:
            for _ in range(10):
                file.write(str(number % 10).encode() * 1000)
                file.flush()
    done.set()
    reader.join()
    assert seen and all(content == content[:1] * 10_000 for content in seen)


def test_an_error_of_the_system_names_the_file_that_was_to_be_written(tmp_path):
    path = tmp_path / "rows"
    for error in (OSError(28, "No space left on device"), OSError("no space, says a library")):
        with pytest.raises(OSError, match=f"{path}'") as told, replacing(path):
            raise error
        assert told.value.errno == error.errno and not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="another"), replacing(path):
        (tmp_path / "another").read_text()


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127])
def test_the_longest_name_has_a_temporary_one(tmp_path, name):
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert (tmp_path / name).read_text() == "new"


def test_leftovers_of_one_file_are_removed_and_no_others(tmp_path):
    for name in (".rows.abcdefgh.tmp", ".rows.1.tmp", ".rows2.abcdefgh.tmp", "rows", "rows.tmp"):
        (tmp_path / name).write_text("")
    files.remove_leftovers(tmp_path / "rows")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".rows2.abcdefgh.tmp", "rows", "rows.tmp"]


def test_a_lock_is_held_by_one_and_freed_by_the_end_of_the_block(tmp_path):
    path = tmp_path / "locks" / "a.lock"
    with pytest.raises(KeyError), files.alone(path, wait=True) as first:
        with files.alone(path, wait=False) as second:
            assert first and not second
        raise KeyError
    with files.alone(path, wait=False) as again:
        assert again
