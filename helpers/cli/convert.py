"""``python -m helpers convert``: write a cohort in the dataset format of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from helpers.cli.options import Target
from helpers.data.cases import discover
from helpers.data.convert import ENDINGS, convert_cohort


def run(
    cohort: Path,
    /,
    *,
    to: Literal[*ENDINGS],
    out: Target,
    format: str = "auto",
    labels: str = "auto",
    patients: Path | None = None,
    workers: int | None = None,
) -> int:
    """Write a cohort in another dataset format; status 1 if a case could not be converted.

    Parameters
    ----------
    cohort
        Folder that holds the cases.
    to
        nnunet, msd, bids, brats2023 or brats2021.
    out
        New folder; for nnU-Net called Dataset501_Gliomas or alike.
    format
        Dataset format of the cohort.
    labels
        Numbers of its references; auto as the cohort says.
    patients
        CSV with the columns case and patient; without it, names tell.
    workers
        Cases at a time; one for each core by default.
    """
    cases = discover(cohort, format, labels=labels, patients=patients)
    converted, faults = convert_cohort(cases, to, out, workers=workers)
    for fault in faults:
        print(f"left out: {fault}")
    print(f"{len(converted)} of {len(cases)} cases in {out}")
    return int(bool(faults))
