"""Decode a request: from its body to the four volumes of one case. Nothing in it is trusted.

A body is an archive (zip, tar or tar.gz) of four NIfTI files, or an npz file with the arrays t1, t1ce, t2, flair and affine.
Either is unpacked into a folder first, within a budget of bytes and under the last part of each name. Links, devices, paths
out of the folder and whatever else harms with an archive are refused. Every volume is checked by its header before memory is
taken for its voxels, and nothing is unpickled.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np

from brats_cohort.cases import discover
from brats_cohort.files import DataError
from brats_cohort.formats import role_of
from brats_cohort.grid import spacing_of
from brats_cohort.nifti import HEADERS, LARGEST_MM, SMALLEST_MM, open_volume
from brats_cohort.regions import MODALITIES
from brats_cohort.session import Session, check_session, read_session

NPZ = "application/x-npz"
ARCHIVES = ("application/zip", "application/x-zip-compressed", "application/x-tar", "application/gzip", "application/x-gzip")
CONTENT_TYPES = (NPZ, *ARCHIVES)
"""What a request may be; of an archive the first bytes tell the kind."""

MB = 1024 * 1024
MEMBERS = 64
"""Entries that an archive may have."""
EDGE = 1024
"""Voxels that a volume may have along one axis."""
SHEAR = 0.1
"""Least volume of a voxel, as a share of the product of its edges: below it the axes of the grid nearly coincide."""
GZIP, ZIP = b"\x1f\x8b", (b"PK\3\4", b"PK\5\6")
"""How compressed files and zip archives begin; a tar begins with the name of its first file."""
DAMAGED = (EOFError, OSError, ValueError, KeyError, IndexError, OverflowError, NotImplementedError, RuntimeError)
DAMAGED += (struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError, tokenize.TokenError, SyntaxError)
"""What the libraries raise on damaged files; OSError includes that of gzip, and NumPy's headers are read as Python."""


Member = tuple[str, bool, Callable[[], BinaryIO] | None]
"""Name of an entry, whether it is a plain file, and how to open it; None for a folder."""
TOO_MANY = f"the archive has more than {MEMBERS} entries; send the four NIfTI files only"


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
    voxels : int
        Voxels of one volume, as sent and on the grid of the network. A BraTS volume has 9 million.
    waiting : int
        Requests that wait while one is answered; the next one gets 503.
    """

    body_mb: int = 25
    unpacked_mb: int = 512
    voxels: int = 32_000_000
    waiting: int = 8


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
    """What a request asks to be segmented: the four checked images, and in whose numbers to answer.

    `labels` is a key of `brats_cohort.regions.CONVENTIONS`; `like` has the header of the first image file, its voxels are gone.
    """

    session: Session
    labels: str = "brats2021"
    like: nib.Nifti1Image | None = None


def decode(stream: BinaryIO, content_type: str, limits: Limits) -> Volumes:
    """Decode a seekable body; the folder in which it is unpacked is gone when this returns.

    Raises `BadRequest` with status 415, 413, 400 or 422.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in CONTENT_TYPES:
        raise BadRequest(415, f"the content type is {kind[:80]!a}; send one of {', '.join(CONTENT_TYPES)}")
    if not stream.seek(0, io.SEEK_END):
        raise BadRequest(400, "the request has no body; send the four volumes of one case")
    stream.seek(0)
    with tempfile.TemporaryDirectory(prefix="request-") as name:
        folder = Path(name) / "case"
        folder.mkdir()
        try:
            unpack(stream, folder, limits, endings=(".npy",) if kind == NPZ else (".nii", ".nii.gz"))
            return read_arrays(folder, limits) if kind == NPZ else read_files(folder, limits)
        except DataError as error:
            raise BadRequest(422, _without(folder, str(error))) from error
        except DAMAGED as error:
            reason = _without(folder, " ".join(str(error).split())[:200] or type(error).__name__)
            raise BadRequest(400, f"the body cannot be read as {kind} ({reason}); send it again") from error


def read_files(folder: Path, limits: Limits) -> Volumes:
    """Read and check the one case in a folder of NIfTI files."""
    if not any(folder.iterdir()):
        examples = ", ".join(f"{modality}.nii.gz" for modality in MODALITIES)
        raise BadRequest(422, f"the request holds no NIfTI file; send four, such as {examples}")
    cases = discover(folder)
    if len(cases) > 1:
        names = ", ".join(case.identifier for case in cases[:4])
        raise BadRequest(422, f"the request holds {len(cases)} cases ({names}); send one")
    for path in cases[0].channels:
        image = open_volume(path)
        shape = image.shape[:3] if np.prod(image.shape[3:]) == 1 else image.shape
        _check_volume(path.name, image.get_data_dtype(), shape, limits)
    session = read_session(cases[0])
    _check_affine(session.affine)
    return Volumes(session, cases[0].labels, open_volume(cases[0].images[MODALITIES[0]].path))


def read_arrays(folder: Path, limits: Limits) -> Volumes:
    """Read and check the arrays of an npz file, unpacked; a memory map opens no pickle and takes no memory."""
    arrays = {}
    for name in (*MODALITIES, "affine"):
        if not (folder / f"{name}.npy").is_file():
            raise BadRequest(422, f"the npz has no array {name}; send {', '.join(MODALITIES)} and affine")
        arrays[name] = np.lib.format.open_memmap(folder / f"{name}.npy", mode="r")
    affine = arrays.pop("affine")
    if affine.shape != (4, 4) or affine.dtype.kind not in "iuf":
        raise BadRequest(422, f"the affine is {affine.dtype} of shape {affine.shape}; send 4 x 4 numbers")
    for name, array in arrays.items():
        _check_volume(f"the volume {name}", array.dtype, array.shape, limits)
    if len(shapes := {array.shape for array in arrays.values()}) > 1:
        raise BadRequest(422, f"the volumes differ in shape ({', '.join(map(str, sorted(shapes)))}); resample them to one grid")
    affine = np.array(affine, np.float64)
    _check_affine(affine)
    image = [array.astype(array.dtype.newbyteorder("=")) for array in arrays.values()]
    return Volumes(check_session(image, affine, "request"))


def check_size(shape: Sequence[int], affine: np.ndarray, spacing: Sequence[float], limits: Limits) -> None:
    """Refuse a volume that would be too large on the grid of the network, whose voxels have the edges `spacing` in mm."""
    edges = spacing_of(affine)
    resampled = np.prod(np.asarray(shape) * np.maximum(edges / np.min(spacing), 1))
    if resampled > 4 * limits.voxels:
        size = f"the volume measures {_edges(np.asarray(shape) * edges)} mm, too much at {np.min(spacing):g} mm"
        raise BadRequest(422, f"{size}; crop it to the head or check the affine")


def _check_volume(name: str, dtype: np.dtype, shape: Sequence[int], limits: Limits) -> None:
    """Refuse a volume by its header alone, before any memory is taken for its voxels."""
    plain = tuple(int(edge) for edge in shape[:8])
    if len(shape) != 3:
        raise BadRequest(422, f"{name} has shape {plain}; send one 3-D volume (X, Y, Z) for each modality")
    if not all(1 <= edge <= EDGE for edge in shape) or np.prod(shape, dtype=np.float64) > limits.voxels:
        allowed = f"edges from 1 to {EDGE} and at most {limits.voxels} voxels are possible"
        raise BadRequest(422, f"{name} has shape {plain}; {allowed}")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise BadRequest(422, f"{name} holds {dtype}; send volumes of int16, or of another integer or float type")


def _check_affine(affine: np.ndarray) -> None:
    """Refuse an affine (4, 4) that does not map the voxels of a head to millimetres."""
    edges = spacing_of(affine)
    sized = np.isfinite(affine).all() and edges.min() >= SMALLEST_MM and edges.max() <= LARGEST_MM
    if not sized or np.abs(affine).max() > 1e5:
        raise BadRequest(422, f"the affine has voxel edges {_edges(edges)} mm, which no scan of a head has; check the affine")
    if abs(np.linalg.det(affine[:3, :3])) < SHEAR * np.prod(edges) or (affine[3] != [0, 0, 0, 1]).any():
        raise BadRequest(422, "the affine does not map voxels to millimetres: two axes coincide or its last row is not 0 0 0 1")


class _Budget:
    """How many bytes a request may still unpack."""

    def __init__(self, megabytes: int) -> None:
        self.megabytes, self.left = megabytes, megabytes * MB

    def copy(self, source: BinaryIO, path: Path) -> Path:
        """Copy a stream to a file within the budget."""
        with path.open("wb") as target:
            while chunk := source.read(MB):
                self.left -= len(chunk)
                if self.left < 0:
                    raise BadRequest(413, f"the request unpacks to more than {self.megabytes} MB; send one case only")
                target.write(chunk)
        return path


def unpack(stream: BinaryIO, folder: Path, limits: Limits, *, endings: tuple[str, ...]) -> None:
    """Write the files of a zip, tar or tar.gz archive whose names have one of `endings` into a folder, decompressed.

    Only the last part of a name counts. Raises `BadRequest` for what has no business in an honest archive, wanted or not.
    """
    start = stream.read(4)
    stream.seek(0)
    if start.startswith(GZIP):
        with gzip.open(stream) as packed:
            tar = _Budget(limits.unpacked_mb).copy(packed, folder.with_name("archive.tar"))
        with tar.open("rb") as plain:
            if plain.read(4) in HEADERS:
                raise BadRequest(422, "the request is one NIfTI file; send an archive of the four")
            plain.seek(0)
            _place_all(_tar_members(plain), folder, limits, endings)
    else:
        _place_all(_zip_members(stream) if start in ZIP else _tar_members(stream), folder, limits, endings)


def _zip_members(stream: BinaryIO) -> Iterator[Member]:
    """Walk through a zip archive; its table of contents is counted before zipfile reads it in one piece."""
    entries = sum(block.count(b"PK\1\2") for block in iter(lambda: stream.read(MB), b""))
    if entries > 2 * MEMBERS:
        raise BadRequest(413, TOO_MANY)
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            name = member.filename if member.flag_bits & 0x800 else _readable(member.filename.encode("cp437"))
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise BadRequest(400, f"{_short(name)} is compressed in a way other than deflate; pack the archive again")
            regular = member.external_attr >> 28 in (0, 0o10)
            yield name, regular, None if name.endswith(("/", "\\")) else partial(archive.open, member)


def _tar_members(stream: BinaryIO) -> Iterator[Member]:
    with tarfile.open(fileobj=_SmallReads(stream), mode="r:") as archive:
        for member in archive:
            name = _readable(member.name.encode("utf-8", "surrogateescape"))
            regular = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
            yield name, regular, None if member.isdir() else partial(archive.extractfile, member)


class _SmallReads(io.RawIOBase):
    """A file that hands out at most 1 MB at once: tarfile reads the headers it believes in in one piece."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MB:
            raise BadRequest(400, "the archive has a header larger than 1 MB; pack it again")
        return self.stream.read(size)


def _place_all(members: Iterable[Member], folder: Path, limits: Limits, endings: tuple[str, ...]) -> None:
    """Write the wanted files into a folder; refuse what has no business in an honest archive, wanted or not."""
    budget = _Budget(limits.unpacked_mb)
    for count, (name, regular, opened) in enumerate(members, start=1):
        parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]  # Windows programs write backslashes
        if count > MEMBERS:
            raise BadRequest(413, TOO_MANY)
        if opened is None:
            continue
        if not parts or name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise BadRequest(400, f"{_short(name)} leads out of the archive; use plain file names")
        if not regular:
            raise BadRequest(400, f"{_short(name)} is a link, a device or a sparse file; pack the files themselves")
        if parts[-1].lower().endswith(endings) and not parts[-1].startswith("."):
            with opened() as source:
                _place(_telling(parts), source, folder, budget)


def _telling(parts: Sequence[str]) -> str:
    """The last part of a name, or that before it if only that says the modality: T1/image.nii.gz, P_t1.nii/00001.nii."""
    ending = ".nii.gz" if parts[-1].lower().endswith(".gz") else parts[-1][-4:]
    above = re.sub(r"\.nii(\.gz)?$", "", parts[-2], flags=re.IGNORECASE) + ending if len(parts) > 1 else ""
    return above if role_of(above) and not role_of(parts[-1]) else parts[-1]


def _place(name: str, source: BinaryIO, folder: Path, budget: _Budget) -> None:
    """Write one file into a folder, decompressed."""
    if not name.isprintable() or len(name.encode()) > 200:
        raise BadRequest(400, f"{_short(name)} is no plain file name; use letters, digits, dots, dashes and underscores")
    unpacked = folder / (name[:-3] if name.lower().endswith(".gz") else name)
    if (folder / name).exists() or unpacked.exists():
        raise BadRequest(400, f"the archive holds {_short(name)} twice; send one case only")
    path = budget.copy(source, folder / name)
    with path.open("rb") as packed:
        compressed = path != unpacked and packed.read(2) == GZIP
    if compressed:
        try:
            with gzip.open(path) as content:
                budget.copy(content, unpacked)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadRequest(400, f"{_short(name)} is truncated or damaged ({error}); pack it again") from error
        path.unlink()


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


def _edges(lengths: np.ndarray) -> str:
    return " x ".join(f"{length:.3g}" for length in lengths)


def _short(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "...")


def _without(folder: Path, sentence: str) -> str:
    """Take the folder, which means nothing to the caller, out of a sentence."""
    sentence = sentence.replace(f"{folder}/", "").replace(str(folder), "the request")
    return sentence.replace(f"{folder.parent}/", "")
