"""What a command says of itself, at once: help must not wait for torch."""

from __future__ import annotations

import json

import pytest

from sanact.cli import app
from tests.test_cli import in_a_new_process, sanact

VERBS = [command.callback.__name__ for command in app.registered_commands]


def test_help_imports_neither_torch_nor_numpy():
    script = """if True:
        import json, sys
        from sanact.cli import app
        for verb in json.loads(sys.argv[1]):
            app([verb, "--help"], standalone_mode=False)
        print([name for name in ("torch", "numpy", "pyarrow") if name in sys.modules])
    """
    ended = in_a_new_process(json.dumps(VERBS), script=script)
    assert ended.out.endswith("[]\n") and "Usage: " in ended.out, ended.err


@pytest.mark.parametrize("verb", VERBS)
def test_h_is_help(verb):
    assert sanact(verb, "-h").out == sanact(verb, "--help").out
