"""From the body of a request to the four volumes of a case, whatever form they were sent in.

``application/x-npz`` holds the arrays t1, t1ce, t2, flair and affine; ``application/x-tar``, ``application/gzip`` and
``application/zip`` an archive of four NIfTI files named by modality as in `helpers.data.cases`, or plainly ``t1.nii.gz``;
``application/json`` an object from modality to S3 location. Every such decoder ends in the same checks and the same arrays.
``image/tiff`` is a single slice, see `helpers.cloud.slices`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import nibabel as nib
import numpy as np

from helpers.cloud.answers import TIFF
from helpers.cloud.archives import (
    DAMAGED,
    ENDINGS,
    Budget,
    open_zip,
    place,
    unpack_tar,
    unpack_zip,
)
from helpers.cloud.limits import (
    MB,
    BadRequest,
    Limits,
    check_values,
    check_volume,
)
from helpers.cloud.slices import read_tiff
from helpers.data.cases import Case, DataError, discover, open_volume, read_image
from helpers.regions import MODALITIES

HEADER = 1024
"""Characters of a .npy header: those of a plain array have about 120."""


@dataclass(frozen=True, eq=False)
class Volumes:
    """What a request asks to be segmented.

    Attributes
    ----------
    identifier : str
        Name of the case, for the errors.
    image : array (4, X, Y, Z)
        Finite, in the order of `helpers.regions.MODALITIES`.
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+.
    like : Nifti1Image or None
        Header of the first image file, where there is one; its voxels are gone.
    """

    identifier: str
    image: np.ndarray
    affine: np.ndarray
    like: nib.Nifti1Image | None = None


Decoder = Callable[[BinaryIO, Path, Limits], object]
"""Takes a body, an empty folder that is removed afterwards, and the limits."""


def decode(stream: BinaryIO, content_type: str, limits: Limits) -> object:
    """Decode a request; the folder that it is unpacked in is gone when this returns.

    Parameters
    ----------
    stream : binary file
        The body, seekable.
    content_type : str
        A key of `DECODERS`; parameters such as a charset are ignored.
    limits : Limits

    Returns
    -------
    Volumes
        Or what a decoder that was added to `DECODERS` returns.

    Raises
    ------
    BadRequest
        With status 415, 413, 400 or 422.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in DECODERS:
        raise BadRequest(415, f"the content type is {kind[:80]!a}; send one of {', '.join(DECODERS)}")
    if not stream.seek(0, 2):
        raise BadRequest(400, "the request has no body; send the four volumes of one case")
    stream.seek(0)
    with tempfile.TemporaryDirectory(prefix="request-") as name:
        folder = Path(name)
        try:
            return DECODERS[kind](stream, folder, limits)
        except BadRequest:
            raise
        except DataError as error:
            raise BadRequest(422, _without(folder, str(error))) from error
        except DAMAGED as error:
            reason = _without(folder, " ".join(str(error).split())[:200] or type(error).__name__)
            raise BadRequest(400, f"the body cannot be read as {kind} ({reason}); send it again") from error


def read_npz(stream: BinaryIO, folder: Path, limits: Limits) -> Volumes:
    """Volumes from an npz file; every header is checked before an array is made, and pickles are never opened."""
    arrays = {}
    with open_zip(stream, limits) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        missing = [name for name in (*MODALITIES, "affine") if name not in members]
        if missing:
            raise BadRequest(422, f"the npz has no array {' and no '.join(missing)}; send {', '.join(MODALITIES)} and affine")
        for name in (*MODALITIES, "affine"):
            with archive.open(members[name]) as member:
                arrays[name] = _read_array(member, name, members[name].file_size, limits)
    affine = arrays.pop("affine").astype(np.float64)
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise BadRequest(422, f"the volumes differ in shape ({shapes}); resample them to one grid")
    return Volumes("(npz)", np.stack([arrays[name] for name in MODALITIES]), affine)


def read_zip(stream: BinaryIO, folder: Path, limits: Limits) -> Volumes:
    """Volumes from a zip archive of NIfTI files."""
    unpack_zip(stream, folder, limits)
    return read_folder(folder, limits)


def read_tar(stream: BinaryIO, folder: Path, limits: Limits) -> Volumes:
    """Volumes from a tar archive of NIfTI files, gzip-compressed or not."""
    unpack_tar(stream, folder, limits)
    return read_folder(folder, limits)


def read_locations(stream: BinaryIO, folder: Path, limits: Limits) -> Volumes:
    """Volumes from NIfTI files in S3, read with the permissions of this process."""
    if stream.seek(0, 2) > MB:
        raise BadRequest(413, "the JSON is larger than 1 MB; it holds four locations")
    stream.seek(0)
    try:
        locations = json.loads(stream.read())
    except RecursionError as error:
        raise BadRequest(400, "the JSON is nested too deeply; it holds four locations") from error
    if not isinstance(locations, Mapping) or not all(isinstance(locations.get(name), str) for name in MODALITIES):
        raise BadRequest(422, 'the JSON must be {"t1": "s3://bucket/key", ...} with all of ' + ", ".join(MODALITIES))
    budget = Budget(limits)
    for modality in MODALITIES:
        _download(locations[modality], modality, folder, budget)
    return read_folder(folder, limits)


def read_folder(folder: Path, limits: Limits) -> Volumes:
    """The one case in a folder of unpacked NIfTI files, each checked by its header before its voxels are read."""
    if not any(folder.iterdir()):
        raise BadRequest(
            422, f"the request holds no NIfTI file; send four, such as {', '.join(f'{m}.nii.gz' for m in MODALITIES)}"
        )
    cases = discover(folder)
    if len(cases) > 1:
        names = ", ".join(case.identifier for case in cases[:4])
        raise BadRequest(422, f"the request holds {len(cases)} cases ({names}); send one")
    case = cases[0]
    for path in case.channels:
        _check_header(path, limits)
    image, affine = read_image(case)
    for modality, volume in zip(MODALITIES, image, strict=True):
        check_values(f"{case.identifier}, {modality},", volume)
    return Volumes(case.identifier, image, affine, open_volume(_first(case)))


DECODERS: dict[str, Decoder] = {
    "application/x-npz": read_npz,
    "application/zip": read_zip,
    "application/x-tar": read_tar,
    "application/gzip": read_tar,
    "application/json": read_locations,
    TIFF: read_tiff,
}
"""Content types and how they are read. Another kind of request is one more entry here and one more type registered with
`helpers.cloud.handler.predict_fn`."""


def _check_header(path: Path, limits: Limits) -> None:
    """nibabel takes the memory that a header asks for before it looks at how much there is."""
    image = open_volume(path)
    shape = tuple(int(edge) for edge in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    dtype = image.get_data_dtype()
    check_volume(path.name, dtype, shape, limits)
    offset, size = int(image.dataobj.offset), path.stat().st_size
    if offset < 0 or offset + int(np.prod(shape)) * dtype.itemsize > size:
        raise BadRequest(422, f"{path.name} is shorter than its header says ({size} bytes); copy or send it again")


def _first(case: Case) -> Path:
    return case.images[MODALITIES[0]].path


def _read_array(member: BinaryIO, name: str, size: int, limits: Limits) -> np.ndarray:
    version = np.lib.format.read_magic(member)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise BadRequest(400, f"the array {name} is in version {version} of the npy format; save it with numpy.savez")
    shape, fortran, dtype = readers[version](member, max_header_size=HEADER)
    if dtype.hasobject:
        raise BadRequest(400, f"the array {name} holds Python objects, which can run code and are never opened; send numbers")
    if name == "affine":
        if shape != (4, 4) or dtype.kind not in "iuf" or dtype.itemsize > 8:
            raise BadRequest(422, f"the affine is {dtype} of shape {shape}; send 4 x 4 numbers")
    else:
        check_volume(f"the volume {name}", dtype, shape, limits)
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size < count:
        raise BadRequest(422, f"the array {name} is shorter than its header says; save and send it again")
    content = member.read(count)
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    array = array.astype(dtype.newbyteorder("="), copy=False)
    check_values(f"the volume {name}" if name != "affine" else "the affine", array)
    return array


def _download(location: str, modality: str, folder: Path, budget: Budget) -> None:
    """Copy one object to ``case_<modality>.nii``; whatever S3 refuses is the caller's to put right."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = location.removeprefix("s3://").partition("/")
    ending = next((ending for ending in reversed(ENDINGS) if key.endswith(ending)), None)
    if not location.startswith("s3://") or not bucket or not ending or PurePosixPath(key).is_absolute():
        raise BadRequest(422, f"{modality} is {location[:200]!a}; give s3://bucket/key of a .nii or .nii.gz file")
    try:
        answer = boto3.client("s3").get_object(Bucket=bucket, Key=key)
        if answer["ContentLength"] > budget.left:
            raise BadRequest(413, f"{location} has {answer['ContentLength'] // MB} MB, more than the request may have")
        place(f"{modality}{ending}", answer["Body"], folder, budget)
    except (BotoCoreError, ClientError) as error:
        reason = error.response["Error"].get("Code", "") if isinstance(error, ClientError) else type(error).__name__
        raise BadRequest(422, f"{location[:200]!a} cannot be read ({reason}); check the name and the permissions") from error


def _without(folder: Path, sentence: str) -> str:
    """The sentence without the folder, which means nothing to the caller."""
    return sentence.replace(f"{folder}/", "").replace(str(folder), "the request")
