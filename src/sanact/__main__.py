"""``python -m sanact`` is ``sanact``."""

from sanact.cli import main

main()
