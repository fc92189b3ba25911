"""Seconds to prepare a case against seconds to merely read and decompress its files: ``python benchmarks/preprocess.py``.

Both sides use the same files, already in the system's memory, and the same number of threads, and take turns so that other
load on the machine meets both. "read" decompresses all five files into arrays with nibabel, which uses zlib, and does nothing
with them; "fast" does the same with this package's reader, which uses ISA-L. "prepare" is all of `prepare_cohort`: hash, read
(fast), check, prepare, write; "ratio" is its time by that of "read". "again" is a second run that finds everything there.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from brats_cohort.case import Case
from brats_cohort.cases import discover
from brats_cohort.nifti import read_volume
from glioma_phantom import PhantomSettings, write_cohort
from helpers.data.prepared import PreparedFile
from helpers.data.preprocess import PreprocessSettings, prepare_cohort


def seconds(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read_plainly(path: Path) -> np.ndarray:
    """The voxels of a file as nibabel reads them, decompressed by zlib."""
    return np.asanyarray(nib.load(path).dataobj)


def read_all(cases: list[Case], workers: int, read: Callable[[Path], object]) -> None:
    """Read and decompress every file, one case at a time for each worker."""
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda case: [read(path) is None for path in case.files], cases):
            pass


def compare(cases: list[Case], settings: PreprocessSettings, *, workers: int, repeats: int) -> dict[str, list[float]]:
    """Seconds a case for each repeat of "read", "fast", "prepare" and "again"."""
    times: dict[str, list[float]] = {"read": [], "fast": [], "prepare": [], "again": []}
    read_all(cases, workers, read_plainly)
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            prepare = lambda: prepare_cohort(cases, Path(folder), settings, workers=workers, progress=False)  # noqa: E731
            times["read"].append(seconds(lambda: read_all(cases, workers, read_plainly)) / len(cases))
            times["fast"].append(seconds(lambda: read_all(cases, workers, read_volume)) / len(cases))
            times["prepare"].append(seconds(prepare) / len(cases))
            times["again"].append(seconds(prepare) / len(cases))
    return times


def patch_seconds(case: Case, repeats: int) -> tuple[float, float]:
    """Median seconds to open a prepared file and read a patch of 64 x 64 x 64, and to read all of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = prepare_cohort([case], Path(folder), progress=False).paths[case.identifier]
        part = (slice(20, 84),) * 3
        patch = [seconds(lambda: PreparedFile(path).image_patch(part)) for _ in range(10 * repeats)]
        whole = [seconds(lambda: PreparedFile(path).load().image.sum()) for _ in range(repeats)]
        return statistics.median(patch), statistics.median(whole)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="cohort folder; without it phantoms at 1 mm are made")
    parser.add_argument("--count", type=int, default=4, help="cases taken")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    own = Path(tempfile.mkdtemp())
    try:
        if not arguments.data:
            write_cohort(own, arguments.count, PhantomSettings())
        cases = [case for case in discover(arguments.data or own) if not case.missing][: arguments.count]
        print(f"{len(cases)} cases; seconds a case, fastest (median) of {arguments.repeats}")
        print(f"{'spacing':>8} {'workers':>8} {'read':>15} {'fast':>15} {'prepare':>15} {'ratio':>15} {'again':>8}")
        torch.set_num_threads(1)
        for spacing in (1.0, 2.0):
            for workers in arguments.workers:
                times = compare(cases, PreprocessSettings(spacing), workers=workers, repeats=arguments.repeats)
                best, usual = ({key: f(values) for key, values in times.items()} for f in (min, statistics.median))
                print(
                    f"{spacing:>5.0f} mm {workers:>8} {best['read']:>7.3f} ({usual['read']:.3f})"
                    f" {best['fast']:>7.3f} ({usual['fast']:.3f}) {best['prepare']:>7.3f} ({usual['prepare']:.3f})"
                    f" {best['prepare'] / best['read']:>8.2f} ({usual['prepare'] / usual['read']:.2f}) {usual['again']:>8.3f}"
                )
        patch, whole = patch_seconds(cases[0], arguments.repeats)
        print(f"patch of 64 x 64 x 64: {patch * 1000:.2f} ms; the whole image: {whole * 1000:.1f} ms")
    finally:
        shutil.rmtree(own)


if __name__ == "__main__":
    main()
