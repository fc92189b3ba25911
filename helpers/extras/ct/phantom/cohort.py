"""Write cohorts of phantoms in the BTCV layout."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from helpers.data.cases import write_volume
from helpers.extras.ct.cohort import (
    DATASET_JSON,
    CtCohort,
    find_ct_cohort,
    write_dataset_json,
)
from helpers.extras.ct.phantom.generator import DEFAULTS, CtPhantomSettings, make_ct_phantom
from helpers.workspace import DataError

MANIFEST = ".phantom.json"


def write_ct_phantoms(folder: Path, count: int, settings: CtPhantomSettings = DEFAULTS, *, workers: int = 2) -> CtCohort:
    """Write phantoms 1 to `count` as imagesTr/img0001.nii.gz and labelsTr/label0001.nii.gz, with a dataset JSON.

    Scans that exist are kept, so a second call costs nothing.

    Parameters
    ----------
    folder : Path
        Made if needed; remembers the settings.
    count : int
    settings : CtPhantomSettings
    workers : int
        Phantoms at a time.

    Raises
    ------
    DataError
        If the folder holds phantoms of other settings.
    """
    folder = Path(folder)
    _claim(folder, settings)
    missing = [number for number in range(1, count + 1) if not _label(folder, number).is_file()]
    job = partial(_write, folder, settings)
    with ThreadPoolExecutor(max(1, workers)) as pool:  # NumPy and the compression leave Python's lock
        list(pool.map(job, missing))
    listed = folder / DATASET_JSON
    if missing:
        listed.unlink(missing_ok=True)
    cohort = find_ct_cohort(folder, seed=settings.seed)
    if not listed.is_file():
        write_dataset_json(listed, cohort)
    return cohort


def _write(folder: Path, settings: CtPhantomSettings, number: int) -> Path:
    """Write one scan, its label map last: where that is, the scan is complete."""
    phantom = make_ct_phantom(number, settings)
    write_volume(folder / "imagesTr" / f"img{number:04d}.nii.gz", phantom.image, phantom.affine)
    return write_volume(_label(folder, number), phantom.labels, phantom.affine)


def _label(folder: Path, number: int) -> Path:
    return folder / "labelsTr" / f"label{number:04d}.nii.gz"


def _claim(folder: Path, settings: CtPhantomSettings) -> None:
    """Remember the settings of a cohort in it, or refuse a folder that remembers others."""
    wanted = json.loads(json.dumps(asdict(settings)))
    manifest = folder / MANIFEST
    if manifest.is_file():
        found = json.loads(manifest.read_text())
        if found != wanted:
            raise DataError(
                f"{folder} holds phantoms made with {found}, not {wanted}", "choose another folder or remove that one"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{os.getpid()}{MANIFEST}"
    temporary.write_text(json.dumps(wanted))
    temporary.replace(manifest)
