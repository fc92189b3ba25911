"""Unpacking archives from strangers: nothing is trusted, neither names nor sizes, and no name becomes a path.

The usual ways to do harm with an archive, all refused here: paths out of the folder, links and devices, sparse files and
other bombs, a table of contents larger than the contents, and compression with dictionaries of gigabytes.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import tarfile
import tokenize
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from helpers.cloud.limits import BadRequest, Limits
from helpers.regions import MODALITIES

CHUNK = 1 << 20
GZIP = b"\x1f\x8b"
ENDINGS = (".nii", ".nii.gz")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ -]{0,150}")
END_RECORD = struct.Struct("<4s4H2LH")
TABLE = 256 * 150
"""Bytes of a zip's table of contents, far more than `Limits.members` entries need."""
DAMAGED = (EOFError, OSError, ValueError, KeyError, IndexError, OverflowError, NotImplementedError, RuntimeError)
DAMAGED += (struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError, tokenize.TokenError, SyntaxError)
"""What the libraries raise on damaged files; OSError includes that of gzip, and NumPy's headers are read as Python."""


class Budget:
    """How many bytes a request may still unpack."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.left = limits.unpacked

    def copy(self, source: BinaryIO, path: Path) -> None:
        """Copy a stream to a file within the budget."""
        with path.open("wb") as target:
            while chunk := source.read(CHUNK):
                self.left -= len(chunk)
                if self.left < 0:
                    raise BadRequest(413, f"the request unpacks to more than {self.limits.unpacked_mb} MB; send one case only")
                target.write(chunk)


def unpack_zip(stream: BinaryIO, folder: Path, limits: Limits) -> None:
    """Put the NIfTI files of a zip archive, decompressed, into a folder; raises `BadRequest`."""
    budget = Budget(limits)
    with open_zip(stream, limits) as archive:
        for member in archive.infolist():
            mode = member.external_attr >> 16
            if not member.is_dir() and _wanted(member.filename, regular=mode >> 12 in (0, 0o10)):
                with archive.open(member) as source:
                    place(member.filename, source, folder, budget)


def open_zip(stream: BinaryIO, limits: Limits) -> zipfile.ZipFile:
    """Open a zip archive of which the table of contents, the number and the kind of members are harmless."""
    if _table_bytes(stream) > TABLE:
        raise BadRequest(413, f"the archive has more than {limits.members} entries; send the four NIfTI files only")
    archive = zipfile.ZipFile(stream)
    members = archive.infolist()
    _check_count(len(members), limits)
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadRequest(
                400, f"{_short(member.filename)} is compressed in a way other than deflate; pack the archive again"
            )
        if member.flag_bits & 1:
            raise BadRequest(400, f"{_short(member.filename)} is encrypted; pack the archive without a password")
    if sum(member.file_size for member in members) > limits.unpacked:
        raise BadRequest(413, f"the archive unpacks to more than {limits.unpacked_mb} MB; send one case only")
    return archive


def unpack_tar(stream: BinaryIO, folder: Path, limits: Limits) -> None:
    """Put the NIfTI files of a tar archive, plain or gzip-compressed, decompressed into a folder; raises `BadRequest`."""
    budget = Budget(limits)
    start = stream.read(2)
    stream.seek(0)
    if start != GZIP:
        _unpack_plain_tar(stream, folder, budget)
        return
    plain = folder / "archive.tar"
    with gzip.GzipFile(fileobj=stream, mode="rb") as source:
        budget.copy(source, plain)
    with plain.open("rb") as source:
        _unpack_plain_tar(source, folder, Budget(limits))
    plain.unlink()


def place(name: str, source: BinaryIO, folder: Path, budget: Budget) -> None:
    """Write one NIfTI file into a folder, decompressed; of its name only the last part counts, and only if it is harmless."""
    base = PurePosixPath(name).name
    if not NAME.fullmatch(base):
        raise BadRequest(400, f"{_short(name)} is no plain file name; use letters, digits, dots, dashes and underscores")
    bare = base.split(".nii")[0] in (*MODALITIES, "seg")
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
                raise BadRequest(400, f"{base} is truncated or damaged ({error}); send it again") from error
        path.unlink()


class _SmallReads(io.RawIOBase):
    """A file that hands out at most `CHUNK` bytes at once: tarfile reads the headers it believes in in one piece."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= CHUNK:
            raise BadRequest(400, "the archive has a header larger than 1 MB; pack it again")
        return self.stream.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()


def _unpack_plain_tar(stream: BinaryIO, folder: Path, budget: Budget) -> None:
    with tarfile.open(fileobj=_SmallReads(stream), mode="r:") as archive:
        for count, member in enumerate(archive, start=1):
            _check_count(count, budget.limits)
            regular = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
            if not member.isdir() and _wanted(member.name, regular=regular):
                place(member.name, archive.extractfile(member), folder, budget)


def _wanted(name: str, *, regular: bool) -> bool:
    """Whether a member is a NIfTI file; raises for one that has no business in an honest archive, whatever its name."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise BadRequest(400, f"{_short(name)} leads out of the archive; use plain file names")
    if not regular:
        raise BadRequest(400, f"{_short(name)} is a link, a device or a sparse file; pack the files themselves")
    return path.name.endswith(ENDINGS) and not path.name.startswith(".")


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
    place_of_end = tail.rfind(b"PK\5\6")
    if place_of_end < 0 or len(tail) - place_of_end < END_RECORD.size:
        raise BadRequest(400, "the body is not a zip archive, or it is truncated; send it again")
    if b"PK\6\7" in tail[max(place_of_end - 20, 0) : place_of_end]:
        raise BadRequest(400, "the archive is in zip64, which is for more than 4 GB; pack it again without")
    return END_RECORD.unpack_from(tail, place_of_end)[5]


def _short(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "...")
