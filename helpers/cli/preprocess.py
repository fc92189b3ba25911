"""``python -m helpers preprocess``: turn a cohort into prepared cases."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Iterator
from pathlib import Path

import joblib

from brats_cohort.cases import discover
from brats_cohort.command import Target
from brats_cohort.files import DataError
from brats_cohort.regions import CONVENTIONS
from helpers.data.preprocess import PreprocessSettings, prepare_cohort


def run(
    cohort: Path,
    /,
    *,
    out: Target,
    format: str = "auto",
    labels: str = "auto",
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    correct_bias: bool = False,
    workers: int | None = None,
    dask: str = "",
) -> int:
    """Prepare every case of a cohort and say what is there; status 1 if a case could not be prepared.

    Parameters
    ----------
    cohort
        Folder that holds the cases.
    out
        Folder for the prepared cases.
    format
        Dataset format, such as brats2021, brats2023, named or msd.
    labels
        Numbers of the references, such as brats2024, brats-peds or nnunet; auto as the cohort's names say.
    spacing
        Voxel edge in mm, or three of them.
    correct_bias
        Take the bias field out first.
    workers
        Cases at a time; one for each core by default.
    dask
        Scheduler of a Dask cluster, such as tcp://head:8786, whose workers prepare the cases.
    """
    start = time.perf_counter()
    settings = PreprocessSettings(spacing, correct_bias=correct_bias)
    cases = discover(cohort.absolute() if dask else cohort, format, labels=labels)
    for key in dict.fromkeys(case.labels for case in cases if case.label):
        print(f"references are read with the numbers of {CONVENTIONS[key]}")
    with _cluster(dask):
        result = prepare_cohort(cases, out.absolute() if dask else out, settings, workers=workers)
    size = sum(path.stat().st_size for path in result.paths.values())
    for sentence in result.faults.values():
        print(f"left out: {sentence}")
    print(
        f"{len(result.paths)} of {len(cases)} cases in {out} ({size / 1e6:.0f} MB): {len(result.made)} prepared, "
        f"{len(result.paths) - len(result.made)} there already ({time.perf_counter() - start:.1f} s)"
    )
    return 1 if result.faults else 0


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Let the workers of a Dask cluster do what joblib would do in threads, unless there is no address."""
    if not address:
        yield
        return
    try:
        distributed = importlib.import_module("distributed")  # an extra, of which no job knows
    except ModuleNotFoundError as error:
        problem = "--dask needs the package distributed, which is not installed"
        raise DataError(problem, 'pip install ./packages/* ".[cluster]"') from error
    try:
        client = distributed.Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise DataError(f"no Dask scheduler answers at {address}", "start one with dask scheduler, and dask worker") from error
    with client, joblib.parallel_config("dask"):
        yield
