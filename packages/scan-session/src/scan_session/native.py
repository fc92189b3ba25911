"""Bring a label map back to the grid of a series, and measure it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from scan_session.errors import SessionError
from scan_session.grid import array_of, empty_grid, read_nifti, transform_of, write_nifti
from scan_session.session import Session

REGIONS = {"TC": (1, 3, 4), "WT": (1, 2, 3, 4), "ET": (3, 4)}
"""Labels of BraTS in each region: 1 necrotic and non-enhancing core, 2 oedema, 3 (or, before 2023, 4) enhancing tumour."""
MOST_OUTSIDE = 0.5
"""Share of a tumour that may lie outside the brain."""


def to_native(label_map: Path | sitk.Image, session: Session, modality: str) -> sitk.Image:
    """Move a label map from the case to the grid of one series, each label by linear interpolation and the largest share.

    Raises `SessionError` if the session has no such series, or the label map holds other numbers than those of BraTS or lies
    outside the brain.
    """
    if modality not in session.grids:
        raise SessionError(f"the session has no {modality}", f"choose one of {', '.join(session.grids)}")
    labels = whole_numbers(label_map)
    _check_place(labels, session)
    back = transform_of(np.linalg.inv(session.matrices[modality]))
    return sitk.Resample(labels, empty_grid(*session.grids[modality]), back, sitk.sitkLabelLinear, 0)


def _check_place(labels: sitk.Image, session: Session) -> None:
    """Refuse a label map that lies outside the brain of the case, as one with the affine of another image does."""
    tumour = array_of(labels) > 0
    if not tumour.any() or not session.mask.is_file():
        return
    brain = sitk.Resample(read_nifti(session.mask), labels, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    outside = (array_of(brain)[tumour] == 0).mean()
    if outside > MOST_OUTSIDE:
        problem = f"{100 * outside:.0f} % of the tumour in the label map lies outside the brain of {session.name}"
        raise SessionError(problem, "write it with the affine of the images that the model was given")


def whole_numbers(label_map: Path | sitk.Image) -> sitk.Image:
    """A label map as uint8; numbers that BraTS does not have would otherwise be lost or counted as another tissue."""
    image = read_nifti(Path(label_map)) if isinstance(label_map, (str, Path)) else label_map
    values = sitk.GetArrayViewFromImage(image)
    rounded = np.rint(values)  # scale factors of a file turn 1 into 0.99999997
    wrong = values[(np.abs(values - rounded) > 1e-3) | ~np.isin(rounded, range(5))]
    if wrong.size:
        problem = f"the label map holds {wrong[0]:g}, and labels of BraTS are 0 to 4"
        raise SessionError(problem, "write class numbers, 1 core, 2 oedema, 3 or 4 enhancing tumour")
    if (rounded == 3).any() and (rounded == 4).any():
        problem = "the label map holds both 3 and 4, either of which stands for enhancing tumour"
        raise SessionError(problem, "write one of them, and 0 for a resection cavity")
    labels = sitk.GetImageFromArray(rounded.astype(np.uint8))
    labels.CopyInformation(image)
    return labels


def write_native(path: Path, label_map: Path | sitk.Image, session: Session, modality: str) -> Path:
    """Write what `to_native` gives, with the affine of the series to the last digit."""
    return write_nifti(Path(path), to_native(label_map, session, modality), session.grids[modality][1])


def volumes(label_map: Path | sitk.Image) -> dict[str, float]:
    """Volumes of TC, WT and ET in ml; raises `SessionError` if the label map holds other numbers than those of BraTS."""
    labels = whole_numbers(label_map)
    values, voxel = array_of(labels), float(np.prod(labels.GetSpacing())) / 1000
    return {name: round(float(np.isin(values, numbers).sum()) * voxel, 3) for name, numbers in REGIONS.items()}
