"""What is wrong with the files of a cohort: every file of every case is opened before anything is trained on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.data.contrasts import suspicions
from helpers.data.files import DataError, read_label_values, read_volume
from helpers.data.layouts import Case, convention_of, same_affine
from helpers.regions import MODALITIES, MODALITY_NAMES, REGION_CLASSES, REGIONS, to_classes

ERROR, WARNING = "error", "warning"
FEW_OUTSIDE, MOST_OUTSIDE = 0.01, 0.5
"""Share of the tumour outside the brain above which there is a warning, and an error."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: with which file of which case, and what to do. An error makes the case unusable."""

    case: str
    file: str
    problem: str
    remedy: str
    severity: str = ERROR

    def __str__(self) -> str:
        return f"{self.case}: {self.problem}; {self.remedy}"


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
    brain_ml, tc_ml, wt_ml, et_ml : float
        Volumes of the brain and of the three regions in ml.
    """

    identifier: str
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
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
        return pd.DataFrame([_row(check) for check in self.checks]).set_index("case")


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
    with ThreadPoolExecutor(workers) as pool:
        checks = tqdm(pool.map(check_case, cases), total=len(cases), desc="checks", unit="case", disable=not progress)
        return CheckReport(tuple(checks))


def check_case(case: Case) -> CaseCheck:
    """Open every file of one case and compare it with the others; whatever happens becomes a fault of the case."""
    try:
        return _check(case)
    except Exception as error:  # a defect in one file, of whatever kind, must not end the check of the cohort
        fault = Fault(case.identifier, "", f"the check itself failed ({error!r})", "look at the case's files by hand")
        return CaseCheck(case, CaseFacts(case.identifier), (fault,))


def _check(case: Case) -> CaseCheck:
    faults = [
        Fault(case.identifier, "", f"{MODALITY_NAMES[modality]} is missing", "leave the case out or add the file")
        for modality in case.missing
    ]
    volumes: dict[str, np.ndarray] = {}
    grid: tuple[str, tuple[int, ...], np.ndarray] | None = None
    for modality in (modality for modality in MODALITIES if modality in case.images):
        source = case.images[modality]
        try:
            volume, affine = read_volume(source.path, channel=source.channel)
        except DataError as error:
            faults.append(_from_error(case, source.path, error))
            continue
        grid = grid or (source.path.name, volume.shape, affine)
        wrong = [*_content_faults(case, source.path, modality, volume), *_grid_faults(case, source.path, volume, affine, grid)]
        faults += wrong
        if volume.shape == grid[1]:
            volumes[modality] = volume
    faults += _same_data(case, volumes)
    brain = np.any([volume != 0 for volume in volumes.values()], axis=0) if volumes else None
    if len(volumes) == len(MODALITIES) and not faults:
        everywhere = np.all([volume != 0 for volume in volumes.values()], axis=0)
        for sentence in suspicions(np.stack([volumes[modality] for modality in MODALITIES]), everywhere):
            faults.append(Fault(case.identifier, "", sentence, "look at the four images and rename the files", WARNING))
    classes, label_faults = _label(case, brain, grid)
    return CaseCheck(case, _facts(case, grid, brain, classes), (*faults, *label_faults))


def _content_faults(case: Case, path: Path, modality: str, volume: np.ndarray) -> Iterable[Fault]:
    name = f"{path.name} ({MODALITY_NAMES[modality]})"
    if volume.dtype.kind == "f" and not np.isfinite(volume).all():
        count = int((~np.isfinite(volume)).sum())
        yield Fault(case.identifier, path.name, f"{name} has {count} voxels that are not numbers", "export the image again")
    elif volume.min() == volume.max():
        yield Fault(case.identifier, path.name, f"{name} is blank: every voxel is {volume.flat[0]}", "export the image again")


def _grid_faults(case: Case, path: Path, volume: np.ndarray, affine: np.ndarray, grid: tuple) -> Iterable[Fault]:
    first, shape, reference = grid
    if volume.shape != shape:
        problem = f"{path.name} has shape {volume.shape}, {first} has {shape}"
        yield Fault(case.identifier, path.name, problem, "resample one to the other's grid")
    elif not same_affine(affine, reference):
        problem = f"{path.name} has another affine than {first}, so their voxels lie elsewhere in the head"
        yield Fault(case.identifier, path.name, problem, "register the images to each other")


def _same_data(case: Case, volumes: dict[str, np.ndarray]) -> Iterable[Fault]:
    seen: dict[str, str] = {}
    for modality, volume in volumes.items():
        digest = hashlib.blake2b(np.ascontiguousarray(volume)).hexdigest()
        if digest in seen:
            problem = f"{MODALITY_NAMES[seen[digest]]} and {MODALITY_NAMES[modality]} hold the same image"
            yield Fault(case.identifier, case.images[modality].path.name, problem, "find the right file for one of them")
        seen.setdefault(digest, modality)


def _label(case: Case, brain: np.ndarray | None, grid: tuple | None) -> tuple[np.ndarray | None, list[Fault]]:
    if case.label is None:
        return None, [
            Fault(case.identifier, "", "there is no reference", "predict it, but do not train or score on it", WARNING)
        ]
    try:
        values, affine = read_label_values(case.label)
    except DataError as error:
        return None, [_from_error(case, case.label, error)]
    try:
        classes = to_classes(values, convention_of(case))
    except ValueError as error:
        return None, [Fault(case.identifier, case.label.name, str(error), "choose the layout that the labels follow")]
    faults = list(_grid_faults(case, case.label, values, affine, grid)) if grid else []
    tumour = classes > 0
    if not tumour.any():
        faults.append(
            Fault(case.identifier, case.label.name, "the reference marks no tumour", "make sure that is meant", WARNING)
        )
    elif brain is not None and brain.shape == tumour.shape:
        outside = float((tumour & ~brain).sum() / tumour.sum())
        if outside > FEW_OUTSIDE:
            problem = f"{100 * outside:.0f} % of the tumour in {case.label.name} lies outside the brain"
            severity = ERROR if outside > MOST_OUTSIDE else WARNING
            faults.append(Fault(case.identifier, case.label.name, problem, "check that it belongs to these images", severity))
    return classes, faults


def _facts(case: Case, grid: tuple | None, brain: np.ndarray | None, classes: np.ndarray | None) -> CaseFacts:
    if grid is None:
        return CaseFacts(case.identifier)
    _, shape, affine = grid
    ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    counts = np.zeros(4) if classes is None else np.bincount(classes.ravel(), minlength=4)
    volumes = {f"{region.lower()}_ml": float(counts[list(REGION_CLASSES[region])].sum() * ml) for region in REGIONS}
    return CaseFacts(
        case.identifier,
        shape=shape,
        spacing=tuple(float(edge) for edge in nib.affines.voxel_sizes(affine)),
        orientation="".join(nib.aff2axcodes(affine)),
        brain_ml=float(brain.sum() * ml) if brain is not None else 0.0,
        **volumes,
    )


def _from_error(case: Case, path: Path, error: DataError) -> Fault:
    """A fault from a sentence of `helpers.data.files`, whose last clause is the remedy."""
    problem, _, remedy = str(error).replace(str(path), path.name).rpartition("; ")
    return Fault(case.identifier, path.name, problem or remedy, remedy if problem else "look at the file")


def _row(check: CaseCheck) -> dict[str, object]:
    facts, faults = check.facts, check.faults
    return {
        "case": check.case.identifier,
        "status": "usable" if check.usable else "left out",
        "shape": " x ".join(map(str, facts.shape)),
        "mm": " x ".join(f"{edge:.3g}" for edge in facts.spacing),
        "axes": facts.orientation,
        "brain ml": round(facts.brain_ml),
        **{f"{region} ml": round(getattr(facts, f"{region.lower()}_ml"), 1) for region in REGIONS},
        "faults": len(faults),
        "first fault": f"{faults[0].severity}: {faults[0].problem}" if faults else "",
    }
