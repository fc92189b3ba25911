"""``python -m helpers phantom``: make a cohort of digital glioma phantoms."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from glioma_phantom import PhantomSettings
from helpers.data.phantoms import write_cohort


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    defaults = PhantomSettings()
    parser.add_argument("--out", type=Path, default=Path("data/phantom"), help="folder of the cohort")
    parser.add_argument("--count", type=int, default=40, help="how many cases")
    parser.add_argument("--spacing", type=float, choices=(1.0, 2.0, 4.0), default=defaults.spacing, help="voxel edge in mm")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="seed of the cohort")
    parser.add_argument("--workers", type=int, default=None, help="processes; None means one for each core")
    parser.add_argument("--device", default="cpu", help="cpu, or a CUDA device such as cuda:0")


def run(arguments: argparse.Namespace) -> int:
    """Write the cohort and say what is there."""
    start = time.perf_counter()
    settings = PhantomSettings(spacing=arguments.spacing, seed=arguments.seed)
    cases = write_cohort(arguments.out, arguments.count, settings, workers=arguments.workers, device=arguments.device)
    print(f"{len(cases)} phantoms at {arguments.spacing:g} mm in {arguments.out} ({time.perf_counter() - start:.0f} s)")
    return 0
