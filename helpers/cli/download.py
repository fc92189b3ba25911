"""``python -m helpers download``: fetch a public cohort."""

from __future__ import annotations

import argparse
from pathlib import Path

from helpers.data.cases import discover
from helpers.data.download import download_brats2021, download_msd
from helpers.data.slices import download_lgg, find_slices

COHORTS = {
    "brats2021": (download_brats2021, "CC BY 4.0; cite doi:10.7937/jc8x-9874"),
    "msd": (download_msd, "CC BY-SA 4.0; cite doi:10.1038/s41467-022-30695-9"),
    "lgg": (download_lgg, "CC BY-NC-SA 4.0; cite doi:10.1016/j.compbiomed.2019.05.002"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("cohort", choices=list(COHORTS), help="brats2021 and lgg need a Kaggle token; msd is MSD Task01")
    parser.add_argument("--out", type=Path, help="folder of the cohort; None means data/COHORT")


def run(arguments: argparse.Namespace) -> int:
    """Fetch the cohort and say what is there."""
    download, licence = COHORTS[arguments.cohort]
    folder = download(arguments.out or Path("data") / arguments.cohort)
    if arguments.cohort == "lgg":
        print(f"{len(find_slices(folder))} patients of lgg in {folder} ({licence})")
        print(f"next: make run NOTEBOOKS=segment_2d COHORT=lgg DATA={folder}")
        return 0
    cases = discover(folder, arguments.cohort)
    print(f"{len(cases)} cases of {arguments.cohort} in {folder} ({licence})")
    print(f"next: python -m helpers check {folder}")
    return 0
