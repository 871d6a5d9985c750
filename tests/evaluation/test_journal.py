"""Results that were found are not looked for again, and a line that was cut off or changed is."""

from __future__ import annotations

import errno
import os

import pytest

from sanact.evaluation.journal import Journal


def test_each_result_is_computed_once_across_runs(tmp_path):
    path, computed = tmp_path / "cell" / "checks.jsonl", []

    def compute(value):
        computed.append(value)
        return value

    for run in range(2):
        journal = Journal(path)
        assert [journal.once(f"check {n}", lambda n=n: compute([n, 0.5])) for n in range(3)] == [[n, 0.5] for n in range(3)]
        assert journal.once("odd \u2028 name\n", lambda: compute("last")) == "last"
        assert len(computed) == 4, run


@pytest.mark.parametrize("end", [1, 20, 32])
def test_a_line_that_a_kill_cut_off_is_computed_again_and_the_others_stay(tmp_path, end):
    path = tmp_path / "checks.jsonl"
    for name in ("first", "second"):
        Journal(path).once(name, lambda: 0.25)
    path.write_bytes(path.read_bytes()[:-end])
    again = Journal(path)
    assert again.once("first", lambda: 9) == 0.25 and again.once("second", lambda: 0.5) == 0.5
    assert Journal(path).known == {"first": 0.25, "second": 0.5}


def test_no_flipped_bit_changes_a_result(tmp_path):
    path = tmp_path / "checks.jsonl"
    Journal(path).once("share", lambda: 0.125)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            assert Journal(path).known in ({}, {"share": 0.125})


def test_without_a_file_nothing_is_kept_and_a_full_disk_is_named(tmp_path, monkeypatch):
    assert Journal(None).once("a", lambda: 1) == 1

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'checks.jsonl'}'"):
        Journal(tmp_path / "checks.jsonl").once("a", lambda: 1)
