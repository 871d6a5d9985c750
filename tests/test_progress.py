from __future__ import annotations

import pytest

from sanact.progress import progress_bar


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich then takes the captured stream for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")


def test_the_bar_says_what_runs_and_how_far_on_standard_error(capsys):
    with progress_bar("training", 3) as advance:
        advance(2, "judging")
    out, err = capsys.readouterr()
    assert out == "" and "judging" in err and "2/3" in err and "left" in err


def test_the_text_stays_until_it_is_replaced(capsys):
    with progress_bar("training", 3) as advance:
        advance()
        advance()
    assert "training" in capsys.readouterr().err


def test_a_pipe_stays_empty(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR")
    with progress_bar("training", 3) as advance:
        advance()
    assert capsys.readouterr() == ("", "")


def test_a_hidden_bar_draws_nothing(capsys):
    with progress_bar("training", 3, show=False) as advance:
        advance()
    assert capsys.readouterr() == ("", "")
