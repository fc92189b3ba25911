"""Phantoms of abdominal CT as a cohort."""

from __future__ import annotations

from pathlib import Path

from glioma_phantom import abdomen
from helpers.extras.ct.cohort import CtCohort, find_ct_cohort
from helpers.workspace import DataError


def write_ct_phantoms(
    folder: Path, count: int, settings: abdomen.CtPhantomSettings = abdomen.DEFAULTS, *, workers: int = 2
) -> CtCohort:
    """Write phantoms in the files of BTCV and find them; raises `DataError` if the folder holds others."""
    try:
        return find_ct_cohort(abdomen.write_ct_phantoms(folder, count, settings, workers=workers), seed=settings.seed)
    except ValueError as error:
        raise DataError(str(error), "choose another folder or remove that one") from error
