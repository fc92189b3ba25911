"""Seconds and peak memory of ``python -m helpers predict`` for one case: ``python -m benchmarks.predict``.

The command is started anew each time, as a user does, imports and the loading of the model included. Where its seconds go is
measured in notebook 06.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(words: list[str]) -> tuple[float, float]:
    """Run a command of helpers; returns its seconds and its own peak memory in GB."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "helpers", *words], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path, help="folder of one case; without it a phantom of 240x240x155 is made")
    parser.add_argument("--checkpoint", help="another model than the released one")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not arguments.case:
            run(["phantom", "--count", "1", "--out", str(folder / "cohort")])
        words = ["predict", str(arguments.case or folder / "cohort"), "--out", str(folder / "seg.nii.gz")]
        words += ["--checkpoint", arguments.checkpoint] if arguments.checkpoint else []
        seconds, memory = zip(*(run(words) for _ in range(arguments.repeats)), strict=True)
    peak = max(memory)
    print(f"{statistics.median(seconds):.1f} s [{min(seconds):.1f} to {max(seconds):.1f}], peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main()
