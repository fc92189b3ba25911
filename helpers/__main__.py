"""Entry point of ``python -m helpers``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # In place of the working folder, where the processes that a command starts would find a helpers.py of the user's own.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from helpers.cli import keep_freed_memory, main

    keep_freed_memory()
    sys.exit(main())
