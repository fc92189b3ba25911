"""Reading and writing NIfTI files, with errors that say what is wrong with the file and what to do."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

LABEL_TOLERANCE = 1e-3
"""How far a stored label may lie from a whole number: scale factors turn 1 into 0.99999997."""


class DataError(ValueError):
    """Something is wrong with a file or a case; the message is one sentence with the file and the remedy."""


def read_volume(path: Path, *, channel: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read one 3-D volume from a NIfTI file.

    Parameters
    ----------
    path : Path
        A ``.nii`` or ``.nii.gz`` file.
    channel : int, optional
        Which volume to take from a 4-D file, counted from 0. Without it the file must be 3-D.

    Returns
    -------
    volume : array (X, Y, Z)
        In the file's own axes and number type; float32 where the header carries a scale factor.
    affine : float64 array (4, 4)
        From voxel indices to millimetres in RAS+.

    Raises
    ------
    DataError
        If the file is missing, a Git LFS pointer, not NIfTI, truncated or of the wrong dimension.
    """
    (volume,), affine = read_volumes(path, (channel,))
    return volume, affine


def read_volumes(path: Path, channels: Sequence[int | None]) -> tuple[list[np.ndarray], np.ndarray]:
    """Read several volumes of a file that is read and decompressed once; else as `read_volume`.

    A compressed file is decompressed to its end, because only there its checksum tells a damaged file from a right one; ISA-L
    does that about twice as fast as zlib, and compresses what `write_volume` writes many times as fast.
    """
    path = Path(path)
    kind = type(open_volume(path))
    try:
        content = path.read_bytes()
        image = kind.from_bytes(igzip.decompress(content) if path.suffix == ".gz" else content)
        volumes = [_read_data(image, channel, path) for channel in channels]
    except (EOFError, OSError, isal_zlib.error, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is truncated or damaged ({_one_line(error)}); copy or download it again") from error
    return volumes, np.asarray(image.affine, dtype=np.float64)


def open_volume(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file and read its header only; raises `DataError` like `read_volume`."""
    path = Path(path)
    _reject_what_is_not_nifti(path)
    try:
        image = nib.load(path)
    except (ImageFileError, HeaderDataError, EOFError, OSError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read as NIfTI ({_one_line(error)}); copy or download it again") from error
    if not isinstance(image, nib.Nifti1Image):
        raise DataError(f"{path} is {type(image).__name__}, not NIfTI; convert it to .nii.gz first")
    return image


def read_label_values(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map as integers in the file's own numbers, with its affine.

    Values within `LABEL_TOLERANCE` of a whole number are rounded (never truncated, which would turn 0.99999997 into 0).

    Raises
    ------
    DataError
        As `read_volume`, and if a value is not a whole number.
    """
    values, affine = read_volume(path)
    if values.dtype.kind in "iu":
        return values, affine
    rounded = np.rint(values)
    wrong = ~np.isclose(values, rounded, rtol=0, atol=LABEL_TOLERANCE) | ~np.isfinite(values)
    if wrong.any():
        example = values[wrong].flat[0]
        raise DataError(
            f"{path} is not a label map: {int(wrong.sum())} voxels are not whole numbers (such as {example:.4g}); "
            "resample label maps with nearest neighbour"
        )
    return rounded.astype(np.int16), affine


def write_volume(path: Path, volume: np.ndarray, affine: np.ndarray, *, like: nib.Nifti1Image | None = None) -> Path:
    """Write a 3-D volume as NIfTI so that the file is either complete or absent.

    Parameters
    ----------
    path : Path
        Target, ``.nii`` or ``.nii.gz``; folders are made.
    volume : array (X, Y, Z)
        Written in its own number type, without scaling.
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+.
    like : Nifti1Image, optional
        An image in the same grid whose header (units, qform and sform codes) is taken over, so that other viewers
        align the two files.
    """
    path = Path(path)
    header = like.header.copy() if like is not None else None
    image = nib.Nifti1Image(volume, affine, header)
    image.set_data_dtype(volume.dtype)
    image.header.set_slope_inter(1, 0)
    image.header.set_xyzt_units("mm")
    if like is None:
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        payload = image.to_bytes()
        temporary.write_bytes(igzip.compress(payload, compresslevel=1, mtime=0) if path.suffix == ".gz" else payload)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _reject_what_is_not_nifti(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} does not exist; check the folder and the file's name")
    with path.open("rb") as stream:
        start = stream.read(40)
    if not start:
        raise DataError(f"{path} is empty; copy or download it again")
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{path} is a Git LFS pointer, not the image; run `git lfs pull` where it came from")
    gzipped = start.startswith(b"\x1f\x8b")
    if path.suffix == ".gz" and not gzipped:
        raise DataError(f"{path} is named .gz but is not gzip-compressed; rename it to .nii or download it again")
    if path.suffix == ".nii" and gzipped:
        raise DataError(f"{path} is gzip-compressed; rename it to {path.name}.gz")


def _read_data(image: nib.Nifti1Image, channel: int | None, path: Path) -> np.ndarray:
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1 and channel is None:
        shape = shape[:-1]
    if channel is None and len(shape) != 3:
        raise DataError(f"{path} has shape {image.shape}, one 3-D volume was expected; split it or choose the right layout")
    if channel is not None and (len(image.shape) != 4 or channel >= image.shape[3]):
        raise DataError(f"{path} has shape {image.shape}, four 3-D volumes stacked as (X, Y, Z, 4) were expected")
    proxy = image.dataobj
    plain = proxy.slope == 1 and proxy.inter == 0
    if channel is not None:
        data = proxy[..., channel]
    else:
        data = (proxy.get_unscaled() if plain else np.asarray(proxy, dtype=np.float32)).reshape(shape)
    if not plain:
        data = np.asarray(data, dtype=np.float32)
    return data.astype(data.dtype.newbyteorder("="), copy=False)
