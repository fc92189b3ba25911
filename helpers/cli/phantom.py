"""``python -m helpers phantom``: make a cohort of digital glioma phantoms."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from brats_cohort.command import Target
from brats_cohort.files import DataError
from glioma_phantom import PhantomSettings, write_cohort
from helpers.workspace import pick_device


def run(
    *,
    out: Target = Path("data/phantom"),
    count: int = 40,
    spacing: Literal["1", "2", "4", "1.0", "2.0", "4.0"] = "1",
    seed: int = 2021,
    workers: int | None = None,
    device: str = "cpu",
) -> int:
    """Make a cohort of digital glioma phantoms.

    Parameters
    ----------
    out
        Folder of the cohort.
    count
        How many cases.
    spacing
        Voxel edge in mm.
    seed
        Seed of the cohort.
    workers
        Processes; one for each core if left out.
    device
        auto, cpu, cuda or cuda:1.
    """
    if count < 1 or seed < 0:
        raise DataError(f"--count is {count} and --seed is {seed}", "give a count of 1 or more and a seed of 0 or more")
    start = time.perf_counter()
    settings = PhantomSettings(spacing=float(spacing), seed=seed)
    try:
        write_cohort(out, count, settings, workers=workers, device=pick_device(device))
    except ValueError as error:
        problem, _, remedy = str(error).partition("; ")
        raise DataError(problem, remedy) from error
    print(f"{count} phantoms at {settings.spacing:g} mm in {out} ({time.perf_counter() - start:.0f} s)")
    return 0
