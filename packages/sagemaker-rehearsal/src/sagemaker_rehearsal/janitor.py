"""Keeps watch over a rehearsal from outside, so that nothing stays behind however it ends.

Run as a script by `sagemaker_rehearsal.session`: ``janitor.py FOLDER PARENT COMMAND...``. It imports nothing but the
standard library, because it must be there before anything else can fail. It holds the lock on the folder, starts the
command, and ends everything as soon as the command ends, the parent is gone (killed, too) or a signal asks for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PATIENCE = 5.0
"""Seconds after which what still does not die is left alone."""


def watch(folder: Path, parent: int, command: list[str]) -> None:
    """Run `command` for as long as the process `parent` lives; afterwards remove all its processes and the folder."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: asked.append(number))
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    _prctl(PR_SET_CHILD_SUBREAPER)
    with (folder / "server.log").open("wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        while child.poll() is None and not asked and os.getppid() == parent:
            time.sleep(0.1)
    _end(child, folder)
    shutil.rmtree(folder, ignore_errors=True)


def _end(child: subprocess.Popen, folder: Path) -> None:
    """Kill the command, the groups of processes that it noted, and every orphan that came to this process."""
    with contextlib.suppress(OSError):
        child.kill()
    child.wait()
    for note in (folder / "groups").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            os.killpg(int(note.name), signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for orphan in _children():
            with contextlib.suppress(OSError):
                os.kill(orphan, signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
        except ChildProcessError:
            return


def _children() -> Iterator[int]:
    """Direct children of this process, where the system tells (Linux)."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(OSError):
        yield from map(int, path.read_text().split())


def _prctl(option: int, value: int = 1) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    watch(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
