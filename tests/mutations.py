"""Ways to damage a request: bytes, the headers of npy and NIfTI, the structure of zip and tar.

Each takes a `random.Random`, the arrays of a case and its uncompressed NIfTI files, and returns content type and body.
"""

import gzip
import io
import struct
import tarfile
import zipfile

import numpy as np

from tests.requests import npz_of, zip_of

NPZ, ZIP, TAR, GZIP = (f"application/{name}" for name in ("x-npz", "zip", "x-tar", "gzip"))
INTEGERS = (
    -(2**63),
    -(2**31),
    -(2**15),
    -2,
    -1,
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    128,
    2**15 - 1,
    2**16 - 1,
    2**31 - 1,
    2**40,
    2**63 - 1,
)
FLOATS = (float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e-30, 1e-5, 0.5, 3.0, 1e3, 1e30)
NAMES = (
    *("t1.nii", "case_t1.nii.gz", "case_seg.nii", "../t1.nii", "/etc/t1.nii", "a/b/case_t1.nii", "", ".", "..", "\x00t1.nii"),
    *(
        "t1.nii/",
        "é_t1.nii",
        "Bär (2) [b]_t1.nii",
        "a\\b\\t2.nii",
        "x" * 300 + "_t1.nii",
        "C:\\t1.nii",
        "~/t1.nii",
        "dataset.json",
        "-rf.nii",
        "case-t1n.nii",
        "_t1.nii",
    ),
)


def stored_zip(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name or "?"), content)
    return stream.getvalue()


def tar_of_members(members, mode="w"):
    """A tar of (TarInfo, content) whose headers may lie: sizes are written as they are."""
    stream = io.BytesIO()
    for member, content in members:
        stream.write(member.tobuf(tarfile.GNU_FORMAT, errors="replace"))
        stream.write(content + bytes(-len(content) % 512))
    stream.write(bytes(1024))
    return stream.getvalue() if mode == "w" else gzip.compress(stream.getvalue(), 1)


def flip(draw, body):
    body = bytearray(body)
    for _ in range(draw.choice((1, 2, 8, 64))):
        body[draw.randrange(len(body))] = draw.randrange(256)
    return bytes(body)


def cut(draw, body):
    begin, end = sorted((draw.randrange(len(body)), draw.randrange(len(body))))
    return draw.choice((body[:begin], body[end:], body[:begin] + body[end:], body[:end] + body[begin:], body + body[begin:end]))


def damaged_bytes(draw, arrays, files):
    kind, body = draw.choice(
        (
            (NPZ, npz_of(arrays)),
            (NPZ, stored_zip({f"{name}.npy": npy_of(array) for name, array in arrays.items()})),
            (ZIP, zip_of(files)),
            (ZIP, stored_zip(files)),
            (TAR, tar_of_members(members_of(files))),
            (GZIP, tar_of_members(members_of(files), "w:gz")),
        )
    )
    return kind, draw.choice((flip, cut))(draw, body)


def wrong_type(draw, arrays, files):
    bodies = (
        npz_of(arrays),
        zip_of(files),
        tar_of_members(members_of(files)),
        draw.randbytes(900),
    )
    return draw.choice((NPZ, ZIP, TAR, GZIP, "application/json", "", "text/html", "a/b;c=d", "é")), draw.choice(bodies)


def npy_of(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npy_header(draw, arrays, files):
    """An npz of which one array has another header than its bytes deserve."""
    shape = tuple(draw.choice(INTEGERS) for _ in range(draw.choice((0, 1, 3, 3, 3, 4, 32, 70))))
    header = {
        "descr": draw.choice(
            ("<i2", ">f4", "|O", "<f8", "|V3", "<U9", "<c16", "<M8[s]", "|b1", "x", [("a", "<i2")], "<i2," * 50)
        ),
        "fortran_order": draw.choice((True, False, 3, None)),
        "shape": draw.choice((shape, (12, 14, 10), (4, 4), "(", [1, 2], -1)),
    }
    text = draw.choice((repr(header), repr(header)[:-3], "{'shape': " + "(" * 5000, "[" * 300)).encode()[:60_000]
    version = draw.choice(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    length = struct.pack("<H" if version == (1, 0) else "<I", draw.choice((len(text), len(text), 5, 65_535)))
    content = b"\x93NUMPY" + bytes(version) + length + text + draw.randbytes(draw.choice((0, 20, 3360)))
    parts = {f"{name}.npy": npy_of(array) for name, array in arrays.items()}
    return NPZ, stored_zip({**parts, f"{draw.choice(list(arrays))}.npy": content})


def odd_arrays(draw, arrays, files):
    """An npz of honest arrays that are no four volumes of one case."""
    name = draw.choice(list(arrays))
    array = arrays[name]
    odd = draw.choice(
        (
            *(array.astype(kind) for kind in ("u1", "i8", ">i4", "f2", "f4", "f8", "c8", "?", "S4", "O")),
            *(np.full_like(array, value, np.float32) for value in FLOATS),
            *(array[..., None], array[0], array[:0], array[:-1], array.T, np.asfortranarray(array), np.zeros(0), np.float64(3)),
        )
    )
    return NPZ, npz_of({**arrays, name: odd})


def nifti_header(draw, arrays, files):
    """A NIfTI file with one to three fields of its header overwritten, in a zip."""
    name = draw.choice(list(files))
    content = bytearray(files[name])
    for _ in range(draw.choice((1, 1, 2, 3))):
        offset, code = draw.choice(
            (
                *((40 + 2 * n, "<h") for n in range(8)),
                *(
                    (70, "<h"),
                    (72, "<h"),
                    (0, "<i"),
                    (108, "<f"),
                    (112, "<f"),
                    (116, "<f"),
                    (252, "<h"),
                    (254, "<h"),
                    (123, "<b"),
                ),
                *((76 + 4 * n, "<f") for n in range(4)),
                *((256 + 4 * n, "<f") for n in range(18)),
                *((344, "<i"), (348, "<i"), (352, "<i"), (356, "<i")),
            )
        )
        if code == "<f":
            struct.pack_into(code, content, offset, draw.choice(FLOATS) if draw.random() < 0.9 else draw.uniform(-400, 400))
        else:
            bits = 8 * struct.calcsize(code)
            value = draw.choice((*INTEGERS, 16, 64, 512, 1792, 2048, 2304, draw.randrange(2**16)))
            struct.pack_into(code, content, offset, (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1))
    changed = files if draw.random() < 0.5 else {key: bytes(content) for key in files}
    return ZIP, stored_zip({**changed, name: bytes(content)})


def zip_structure(draw, arrays, files):
    """A zip whose table of contents says something else than its members."""
    body = bytearray(stored_zip({draw.choice((name, draw.choice(NAMES))): content for name, content in files.items()}))
    signature, size = draw.choice(((b"PK\1\2", 46), (b"PK\3\4", 30), (b"PK\5\6", 22)))
    at = body.find(signature) if draw.random() < 0.5 else body.rfind(signature)
    for _ in range(draw.choice((1, 2, 4))):
        code = draw.choice(("<H", "<I"))
        value = draw.choice(INTEGERS) % 2 ** (8 * struct.calcsize(code))
        struct.pack_into(code, body, at + draw.randrange(4, size - 4), value)
    return draw.choice((ZIP, NPZ)), bytes(body)


def members_of(files):
    members = []
    for name, content in files.items():
        member = tarfile.TarInfo(name)
        member.size = len(content)
        members.append((member, content))
    return members


def tar_structure(draw, arrays, files):
    """A tar with a member of another type, name or size, its checksum right."""
    members = members_of(files)
    member = draw.choice(members)[0]
    member.type = draw.choice((member.type, *(bytes([n]) for n in b"0123456789xgLKSDMNVA\x00")))
    member.name = draw.choice((member.name, *NAMES)).replace("\x00", "")
    member.linkname = draw.choice(("", "/etc/passwd", "case_t1.nii", "../.."))
    member.size = max(draw.choice((member.size, member.size, *INTEGERS)), 0) % 2**60
    members.append((tarfile.TarInfo("last.txt"), b""))
    return draw.choice((TAR, GZIP)), tar_of_members(members, draw.choice(("w", "w:gz")))


MUTATIONS = (
    *(damaged_bytes, damaged_bytes, wrong_type, npy_header, odd_arrays),
    *(nifti_header, nifti_header, zip_structure, tar_structure),
)
