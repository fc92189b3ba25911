"""Seconds of each stage from the files of a case to its label map: ``python -m benchmarks.predict``.

Stages are timed inside one process that is warm; "command" is the whole of ``python -m helpers predict``, imports included,
with its peak memory. ONNX Runtime computes the same network from an exported file, and the largest difference is printed.
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

import numpy as np
import torch

from glioma_phantom import PhantomSettings
from helpers.data.cases import discover, read_image
from helpers.data.phantoms import write_cohort
from helpers.data.preprocess import PreprocessSettings, preprocess_image
from helpers.evaluation.predict import window_size
from helpers.models.checkpoints import load_checkpoint, load_released
from helpers.models.export import OnnxNetwork, export_onnx
from helpers.models.networks import input_multiple
from helpers.profiling.latency import STAGES, Route, predict_by_route


def table(title: str, runs: list[dict[str, float]]) -> None:
    """Print the median of each stage and of the sum."""
    medians = [statistics.median(run[stage] for run in runs) for stage in STAGES]
    total = [sum(run.values()) for run in runs]
    cells = " ".join(f"{value:>9.3f}" for value in medians)
    print(f"{title:>14} {cells} {statistics.median(total):>9.3f}   {min(total):.3f} to {max(total):.3f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path, help="folder of one case; without it a phantom of 240x240x155 is made")
    parser.add_argument("--checkpoint", type=Path, help="another model than the released one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, card = (
        load_checkpoint(arguments.checkpoint, device=device) if arguments.checkpoint else load_released(device=device)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.case:
            case = discover(arguments.case)[0]
        else:
            case = write_cohort(folder / "cohort", 1, PhantomSettings(), progress=False)[0]
        runs = {"PyTorch": network}
        prepared = preprocess_image(*read_image(case), PreprocessSettings(**card.preprocessing))
        multiple = input_multiple(card.network, **card.arguments)
        window = window_size(prepared.shape, card.patch, multiple)
        if device == "cpu":
            path = export_onnx(network, folder / "network.onnx", size=window, fixed=window == prepared.shape)
            runs["ONNX Runtime"] = OnnxNetwork(path, threads=arguments.threads)
        print(f"{case.identifier}, {card.network} at {card.spacing[0]:g} mm on {device}, {arguments.threads} threads, {window}")
        print(
            f"seconds, median of {arguments.repeats}\n{'':>14} "
            + " ".join(f"{stage:>9}" for stage in (*STAGES, "sum"))
            + "   range"
        )
        answers = {}
        for title, each in runs.items():
            results = [
                predict_by_route(each, card, case, folder / "seg.nii.gz", route=Route(threads=arguments.threads), device=device)
                for _ in range(1 + arguments.repeats)
            ]
            table(title, [times for times, _, _ in results[1:]])  # the first warms up
            answers[title] = results[0][2]
        if len(answers) == 2:
            print(f"largest difference of a probability: {np.abs(np.subtract(*answers.values())).max():.1e}")
        words = ["predict", str(next(iter(case.images.values())).path.parent), "--out", str(folder / "seg.nii.gz")]
        words += ["--checkpoint", str(arguments.checkpoint)] if arguments.checkpoint else []
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "helpers", *words], check=True, capture_output=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        print(f"command: {time.perf_counter() - start:.1f} s, peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main()
