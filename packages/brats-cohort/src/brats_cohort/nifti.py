"""Read and write NIfTI files; whatever is wrong with one becomes a `DataError` that names the file and the remedy."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from isal import igzip, isal_zlib

from brats_cohort.files import DataError, without, write_atomically

with without("pydicom"):  # a tenth of what `predict` imports, for DICOM in the header extensions of NIfTI
    import nibabel as nib

from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what it says of headers would stand beside our answer

ENDINGS = (".nii.gz", ".nii")

LABEL_TOLERANCE = 1e-3
"""How far a stored label may lie from a whole number: scale factors turn 1 into 0.99999997."""

SMALLEST_MM, LARGEST_MM, WIDEST_MM = 0.05, 30.0, 1000.0
"""Edges that a voxel may have, and the widest field of view; beyond them the unit of the header is wrong."""

_AGAIN = "copy or download it again"
HEADERS = {size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big")}
"""First bytes of a NIfTI file, versions 1 and 2."""
_GEOMETRY = ("pixdim", "qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d",
             "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")  # fmt: skip
_CONVERSIONS = {
    (".dcm", ".ima"): "convert the DICOM series: dcm2niix -z y -o OUT FOLDER",
    (".npy", ".npz"): "an array has no grid: write it with nibabel.Nifti1Image(array, affine) and nibabel.save",
    (".mgz", ".mgh"): "convert it: mri_convert {name} {stem}.nii.gz",
    (".mha", ".mhd", ".nrrd", ".nhdr", ".img", ".hdr"): (
        "convert it: python -c \"import SimpleITK as s; s.WriteImage(s.ReadImage('{name}'), '{stem}.nii.gz')\""
    ),
    (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar"): "unpack it first",
    ("",): "convert it to .nii.gz first",
}
"""How to turn a file of another format into NIfTI, by the ending of its name."""


def conversion(path: Path) -> str:
    """Say how to turn a file of another format into NIfTI."""
    advice = next(advice for endings, advice in _CONVERSIONS.items() if path.name.lower().endswith(endings))
    return advice.format(name=path.name, stem=path.stem)


def open_volume(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file and read its header only; raises `DataError` like `read_volume`."""
    path = Path(path)
    _reject_what_is_not_nifti(path)
    try:
        image = nib.load(path)
    except (ImageFileError, HeaderDataError, EOFError, OSError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read as NIfTI ({_one_line(error)})", _AGAIN) from error
    if not isinstance(image, nib.Nifti1Image):
        raise DataError(f"{path} is {type(image).__name__}, not NIfTI", conversion(path))
    if len(image.shape) < 3:
        raise DataError(f"{path} has shape {image.shape}, one 3-D volume was expected", "give the whole volume")
    affine_in_mm(image, path)
    return image


def read_volume(path: Path, *, channel: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read one 3-D volume (X, Y, Z) and its affine from a ``.nii`` or ``.nii.gz`` file.

    `channel` says which volume to take from a 4-D file, counted from 0; without it the file must be 3-D. The volume has the
    file's own axes and data type, float32 if the header carries a scale factor. The affine, float64 (4, 4), leads from
    voxel indices to millimetres in RAS+, also if the header counts in metres or micrometres.

    Raises `DataError` if the file is missing, a Git LFS pointer, not NIfTI, truncated or of the wrong dimension, or if its
    voxels have no size that a scanner can give them.
    """
    (volume,), affine = read_volumes(path, (channel,))
    return volume, affine


def read_volumes(path: Path, channels: Sequence[int | None]) -> tuple[list[np.ndarray], np.ndarray]:
    """Read several volumes of a file that is read and decompressed once; otherwise as `read_volume`.

    A compressed file is decompressed to its end, because only there its checksum tells a damaged file from a right one; ISA-L
    does that about twice as fast as zlib, and compresses what `write_volume` writes many times as fast.
    """
    path = Path(path)
    kind = type(open_volume(path))
    try:
        content = path.read_bytes()
        image = kind.from_bytes(igzip.decompress(content) if path.suffix.lower() == ".gz" else content)
        volumes = [_read_data(image, channel, path) for channel in channels]
    except DataError:
        raise
    except (EOFError, OSError, isal_zlib.error, ValueError) as error:
        raise DataError(f"{path} is truncated or damaged ({_one_line(error)})", _AGAIN) from error
    return volumes, affine_in_mm(image, path)


def read_label_values(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map as integers in the file's own numbers, with its affine.

    Values within `LABEL_TOLERANCE` of a whole number are rounded (never truncated, which would turn 0.99999997 into 0).
    Raises `DataError` as `read_volume`, and if a value is not a whole number.
    """
    values, affine = read_volume(path)
    if values.dtype.kind in "iu":
        return values, affine
    if values.dtype.kind != "f":
        raise DataError(f"{path} holds {values.dtype}, not plain numbers", "export the label map as integers")
    rounded = np.rint(values)
    wrong = values[~np.isclose(values, rounded, rtol=0, atol=LABEL_TOLERANCE) | ~np.isfinite(values)]
    if wrong.size:
        problem = f"{path} is not a label map: {wrong.size} voxels are not whole numbers (such as {wrong[0]:.4g})"
        absent = "set what is not a number to 0, if it is background"
        raise DataError(problem, "resample label maps with nearest neighbour" if np.isfinite(wrong[0]) else absent)
    return rounded.clip(-(2**15), 2**15 - 1).astype(np.int16), affine


def write_volume(path: Path, volume: np.ndarray, affine: np.ndarray, *, like: nib.Nifti1Image | None = None) -> Path:
    """Write a volume (X, Y, Z) as NIfTI in its own data type, so that the file is either complete or absent.

    The affine leads to millimetres in RAS+. From `like`, an image in the same grid, sform, qform and unit are taken over
    instead, so that every viewer aligns the two files; nothing else of its header is, since descriptions and extensions may
    hold the patient's name. Raises `DataError` if NIfTI has no such data type, as for bool.
    """
    path = Path(path)
    try:
        image = nib.Nifti1Image(volume, affine if like is None else like.affine, dtype=volume.dtype)  # nibabel asks for 64 bits
    except HeaderDataError as error:
        raise DataError(f"{path} cannot hold {volume.dtype}, which NIfTI does not have", "write uint8 or float32") from error
    if like is None:
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=1)
    else:
        for field in _GEOMETRY:
            image.header[field] = like.header[field]
        image.header["pixdim"][4:] = 1
    if not int(image.header["xyzt_units"]) & 7:
        image.header.set_xyzt_units("mm")
    with write_atomically(path) as temporary:
        payload = image.to_bytes()
        temporary.write_bytes(igzip.compress(payload, compresslevel=1, mtime=0) if path.suffix.lower() == ".gz" else payload)
    return path


def forms_apart(path: Path) -> float:
    """How many voxels the sform and the qform of a file put a corner of its volume apart.

    It is 0 if the file has only one of them, and infinite if the qform holds no numbers or its quaternion is none.
    """
    image = open_volume(path)
    try:
        sform, qform = (form(coded=True)[0] for form in (image.get_sform, image.get_qform))
    except ValueError:
        return math.inf
    if sform is None or qform is None:
        return 0.0
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array(image.shape[:3]) - 1)
    apart = nib.affines.apply_affine(sform, corners) - nib.affines.apply_affine(qform, corners)
    distance = float(np.linalg.norm(apart, axis=1).max() / nib.affines.voxel_sizes(sform).min())
    return distance if math.isfinite(distance) else math.inf


def affine_in_mm(image: nib.Nifti1Image, path: Path) -> np.ndarray:
    """Affine of a file in millimetres; `DataError` if its voxels have no size that a scanner can give them."""
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) == 0:
        raise DataError(f"{path} has an affine that gives its voxels no size", "write the header's sform or qform again")
    factor = {1: 1e3, 3: 1e-3}.get(int(image.header["xyzt_units"]) & 7, 1.0)  # NIfTI: 1 metre, 2 mm, 3 micrometre
    for scale in (factor, 1.0):  # some tools name a unit and then write millimetres
        found = np.diag([scale, scale, scale, 1.0]) @ affine
        edges = nib.affines.voxel_sizes(found)
        if edges.min() >= SMALLEST_MM and edges.max() <= LARGEST_MM and (edges * image.shape[:3]).max() <= WIDEST_MM:
            return found
    size = " x ".join(f"{edge:.3g}" for edge in nib.affines.voxel_sizes(affine) * factor)
    counts = " x ".join(str(count) for count in image.shape[:3])
    problem = f"{path} has {counts} voxels of {size} mm, which no scan of a head has"
    raise DataError(problem, "set the spacing in millimetres and xyzt_units to mm")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _reject_what_is_not_nifti(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file", "give the NIfTI file in it")
    if not path.is_file():
        raise DataError(f"{path} does not exist", "check the folder and the file's name")
    try:
        with path.open("rb") as stream:
            start = stream.read(512)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", "check the file's permissions") from error
    gzipped, name = start.startswith(b"\x1f\x8b"), path.name.lower()
    lfs = start.startswith(b"version https://git-lfs")
    unzipped, header = name.endswith(".gz") and not gzipped, start[:4] in HEADERS
    for wrong, problem, remedy in (
        (not start, "is empty", _AGAIN),
        (lfs, "is a Git LFS pointer, not the image", "run `git lfs pull` where it came from"),
        (not name.endswith(ENDINGS), "is not a NIfTI file by its name", conversion(path)),
        (unzipped and header, "is named .gz but is not gzip-compressed", "rename it to .nii"),
        (unzipped, f"is no image: it begins with {start[:9].decode('ascii', 'replace')!r}", _AGAIN),
        (
            gzipped and _first_bytes(start) == b"\x1f\x8b",
            "is gzip-compressed twice",
            f"decompress it once: gunzip -S .gz {path.name}",
        ),
        (name.endswith(".nii") and gzipped, "is gzip-compressed", f"rename it to {path.name}.gz"),
    ):
        if wrong:
            raise DataError(f"{path} {problem}", remedy)


def _first_bytes(compressed: bytes) -> bytes:
    """The first two bytes that a gzip file holds; empty if it is damaged."""
    try:
        return zlib.decompressobj(31).decompress(compressed, 2)
    except zlib.error:
        return b""


def _read_data(image: nib.Nifti1Image, channel: int | None, path: Path) -> np.ndarray:
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1 and channel is None:
        shape = shape[:-1]
    if channel is None and len(shape) != 3:
        problem = f"{path} has shape {image.shape}, one 3-D volume was expected"
        raise DataError(problem, "write each volume to a file of its own, or choose the right dataset format")
    if channel is not None and (len(image.shape) != 4 or channel >= image.shape[3]):
        problem = f"{path} has shape {image.shape}, four 3-D volumes stacked as (X, Y, Z, 4) were expected"
        raise DataError(problem, "compare the file with dataset.json")
    proxy = image.dataobj
    plain = proxy.slope == 1 and proxy.inter == 0
    if channel is not None:
        data = proxy[..., channel]
    else:
        data = (proxy.get_unscaled() if plain else np.asarray(proxy, dtype=np.float32)).reshape(shape)
    if not plain:
        data = np.asarray(data, dtype=np.float32)
    return data.astype(data.dtype.newbyteorder("="), copy=False)
