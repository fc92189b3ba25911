"""Seconds and peak memory of ``python -m helpers predict`` for one case: ``python -m benchmarks.predict``.

The command is started anew each time, as a user does, imports and the loading of the model included. Where its seconds go is
measured in notebook 06.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from glioma_phantom import PhantomSettings
from helpers.data.phantoms import write_cohort


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
            case = write_cohort(folder / "cohort", 1, PhantomSettings(), progress=False)[0]
        words = ["predict", str(arguments.case or case.files[0].parent), "--out", str(folder / "seg.nii.gz")]
        words += ["--checkpoint", arguments.checkpoint] if arguments.checkpoint else []
        seconds = []
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "helpers", *words], check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"{statistics.median(seconds):.1f} s [{min(seconds):.1f} to {max(seconds):.1f}], peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main()
