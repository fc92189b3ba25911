"""What can be wrong with one volume of a case, and with its grid against the others; a sentence and a remedy for each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.data.contrasts import suspicions
from helpers.data.files import DataError
from helpers.data.layouts import Case
from helpers.data.reading import same_affine
from helpers.regions import MODALITIES, MODALITY_NAMES

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
    """A fault from a sentence of `helpers.data.files`, whose last clause is the remedy."""
    problem, _, remedy = str(error).replace(str(path), path.name).rpartition("; ")
    return Fault(case.identifier, path.name, problem or remedy, remedy if problem else "look at the file")


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
