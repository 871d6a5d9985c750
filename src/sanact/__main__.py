"""``python -m sanact`` is ``sanact``."""

from sanact.cli import main

if __name__ == "__main__":
    main()
