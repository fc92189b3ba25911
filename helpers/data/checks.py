"""What is wrong with the files of a cohort: every file of every case is opened before anything is trained on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import joblib
import nibabel as nib
import numpy as np
import pandas as pd
from scipy.stats import skew
from tqdm.auto import tqdm

from helpers.data.cases import Case, convention_of, read_label_values, read_volumes, same_affine
from helpers.regions import (
    MODALITIES,
    MODALITY_NAMES,
    REGION_CLASSES,
    REGIONS,
    to_classes,
)
from helpers.workspace import DataError

SAMPLE, FEWEST = 200_000, 10_000
"""Brain voxels that are looked at (more change nothing), and below which nothing can be said."""


def suspicions(image: Sequence[np.ndarray]) -> list[str]:
    """Sentences on modalities that seem exchanged; empty where everything looks right.

    Parameters
    ----------
    image : array (4, X, Y, Z) or four arrays (X, Y, Z)
        In the order of `helpers.regions.MODALITIES`, 0 outside the brain.
    """
    flat = [volume.ravel(order="F") for volume in image]  # files lie in memory in this order, so nothing is copied
    voxels = np.flatnonzero(np.logical_and.reduce(flat))
    if voxels.size < FEWEST:
        return []
    voxels = voxels[:: max(1, voxels.size // SAMPLE)]
    values = np.stack([volume[voxels] for volume in flat]).astype(np.float32)
    spread = values.std(axis=1, keepdims=True)
    if not (spread > 0).all():
        return []
    t1, t1ce, t2, flair = (values - values.mean(axis=1, keepdims=True)) / spread
    found = []
    if np.mean(t1 * t1ce) < np.mean(t1 * t2) - 0.2:
        found.append("T1ce and T2 seem exchanged: T1 resembles the file named T2 more than the one named T1ce")
    elif skew(t1) > skew(t2):
        found.append("T1 and T2 seem exchanged: fluid is brighter on the file named T1")
    elif skew(t1ce - t1) < -0.1:
        found.append("T1 and T1ce seem exchanged: contrast agent shows on the file named T1")
    elif np.percentile(flair[t2 >= np.percentile(t2, 98)], 10) > -0.5:
        found.append("T2 and FLAIR seem exchanged: nothing that is brightest on T2 is dark on FLAIR")
    return found


ERROR, WARNING = "error", "warning"

FEW_OUTSIDE, MOST_OUTSIDE = 0.01, 0.5
"""Share of the tumour outside the brain above which there is a warning, and an error."""

NEARLY_BLANK = 0.01
"""A modality with signal in less than this share of the brain is blank but for a few voxels."""

Grid = tuple[str, tuple[int, ...], np.ndarray]
"""Name of the file that sets the grid of a case, its shape and its affine."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: with which file of which case, and what to do.

    Attributes
    ----------
    case, file : str
        Identifier, and the file's name; empty where the fault is not in one file.
    problem, remedy : str
        Half a sentence each.
    severity : str
        "error" where the case cannot be used, "warning" where it can.
    """

    case: str
    file: str
    problem: str
    remedy: str
    severity: str = ERROR

    def __str__(self) -> str:
        return f"{self.case}: {self.problem}; {self.remedy}"


def from_error(case: Case, path: Path, error: DataError) -> Fault:
    """A fault from an error of `helpers.data.cases`."""
    return Fault(case.identifier, path.name, error.problem.replace(str(path), path.name), error.remedy)


def missing_faults(case: Case) -> Iterator[Fault]:
    """One fault for each modality without a file."""
    for modality in case.missing:
        yield Fault(case.identifier, "", f"{MODALITY_NAMES[modality]} is missing", "leave the case out or add the file")


def content_faults(case: Case, path: Path, modality: str, volume: np.ndarray) -> Iterator[Fault]:
    """Values that are not numbers, and a volume that holds one value only."""
    name = f"{path.name} ({MODALITY_NAMES.get(modality, modality)})"
    wrong = int(np.count_nonzero(~np.isfinite(volume))) if volume.dtype.kind in "fc" else 0
    if volume.dtype.kind not in "iuf":
        yield Fault(
            case.identifier, path.name, f"{name} holds {volume.dtype}, not plain numbers", "export it as one grey value a voxel"
        )
    elif wrong:
        yield Fault(case.identifier, path.name, f"{name} has {wrong} voxels that are not numbers", "export the image again")
    elif volume.min() == volume.max():
        yield Fault(case.identifier, path.name, f"{name} is blank: every voxel is {volume.flat[0]}", "export the image again")


def grid_faults(case: Case, path: Path, shape: tuple[int, ...], affine: np.ndarray, grid: Grid) -> Iterator[Fault]:
    """Another shape or affine than the first file of the case has, or an affine that maps voxels nowhere."""
    first, first_shape, first_affine = grid
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        problem = f"{path.name} has an affine that gives its voxels no size"
        yield Fault(case.identifier, path.name, problem, "write the header's sform or qform again")
    elif shape != first_shape:
        problem = f"{path.name} has shape {shape}, {first} has {first_shape}"
        yield Fault(case.identifier, path.name, problem, "resample one to the other's grid")
    elif not same_affine(affine, first_affine):
        problem = f"{path.name} has another affine than {first}, so their voxels lie elsewhere in the head"
        yield Fault(case.identifier, path.name, problem, "register the images to each other")


def set_faults(case: Case, volumes: Mapping[str, np.ndarray], brain: np.ndarray) -> Iterator[Fault]:
    """What only shows when the modalities, all in one grid, are compared: one image twice, or almost nothing in one."""
    signal = np.count_nonzero(brain)
    for modality, volume in volumes.items():
        share = np.count_nonzero(volume) / max(signal, 1)
        if 0 < share < NEARLY_BLANK:
            path = case.images[modality].path
            problem = f"{path.name} ({MODALITY_NAMES[modality]}) is nearly blank: signal in {100 * share:.2g} % of the brain"
            yield Fault(case.identifier, path.name, problem, "export the image again")
    for first, second in itertools.combinations(volumes, 2):
        if _same(volumes[first], volumes[second]):
            problem = f"{MODALITY_NAMES[first]} and {MODALITY_NAMES[second]} hold the same image"
            yield Fault(case.identifier, case.images[second].path.name, problem, "find the right file for one of them")


def contrast_faults(case: Case, volumes: Mapping[str, np.ndarray]) -> Iterator[Fault]:
    """Warnings where two modalities seem exchanged."""
    for sentence in suspicions([volumes[modality] for modality in MODALITIES]):
        yield Fault(case.identifier, "", sentence, "look at the four images and rename the files", WARNING)


def tumour_faults(case: Case, tumour: np.ndarray, brain: np.ndarray | None) -> Iterator[Fault]:
    """A reference without tumour, or with tumour where no modality has signal."""
    name = case.label.name
    count = np.count_nonzero(tumour)
    if count == 0:
        problem = f"{name} marks no tumour: every voxel is background"
        yield Fault(case.identifier, name, problem, "make sure that is meant", WARNING)
    elif brain is not None and brain.shape == tumour.shape:
        outside = 1 - np.count_nonzero(tumour & brain) / count
        if outside > FEW_OUTSIDE:
            problem = f"{100 * outside:.0f} % of the tumour in {name} lies outside the brain"
            severity = ERROR if outside > MOST_OUTSIDE else WARNING
            yield Fault(case.identifier, name, problem, "check that it belongs to these images", severity)


def brain_of(volumes: Sequence[np.ndarray]) -> np.ndarray | None:
    """Voxels in which any modality has signal, bool (X, Y, Z); None without a volume."""
    brain = None
    for volume in volumes:
        brain = volume != 0 if brain is None else np.logical_or(brain, volume, out=brain)
    return brain


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two volumes hold equal values; a coarse grid of them tells most pairs apart at once."""
    coarse = (slice(None, None, 8),) * 3
    return np.array_equal(first[coarse], second[coarse]) and np.array_equal(first, second)


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
        As `helpers.data.cases.discover` finds them.
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
