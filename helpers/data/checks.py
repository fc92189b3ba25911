"""What is wrong with the files of a cohort: every file of every case is opened before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import joblib
import nibabel as nib
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.data.faults import (
    ERROR,
    WARNING,
    Fault,
    Grid,
    brain_of,
    content_faults,
    contrast_faults,
    from_error,
    grid_faults,
    missing_faults,
    set_faults,
    tumour_faults,
)
from helpers.data.files import DataError, read_label_values, read_volumes
from helpers.data.layouts import Case, convention_of
from helpers.regions import MODALITIES, REGION_CLASSES, REGIONS, to_classes

__all__ = ["ERROR", "WARNING", "CaseCheck", "CaseFacts", "CheckReport", "Fault", "check_case", "check_cohort"]


@dataclass(frozen=True)
class CaseFacts:
    """What a case's files hold; volumes are 0 where there is no reference.

    Attributes
    ----------
    shape : tuple of int
        Voxels along each axis of the files.
    spacing : tuple of float
        Voxel edges in mm.
    orientation : str
        Directions in which the axes count, such as "LPS".
    number_type : str
        Of the images as they are read, such as "int16"; several where the files differ.
    brain_ml, tc_ml, wt_ml, et_ml : float
        Volumes of the brain and of the three regions in ml.
    """

    identifier: str
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    number_type: str = ""
    brain_ml: float = 0.0
    tc_ml: float = 0.0
    wt_ml: float = 0.0
    et_ml: float = 0.0

    @property
    def has_et(self) -> bool:
        """Whether any voxel enhances."""
        return self.et_ml > 0


@dataclass(frozen=True)
class CaseCheck:
    """Facts and faults of one case."""

    case: Case
    facts: CaseFacts
    faults: tuple[Fault, ...]

    @property
    def usable(self) -> bool:
        """Whether the case can be trained on and scored: it has a reference and no error."""
        return self.case.label is not None and all(fault.severity != ERROR for fault in self.faults)


@dataclass(frozen=True)
class CheckReport:
    """Checks of a cohort, in the order of its cases."""

    checks: tuple[CaseCheck, ...]

    @property
    def usable(self) -> list[Case]:
        """Cases without an error and with a reference."""
        return [check.case for check in self.checks if check.usable]

    @property
    def faults(self) -> list[Fault]:
        """Every fault of every case."""
        return [fault for check in self.checks for fault in check.faults]

    @property
    def facts(self) -> dict[str, CaseFacts]:
        """Facts by identifier."""
        return {check.case.identifier: check.facts for check in self.checks}

    def table(self) -> pd.DataFrame:
        """One row a case: status, grid, volumes in ml, number of faults and the first of them."""
        rows = [_row(check) for check in self.checks]
        return pd.DataFrame(rows, index=pd.Index([check.case.identifier for check in self.checks], name="case"))


def check_cohort(cases: Sequence[Case], *, workers: int | None = None, progress: bool = True) -> CheckReport:
    """Check every case; a bad one never stops the others.

    Parameters
    ----------
    cases : sequence of Case
        As `helpers.data.layouts.discover` finds them.
    workers : int, optional
        Threads, one for each core by default; decompression, which takes most of the time, runs in parallel.
    progress : bool
        Show a progress bar.
    """
    count = max(1, joblib.cpu_count() if workers is None else workers)
    with ThreadPoolExecutor(count) as pool:
        try:
            checks = tqdm(pool.map(check_case, cases), total=len(cases), desc="checks", unit="case", disable=not progress)
            return CheckReport(tuple(checks))
        finally:
            pool.shutdown(cancel_futures=True)


def check_case(case: Case) -> CaseCheck:
    """Open every file of one case and compare it with the others; whatever happens becomes a fault of the case."""
    try:
        return _check(case)
    except Exception as error:  # a defect in one file, of whatever kind, must not end the check of the cohort
        fault = Fault(case.identifier, "", f"the check itself failed ({error!r})", "look at the case's files by hand")
        return CaseCheck(case, CaseFacts(case.identifier), (fault,))


def _check(case: Case) -> CaseCheck:
    volumes, grid, faults = _images(case)
    brain = brain_of(list(volumes.values()))
    if brain is not None:
        faults += set_faults(case, volumes, brain)
    if len(volumes) == len(MODALITIES) and not faults:
        faults += contrast_faults(case, volumes)
    classes, label_faults = _label(case, brain, grid)
    types = dict.fromkeys(str(volume.dtype) for volume in volumes.values())
    facts = _facts(case, grid, brain, classes, ", ".join(types))
    return CaseCheck(case, facts, (*missing_faults(case), *faults, *label_faults))


def _images(case: Case) -> tuple[dict[str, np.ndarray], Grid | None, list[Fault]]:
    """The modalities that can be read and lie in the grid of the first of them, that grid, and what is wrong so far."""
    volumes: dict[str, np.ndarray] = {}
    grid: Grid | None = None
    faults: list[Fault] = []
    for path, channels in case.channels.items():
        try:
            found, affine = read_volumes(path, list(channels.values()))
        except DataError as error:
            faults.append(from_error(case, path, error))
            continue
        grid = grid or (path.name, found[0].shape, affine)
        faults += grid_faults(case, path, found[0].shape, affine, grid)
        for modality, volume in zip(channels, found, strict=True):
            faults += content_faults(case, path, modality, volume)
            if volume.shape == grid[1]:
                volumes[modality] = volume
    return volumes, grid, faults


def _label(case: Case, brain: np.ndarray | None, grid: Grid | None) -> tuple[np.ndarray | None, list[Fault]]:
    if case.label is None:
        return None, [
            Fault(case.identifier, "", "there is no reference", "predict it, but do not train or score on it", WARNING)
        ]
    try:
        values, affine = read_label_values(case.label)
    except DataError as error:
        return None, [from_error(case, case.label, error)]
    faults = list(grid_faults(case, case.label, values.shape, affine, grid or ("", values.shape, affine)))
    try:
        classes = to_classes(values, convention_of(case))
    except ValueError as error:
        problem = f"{case.label.name}: {error}"
        return None, [*faults, Fault(case.identifier, case.label.name, problem, "choose the layout that the labels follow")]
    return classes, faults + list(tumour_faults(case, classes > 0, brain))


def _facts(case: Case, grid: Grid | None, brain: np.ndarray | None, classes: np.ndarray | None, number_type: str) -> CaseFacts:
    if grid is None:
        return CaseFacts(case.identifier)
    _, shape, affine = grid
    ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    counts = [np.count_nonzero(classes == number) if classes is not None else 0 for number in range(4)]
    volumes = {f"{region.lower()}_ml": sum(counts[number] for number in REGION_CLASSES[region]) * ml for region in REGIONS}
    return CaseFacts(
        case.identifier,
        shape=shape,
        spacing=tuple(float(edge) for edge in nib.affines.voxel_sizes(affine)),
        orientation="".join(axis or "?" for axis in nib.aff2axcodes(affine)) if np.isfinite(affine).all() else "",
        number_type=number_type,
        brain_ml=float(np.count_nonzero(brain) * ml) if brain is not None else 0.0,
        **volumes,
    )


def _row(check: CaseCheck) -> dict[str, object]:
    facts, faults = check.facts, check.faults
    return {
        "status": "usable" if check.usable else "left out",
        "shape": " x ".join(map(str, facts.shape)),
        "mm": " x ".join(f"{edge:.3g}" for edge in facts.spacing),
        "axes": facts.orientation,
        "brain ml": round(facts.brain_ml),
        **{f"{region} ml": round(getattr(facts, f"{region.lower()}_ml"), 1) for region in REGIONS},
        "faults": len(faults),
        "first fault": f"{faults[0].severity}: {faults[0].problem}" if faults else "",
    }
