"""Decode a request: from its body to the four volumes of one case. Nothing in it is trusted.

A body is an archive (zip, tar or tar.gz) of four NIfTI files, or an npz file with the arrays t1, t1ce, t2, flair and affine.
The usual ways to do harm with an archive are refused: paths out of the folder, links and devices, sparse files and other
bombs, a table of contents larger than the contents, compression with dictionaries of gigabytes. Nothing is unpickled.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import struct
import tarfile
import tempfile
import tokenize
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np

from helpers.data.cases import discover
from helpers.data.checks import Session, check_session, read_session
from helpers.data.nifti import open_volume
from helpers.data.resample import spacing_of
from helpers.regions import MODALITIES
from helpers.workspace import DataError

MB = 1024 * 1024
GZIP = b"\x1f\x8b"
ENDINGS = (".nii", ".nii.gz")
HEADER = 1024
"""Characters of a .npy header: those of a plain array have about 120."""
END_RECORD = struct.Struct("<4s4H2LH")
TABLE = 256 * 150
"""Bytes of a zip's table of contents, far more than `Limits.members` entries need."""
SHEAR = 0.1
"""Least volume of a voxel, as a share of the product of its edges: below it the axes of the grid nearly coincide."""
DAMAGED = (EOFError, OSError, ValueError, KeyError, IndexError, OverflowError, NotImplementedError, RuntimeError)
DAMAGED += (struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError, tokenize.TokenError, SyntaxError)
"""What the libraries raise on damaged files; OSError includes that of gzip, and NumPy's headers are read as Python."""


class BadRequest(Exception):
    """A request that cannot be answered: an HTTP status from 400 to 499 and one sentence for the caller."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """Bounds that keep one request from taking the memory or the time of the others.

    Attributes
    ----------
    body_mb : int
        Of the request as it is sent. SageMaker passes 25 MB to a real-time endpoint and 1,024 to an asynchronous one.
    unpacked_mb : int
        Of everything that the request unpacks to.
    members : int
        Entries of an archive.
    edge : int
        Voxels along one axis of a volume.
    voxels : int
        Voxels of one volume, as sent and on the grid of the network. A BraTS volume has 9 million.
    spacing : tuple of 2 float
        Shortest and longest edge of a voxel in mm.
    waiting : int
        Requests that wait while one is answered; the next one gets 503.
    receive_seconds : float
        In which a body must have arrived.
    """

    body_mb: int = 25
    unpacked_mb: int = 512
    members: int = 64
    edge: int = 1024
    voxels: int = 32_000_000
    spacing: tuple[float, float] = (0.1, 20.0)
    waiting: int = 8
    receive_seconds: float = 60.0


def limits_from(environment: Mapping[str, str] = os.environ) -> Limits:
    """Read the limits of this process: ``SERVE_BODY_MB``, ``SERVE_UNPACKED_MB`` and ``SERVE_WAITING`` if they are set.

    An endpoint is configured through its environment, so that real-time and asynchronous ones share one image.
    """
    names = ("body_mb", "unpacked_mb", "waiting")
    given = {name: environment[f"SERVE_{name.upper()}"] for name in names if f"SERVE_{name.upper()}" in environment}
    for name, text in given.items():
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 10_000):
            raise DataError(f"SERVE_{name.upper()} is {text!r}", "set a whole number from 1 to 9999")
    return Limits(**{name: int(text) for name, text in given.items()})


@dataclass(frozen=True, eq=False)
class Volumes:
    """What a request asks to be segmented.

    Attributes
    ----------
    identifier : str
        Name of the case, for the errors.
    image : array (4, X, Y, Z)
        Checked by `helpers.data.checks`, in the order of `helpers.regions.MODALITIES`, 0 outside the brain.
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+.
    warnings : tuple of str
        What is odd about the images but usable.
    labels : str
        Key of the label convention (`helpers.regions.CONVENTIONS`) in which to answer.
    like : Nifti1Image or None
        Header of the first image file, if there is one; its voxels are gone.
    """

    identifier: str
    image: np.ndarray
    affine: np.ndarray
    warnings: tuple[str, ...] = ()
    labels: str = "brats2021"
    like: nib.Nifti1Image | None = None


def decode(stream: BinaryIO, content_type: str, limits: Limits) -> Volumes:
    """Decode a request; the folder in which it is unpacked is gone when this returns.

    Parameters
    ----------
    stream : binary file
        The body, seekable.
    content_type : str
        A key of `DECODERS`; parameters such as a charset are ignored.
    limits : Limits

    Raises
    ------
    BadRequest
        With status 415, 413, 400 or 422.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in DECODERS:
        raise BadRequest(415, f"the content type is {kind[:80]!a}; send one of {', '.join(DECODERS)}")
    if not stream.seek(0, io.SEEK_END):
        raise BadRequest(400, "the request has no body; send the four volumes of one case")
    stream.seek(0)
    with tempfile.TemporaryDirectory(prefix="request-") as name:
        folder = Path(name)
        try:
            return DECODERS[kind](stream, folder, limits)
        except DataError as error:
            raise BadRequest(422, _without(folder, str(error))) from error
        except DAMAGED as error:
            reason = _without(folder, " ".join(str(error).split())[:200] or type(error).__name__)
            raise BadRequest(400, f"the body cannot be read as {kind} ({reason}); send it again") from error


def read_archive(stream: BinaryIO, folder: Path, limits: Limits) -> Volumes:
    """Read the NIfTI files of an archive; what kind of archive it is, its first bytes say."""
    start = stream.read(4)
    stream.seek(0)
    if start[:2] == b"PK":
        _unpack_zip(stream, folder, limits)
    else:
        _unpack_tar(stream, folder, limits)
    return read_folder(folder, limits)


def read_folder(folder: Path, limits: Limits) -> Volumes:
    """Read and check the one case in a folder of NIfTI files, each by its header before its voxels are read."""
    if not any(folder.iterdir()):
        examples = ", ".join(f"{modality}.nii.gz" for modality in MODALITIES)
        raise BadRequest(422, f"the request holds no NIfTI file; send four, such as {examples}")
    cases = discover(folder)
    if len(cases) > 1:
        names = ", ".join(case.identifier for case in cases[:4])
        raise BadRequest(422, f"the request holds {len(cases)} cases ({names}); send one")
    case = cases[0]
    for path in case.channels:
        _check_header(path, limits)
    session = read_session(case)
    check_affine(session.affine, limits)
    return _checked(session, case.labels, open_volume(case.images[MODALITIES[0]].path))


def read_npz(stream: BinaryIO, folder: Path, limits: Limits) -> Volumes:
    """Read the arrays of an npz file; every header is checked before an array is made, and pickles are never opened."""
    arrays = {}
    with _open_zip(stream, limits) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        missing = [name for name in (*MODALITIES, "affine") if name not in members]
        if missing:
            raise BadRequest(422, f"the npz has no array {' and no '.join(missing)}; send {', '.join(MODALITIES)} and affine")
        for name in (*MODALITIES, "affine"):
            with archive.open(members[name]) as member:
                arrays[name] = _read_array(member, name, members[name].file_size, limits)
    volumes = [arrays[name] for name in MODALITIES]
    shapes = {volume.shape for volume in volumes}
    if len(shapes) > 1:
        raise BadRequest(422, f"the volumes differ in shape ({', '.join(map(str, sorted(shapes)))}); resample them to one grid")
    affine = arrays["affine"].astype(np.float64)
    check_affine(affine, limits)
    return _checked(check_session(volumes, affine, "request"))


def _checked(session: Session, labels: str = "brats2021", like: nib.Nifti1Image | None = None) -> Volumes:
    return Volumes(session.identifier, np.stack(session.image), session.affine, session.warnings, labels, like)


DECODERS: dict[str, Callable[[BinaryIO, Path, Limits], Volumes]] = {
    "application/x-npz": read_npz,
    "application/zip": read_archive,
    "application/x-zip-compressed": read_archive,
    "application/x-tar": read_archive,
    "application/gzip": read_archive,
    "application/x-gzip": read_archive,
}
"""How each content type is read."""


def check_volume(name: str, dtype: np.dtype, shape: Sequence[int], limits: Limits) -> None:
    """Refuse a volume by its header alone, before any memory is taken for its voxels.

    Raises
    ------
    BadRequest
        If it is not three-dimensional, too large, or not of numbers.
    """
    plain = tuple(int(edge) for edge in shape[:8])
    if len(shape) != 3:
        raise BadRequest(422, f"{name} has shape {plain}; send one 3-D volume (X, Y, Z) for each modality")
    if not all(1 <= edge <= limits.edge for edge in shape) or np.prod(shape, dtype=np.float64) > limits.voxels:
        allowed = f"edges from 1 to {limits.edge} and at most {limits.voxels} voxels are possible"
        raise BadRequest(422, f"{name} has shape {plain}; {allowed}")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise BadRequest(422, f"{name} holds {dtype}; send volumes of int16, or of another integer or float type")


def check_affine(affine: np.ndarray, limits: Limits) -> None:
    """Refuse an affine (4, 4) that does not map voxels of a scan to millimetres."""
    edges = spacing_of(affine) if np.isfinite(affine).all() else np.zeros(3)
    low, high = limits.spacing
    if not all(low <= edge <= high for edge in edges) or not np.abs(affine).max() < 1e5:
        allowed = f"from {low:g} to {high:g} mm are possible, so check the affine"
        raise BadRequest(422, f"the affine has voxel edges {_edges(edges)} mm; {allowed}")
    if abs(np.linalg.det(affine[:3, :3])) < SHEAR * np.prod(edges) or np.abs(affine[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise BadRequest(422, "the affine does not map voxels to millimetres: two axes coincide or its last row is not 0 0 0 1")


def check_size(shape: Sequence[int], affine: np.ndarray, spacing: Sequence[float], limits: Limits) -> None:
    """Refuse a volume that would be too large on the grid of the network, whose voxels have the edges `spacing` in mm."""
    edges = spacing_of(affine)
    resampled = np.prod(np.asarray(shape) * np.maximum(edges / np.min(spacing), 1))
    if resampled > 4 * limits.voxels:
        size = f"the volume measures {_edges(np.asarray(shape) * edges)} mm, too much at {np.min(spacing):g} mm"
        raise BadRequest(422, f"{size}; crop it to the head or check the affine")


class _Budget:
    """How many bytes a request may still unpack."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.left = limits.unpacked_mb * MB

    def copy(self, source: BinaryIO, path: Path) -> None:
        """Copy a stream to a file within the budget."""
        with path.open("wb") as target:
            while chunk := source.read(MB):
                self.left -= len(chunk)
                if self.left < 0:
                    raise BadRequest(413, f"the request unpacks to more than {self.limits.unpacked_mb} MB; send one case only")
                target.write(chunk)


def _unpack_zip(stream: BinaryIO, folder: Path, limits: Limits) -> None:
    budget = _Budget(limits)
    with _open_zip(stream, limits) as archive:
        for member in archive.infolist():
            name = member.filename if member.flag_bits & 0x800 else _readable(member.filename.encode("cp437"))
            mode = member.external_attr >> 16
            if not name.endswith(("/", "\\")) and _wanted(name, regular=mode >> 12 in (0, 0o10)):
                with archive.open(member) as source:
                    _place(name, source, folder, budget)


def _open_zip(stream: BinaryIO, limits: Limits) -> zipfile.ZipFile:
    """Open a zip archive if the table of contents, the number and the kind of its members are harmless."""
    if _table_bytes(stream) > TABLE:
        raise BadRequest(413, f"the archive has more than {limits.members} entries; send the four NIfTI files only")
    archive = zipfile.ZipFile(stream)
    members = archive.infolist()
    _check_count(len(members), limits)
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            name = _short(member.filename)
            raise BadRequest(400, f"{name} is compressed in a way other than deflate; pack the archive again")
        if member.flag_bits & 1:
            raise BadRequest(400, f"{_short(member.filename)} is encrypted; pack the archive without a password")
    if sum(member.file_size for member in members) > limits.unpacked_mb * MB:
        raise BadRequest(413, f"the archive unpacks to more than {limits.unpacked_mb} MB; send one case only")
    return archive


def _unpack_tar(stream: BinaryIO, folder: Path, limits: Limits) -> None:
    """Unpack a tar archive, plain or gzip-compressed."""
    budget = _Budget(limits)
    compressed = stream.read(2) == GZIP
    stream.seek(0)
    if not compressed:
        _unpack_plain_tar(stream, folder, budget)
        return
    plain = folder / "archive.tar"
    with gzip.GzipFile(fileobj=stream, mode="rb") as source:
        budget.copy(source, plain)
    with plain.open("rb") as source:
        _unpack_plain_tar(source, folder, _Budget(limits))
    plain.unlink()


def _unpack_plain_tar(stream: BinaryIO, folder: Path, budget: _Budget) -> None:
    with tarfile.open(fileobj=_SmallReads(stream), mode="r:") as archive:
        for count, member in enumerate(archive, start=1):
            _check_count(count, budget.limits)
            name = _readable(member.name.encode("utf-8", "surrogateescape"))
            regular = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
            if not member.isdir() and _wanted(name, regular=regular):
                _place(name, archive.extractfile(member), folder, budget)


class _SmallReads(io.RawIOBase):
    """A file that hands out at most 1 MB at once: tarfile reads the headers it believes in in one piece."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MB:
            raise BadRequest(400, "the archive has a header larger than 1 MB; pack it again")
        return self.stream.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()


def _place(name: str, source: BinaryIO, folder: Path, budget: _Budget) -> None:
    """Write one NIfTI file into a folder, decompressed; only the last part of its name counts, and only if it is harmless."""
    base = _parts(name)[-1]
    if not base.isprintable() or len(base.encode()) > 200:
        raise BadRequest(400, f"{_short(name)} is no plain file name; use letters, digits, dots, dashes and underscores")
    bare = base.lower().split(".nii")[0] in (*MODALITIES, "seg")
    path = folder / (f"case_{base}" if bare else base)
    unpacked = path.with_name(path.name.removesuffix(".gz"))
    if path.exists() or unpacked.exists():
        raise BadRequest(400, f"the archive holds {_short(base)} twice; send one case only")
    budget.copy(source, path)
    with path.open("rb") as packed:
        compressed = packed.read(2) == GZIP
    if path.suffix == ".gz" and compressed:
        with gzip.open(path) as content:
            try:
                budget.copy(content, unpacked)
            except (EOFError, OSError, zlib.error) as error:
                raise BadRequest(400, f"{_short(base)} is truncated or damaged ({error}); send it again") from error
        path.unlink()


def _wanted(name: str, *, regular: bool) -> bool:
    """Tell whether a member is a NIfTI file; raise for one that has no business in an honest archive, whatever its name."""
    parts = _parts(name)
    if not parts or name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise BadRequest(400, f"{_short(name)} leads out of the archive; use plain file names")
    if not regular:
        raise BadRequest(400, f"{_short(name)} is a link, a device or a sparse file; pack the files themselves")
    return parts[-1].lower().endswith(ENDINGS) and not parts[-1].startswith(".")


def _parts(name: str) -> list[str]:
    """Split a name at slashes, and at the backslashes that Windows programs write."""
    return [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]


def _readable(raw: bytes) -> str:
    """Decode a name of which the archive does not say the encoding: UTF-8, or the code page that gives Latin letters."""
    for encoding in ("utf-8", "cp437", "cp1252"):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if all(letter.isascii() or unicodedata.name(letter, "").startswith(("LATIN", "COMBINING")) for letter in text):
            return text
    return raw.decode("utf-8", "replace")


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.members:
        raise BadRequest(413, f"the archive has more than {limits.members} entries; send the four NIfTI files only")


def _table_bytes(stream: BinaryIO) -> int:
    """Size of a zip's table of contents as its end record states it, which zipfile would read in one piece."""
    size = stream.seek(0, io.SEEK_END)
    begin = max(size - 65_536 - END_RECORD.size - 20, 0)
    stream.seek(begin)
    tail = stream.read()
    stream.seek(0)
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) - end < END_RECORD.size:
        raise BadRequest(400, "the body is not a zip archive, or it is truncated; send it again")
    if b"PK\6\7" in tail[max(end - 20, 0) : end]:
        raise BadRequest(400, "the archive is in zip64, which is for more than 4 GB; pack it again without")
    return END_RECORD.unpack_from(tail, end)[5]


def _check_header(path: Path, limits: Limits) -> None:
    """Check a file by its header: nibabel takes the memory that a header asks for before it looks at how much there is."""
    image = open_volume(path)
    shape = tuple(int(edge) for edge in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    dtype = image.get_data_dtype()
    check_volume(path.name, dtype, shape, limits)
    offset, size = int(image.dataobj.offset), path.stat().st_size
    if offset < 0 or offset + int(np.prod(shape)) * dtype.itemsize > size:
        raise BadRequest(422, f"{path.name} is shorter than its header says ({size} bytes); copy or send it again")


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
    return array.astype(dtype.newbyteorder("="), copy=False)


def _edges(lengths: np.ndarray) -> str:
    return " x ".join(f"{length:.3g}" for length in lengths)


def _short(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "...")


def _without(folder: Path, sentence: str) -> str:
    """Take the folder, which means nothing to the caller, out of a sentence."""
    return sentence.replace(f"{folder}/", "").replace(str(folder), "the request")
