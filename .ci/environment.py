"""Finish the virtual environment that runs this: its scripts and ``python -m helpers`` belong to this clone.

A copied or renamed environment holds scripts that start the Python of the original, and with it the original's code. And in a
folder with a helpers.py of the user's own, ``python -m helpers`` would run that file, print nothing and end with status 0.
"""

import sys
import sysconfig
from pathlib import Path

TRAMPOLINE = b"'''exec'"
"""How pip begins the second line of a script whose Python has a path with spaces."""
SHADOW = """\
import os, sys; os.path.isfile("helpers.py") and sys.orig_argv[1:3] == ["-m", "helpers"] and __import__("helpers")
"""


def main() -> None:
    """Write the first lines of the scripts, and one line that Python executes when it starts."""
    header = b"#!/bin/sh\n" + TRAMPOLINE + f' "{sys.executable}" "$0" "$@"\n'.encode() + b"' '''\n"
    for script in Path(sysconfig.get_path("scripts")).iterdir():
        content = script.read_bytes() if script.is_file() and not script.is_symlink() else b""
        first, _, rest = content.partition(b"\n")
        if first == b"#!/bin/sh" and rest.startswith(TRAMPOLINE):
            script.write_bytes(header + rest.split(b"\n", 2)[2])
        elif first.startswith(b"#!") and b"python" in first:
            script.write_bytes(header + rest)
    (Path(sysconfig.get_path("purelib")) / "brain_tumour_segmentation.pth").write_text(SHADOW)


if __name__ == "__main__":
    main()
