"""A command that is stopped ends in one line, whoever stopped it, and goes on where it was."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_in_one_line(tmp_path, user_model, number, status):
    script = """if True:
        import sys, time
        from sanact.cli import main
        from sanact.evaluation.judge import Bench
        def judge(self, positions, **given):
            print("at work", flush=True)
            time.sleep(60)
        Bench.judge = judge
        main()
    """
    arguments = ["evaluate", user_model, "--data", "digits", "--examples", "9", "--attack", "fgsm:eps=0.1"]
    arguments += ["--knowledge", "white-box", "--out", tmp_path]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen([sys.executable, "-c", script, *arguments], **options)
    assert running.stdout.readline() == "at work\n"
    running.send_signal(number)
    said, told = running.communicate(timeout=60)
    assert (running.returncode, said) == (status, "")
    assert told.strip() == "stopped; run again to continue from here"


def test_outside_of_a_command_the_signal_is_left_as_it_was():
    from sanact.cli.stopping import Terminated, stoppable

    met = []

    def verb():
        met.append(signal.getsignal(signal.SIGTERM))
        raise Terminated

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        stoppable(verb)()
    assert ended.value.code == 143 and met[0] is not before and signal.getsignal(signal.SIGTERM) is before
