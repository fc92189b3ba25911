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


def to_native(label_map: Path | sitk.Image, session: Session, modality: str) -> sitk.Image:
    """Move a label map from the case to the grid of one series, each label by linear interpolation and the largest share."""
    if modality not in session.grids:
        raise SessionError(f"the session has no {modality}", f"choose one of {', '.join(session.grids)}")
    labels = read_nifti(Path(label_map)) if isinstance(label_map, (str, Path)) else label_map
    back = transform_of(np.linalg.inv(session.matrices[modality]))
    return sitk.Resample(sitk.Cast(labels, sitk.sitkUInt8), empty_grid(*session.grids[modality]), back, sitk.sitkLabelLinear, 0)


def write_native(path: Path, label_map: Path | sitk.Image, session: Session, modality: str) -> Path:
    """Write what `to_native` gives, with the affine of the series to the last digit."""
    return write_nifti(Path(path), to_native(label_map, session, modality), session.grids[modality][1])


def volumes(label_map: Path | sitk.Image) -> dict[str, float]:
    """Volumes of TC, WT and ET in ml."""
    labels = read_nifti(Path(label_map)) if isinstance(label_map, (str, Path)) else label_map
    values, voxel = array_of(labels), float(np.prod(labels.GetSpacing())) / 1000
    return {name: round(float(np.isin(values, numbers).sum()) * voxel, 3) for name, numbers in REGIONS.items()}
