"""``python -m helpers download``: fetch a public cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from helpers.cli.options import Target
from helpers.data.cases import discover
from helpers.data.download import download_brats2021, download_lgg, download_msd
from helpers.data.slices import find_slices

COHORTS = {
    "brats2021": (download_brats2021, "CC BY 4.0; cite doi:10.7937/jc8x-9874"),
    "msd": (download_msd, "CC BY-SA 4.0; cite doi:10.1038/s41467-022-30695-9"),
    "lgg": (download_lgg, "CC BY-NC-SA 4.0; cite doi:10.1016/j.compbiomed.2019.05.002"),
}


def run(cohort: Literal["brats2021", "msd", "lgg"], /, *, out: Target | None = None) -> int:
    """Fetch a cohort and say what is there.

    Parameters
    ----------
    cohort
        brats2021 and lgg need a Kaggle token; msd is MSD Task01.
    out
        Folder of the cohort; data/COHORT by default.
    """
    download, licence = COHORTS[cohort]
    folder = download(out or Path("data") / cohort)
    if cohort == "lgg":
        print(f"{len(find_slices(folder))} patients of lgg in {folder} ({licence})")
        print(f"next: make run NOTEBOOKS=segment_2d COHORT=lgg DATA={folder}")
        return 0
    print(f"{len(discover(folder, cohort))} cases of {cohort} in {folder} ({licence})")
    print(f"next: python -m helpers check {folder}")
    return 0
