"""Between NIfTI (nibabel, millimetres in RAS) and SimpleITK (millimetres in LPS): the same voxels at the same place."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from scan_session.errors import SessionError

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns millimetres in RAS into LPS and back."""
SHEAR = 0.02
"""How far the axes of a grid may be from perpendicular: rounded headers are, tilted stacks are further."""


DAMAGED_NIFTI = (OSError, EOFError, TypeError, ValueError, zlib.error, nib.filebasedimages.ImageFileError,
                 nib.spatialimages.HeaderDataError)  # fmt: skip
"""What nibabel raises for a file that was cut off, changed, or holds something else than numbers."""


def image_of(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """Make a SimpleITK image of an array (X, Y, Z) and its affine (voxel to RAS mm)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    return _place(image, affine)


def empty_grid(shape: Sequence[int], affine: np.ndarray) -> sitk.Image:
    """Make an image of zeros on a grid."""
    return _place(sitk.Image([int(length) for length in shape], sitk.sitkUInt8), affine)


def affine_of(image: sitk.Image) -> np.ndarray:
    """Affine of a SimpleITK image, from voxel to RAS mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS @ affine


def array_of(image: sitk.Image) -> np.ndarray:
    """Voxels of a SimpleITK image as an array (X, Y, Z)."""
    return sitk.GetArrayFromImage(image).T


def matrix_of(transform: sitk.Transform) -> np.ndarray:
    """A rigid transform as a matrix (4, 4) between RAS millimetres."""
    corners = np.vstack([np.zeros(3), np.eye(3)])
    moved = np.array([transform.TransformPoint(point) for point in corners.tolist()])
    matrix = np.eye(4)
    matrix[:3, :3] = (moved[1:] - moved[0]).T
    matrix[:3, 3] = moved[0]
    return LPS @ matrix @ LPS


def transform_of(matrix: np.ndarray) -> sitk.AffineTransform:
    """The inverse of `matrix_of`."""
    lps = LPS @ np.asarray(matrix, dtype=float) @ LPS
    return sitk.AffineTransform(lps[:3, :3].ravel().tolist(), lps[:3, 3].tolist())


def read_nifti(path: Path) -> sitk.Image:
    """Read one 3-D NIfTI file as float32; raises `SessionError` if it is damaged, 4-D, or has no grid.

    A compressed file is decompressed to its end, because only there its checksum tells a damaged file from a right one.
    """
    try:
        kind, content = type(nib.load(path)), path.read_bytes()
        file = kind.from_bytes(gzip.decompress(content) if path.suffix.lower() == ".gz" else content)
        if file.ndim > 3 and set(file.shape[3:]) == {1}:
            file = file.slicer[(..., *[0] * (file.ndim - 3))]
        if file.ndim != 3:
            raise SessionError(f"{path.name} has shape {file.shape}, not three dimensions", "give one volume a file")
        if file.get_data_dtype().kind not in "iuf":
            raise SessionError(f"{path.name} holds {file.get_data_dtype()}, not plain numbers", "export one grey value a voxel")
        array = np.nan_to_num(file.get_fdata(dtype=np.float32), posinf=0, neginf=0)
    except DAMAGED_NIFTI as error:
        if isinstance(error, SessionError):
            raise
        reason = " ".join(str(error).replace(str(path), path.name).split())
        raise SessionError(f"{path.name} cannot be read ({reason})", "copy or export it again") from error
    try:
        return image_of(array, file.affine)
    except SessionError as error:
        raise SessionError(f"{path.name} {error.problem}", error.remedy) from error


def write_nifti(path: Path, image: sitk.Image, affine: np.ndarray | None = None) -> Path:
    """Write an image with nothing in its header but the grid, which `affine` gives to the last digit if it is known."""
    affine = affine_of(image) if affine is None else affine
    file = nib.Nifti1Image(array_of(image), affine)
    file.set_sform(affine, code=1)
    file.set_qform(affine, code=1)
    file.header.set_xyzt_units("mm")
    with whole_file(path) as temporary:
        nib.save(file, temporary)
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a name to write to, which becomes `path` at the end; if writing fails, nothing is left and `path` is as before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _place(image: sitk.Image, affine: np.ndarray) -> sitk.Image:
    lps = LPS @ np.asarray(affine, dtype=float)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    if not np.isfinite(lps).all() or spacing.min() < 0.05 or spacing.max() > 30:
        raise SessionError("has voxels without a plausible size", "export it again with its geometry")
    left, _, right = np.linalg.svd(lps[:3, :3] / spacing)
    direction = left @ right  # the nearest perpendicular axes: ITK takes no others
    if np.abs(direction - lps[:3, :3] / spacing).max() > SHEAR:
        raise SessionError("has axes that are not perpendicular", "resample it to a straight grid first")
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(direction.ravel().tolist())
    return image
