"""Run notebook 06 with its full settings on an NVIDIA GPU and keep what it measured: ``python -m benchmarks.gpu``.

The numbers go to benchmarks/gpu.json. It takes at most 12 minutes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from brats_cohort.files import write_atomically
from helpers.running import assign, execute_notebook
from helpers.workspace import REPOSITORY, load_metrics, open_workspace

RESULT = REPOSITORY / "benchmarks" / "gpu.json"
FULL = {"PATCH": "96", "ROUNDS": "20", "COMPILE": "network", "CASES": "8"}


def measure(settings: dict[str, str], result: Path) -> int:
    """Execute notebook 06 with these parameters and write its numbers; returns the exit status."""
    notebook = REPOSITORY / "notebooks" / "06_profile_gpu.ipynb"
    with tempfile.TemporaryDirectory() as name:
        folders = {"DATA": f"{name}/data", "OUT": f"{name}/out"}
        parameters = assign([notebook], settings | folders)[notebook]
        run = execute_notebook(notebook, Path(name) / notebook.name, parameters=parameters)
        if run.status != "ok":
            print(f"notebook 06 failed in {run.error}", file=sys.stderr)
            return 1
        numbers = load_metrics(open_workspace("phantom", data=folders["DATA"], out=folders["OUT"]), notebook.stem)["numbers"]
    record = {"date": time.strftime("%d %B %Y"), "settings": " ".join(f"{key}={value}" for key, value in settings.items())}
    with write_atomically(result) as file:
        file.write_text(json.dumps(record | numbers, indent=2) + "\n", encoding="utf-8")
    print(f"{numbers['machine']}, {run.seconds:.0f} s: {result}")
    return 0


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no NVIDIA GPU here; nothing was measured.")
    sys.exit(measure(FULL, RESULT))
