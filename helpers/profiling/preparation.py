"""Seconds to prepare a case against seconds to merely read and decompress its files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import nibabel as nib
import numpy as np

from helpers.data.cases import Case, read_volume
from helpers.data.preprocess import PreprocessSettings, prepare_cohort
from helpers.profiling.clock import Timing, interleave

ZLIB, ISAL, PARALLEL, PREPARE = "read, zlib", "read, ISA-L", "read, ISA-L, files at a time", "prepare"


def read_plainly(path: Path) -> np.ndarray:
    """The voxels of a file as nibabel reads them, decompressed by zlib."""
    return np.asanyarray(nib.load(path).dataobj)


def measure_preparation(cases: Sequence[Case], settings: PreprocessSettings, *, rounds: int) -> dict[str, Timing]:
    """Time reading in three ways and all of the preparation, in turns, from files that the system holds in memory.

    Parameters
    ----------
    cases : sequence of Case
    settings : PreprocessSettings
    rounds : int

    Returns
    -------
    dict
        Seconds a case: `ZLIB` and `ISAL` read and decompress all files one after the other into arrays and do nothing with
        them, `PARALLEL` one file a core at a time, and `PREPARE` is all of `prepare_cohort` in one process: hash, read, check,
        resample, normalise, write.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = iter(range(rounds + 1))

        def prepare() -> None:
            prepare_cohort(cases, Path(folder) / str(next(made)), settings, workers=1, progress=False)

        works = {
            ZLIB: lambda: _read(cases, read_plainly, 1),
            ISAL: lambda: _read(cases, read_volume, 1),
            PARALLEL: lambda: _read(cases, read_volume, joblib.cpu_count()),
            PREPARE: prepare,
        }
        timings = interleave(works, rounds=rounds)
    return {name: Timing(tuple(value / len(cases) for value in timing.seconds)) for name, timing in timings.items()}


def _read(cases: Sequence[Case], read: Callable[[Path], object], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for case in cases:
            for _ in pool.map(lambda path: read(path) is None, case.files):  # the arrays are let go at once
                pass
