"""Seconds to make and write a phantom, and randomised phantoms a second, at each spacing: ``python benchmarks/phantom.py``."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import joblib
import torch

from glioma_phantom import PhantomSettings, draw_random_phantom, make_phantom, write_cohort


def seconds_per_case(spacing: float, count: int, workers: int) -> float:
    """Seconds a case of a cohort of `count`, writing and the start of the workers included."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_cohort(Path(folder), count, PhantomSettings(spacing=spacing), workers=workers, progress=False)
        return (time.perf_counter() - start) / count


def seconds_to_make(make: Callable[[int], object]) -> float:
    """Median seconds of five cases made, without writing, after one to warm up."""
    make(0)
    times = []
    for index in range(1, 6):
        start = time.perf_counter()
        make(index)
        times.append(time.perf_counter() - start)
    return sorted(times)[2]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=16, help="cases in each cohort that is written")
    parser.add_argument("--workers", type=int, default=joblib.cpu_count(), help="processes that write a cohort")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    cohort = f"cohort of {arguments.count}, s a case"
    print(f"{'spacing':>8} {'device':>7} {'make one, s':>12} {cohort:>26} {'randomised, cases/s':>20}")
    for spacing in (1.0, 2.0, 4.0):
        settings = PhantomSettings(spacing=spacing)
        for device in devices:
            written = f"{seconds_per_case(spacing, arguments.count, arguments.workers):.2f}" if device == "cpu" else "-"
            one = seconds_to_make(partial(make_phantom, settings=settings, device=device))
            randomised = 1 / seconds_to_make(partial(draw_random_phantom, settings.seed, spacing=spacing, device=device))
            print(f"{spacing:>5.0f} mm {device:>7} {one:>12.2f} {written:>26} {randomised:>20.2f}")
    print(
        f"CPU: one thread to make one; {arguments.workers} processes of one thread each to write a cohort, their start included"
    )


if __name__ == "__main__":
    main()
