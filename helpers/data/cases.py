"""Find the cases of a cohort and read their files.

`discover` is the one way from a folder to its cases, `read_image` and `read_classes` from a case to arrays. What a file's
name means is decided here; what is wrong with its contents, in `helpers.data.checks`.
"""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from helpers.data.resample import turn_to_grid
from helpers.regions import CONVENTIONS, MODALITIES, MODALITY_NAMES, LabelConvention, convention_by_name, to_classes
from helpers.workspace import DataError, printable, write_atomically

ENDINGS = (".nii.gz", ".nii")
ERROR, WARNING = "error", "warning"

LABEL_TOLERANCE = 1e-3
"""How far a stored label may lie from a whole number: scale factors turn 1 into 0.99999997."""

SMALLEST_MM, LARGEST_MM, WIDEST_MM = 0.05, 30.0, 1000.0
"""Edges that a voxel may have, and the widest field of view; beyond them the unit of the header is wrong."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a case.

    Attributes
    ----------
    case, file : str
        Identifier, and the file's name; empty when the fault is not in one file.
    problem, remedy : str
        Half a sentence each.
    severity : str
        "error" if the case cannot be used, "warning" if it can.
    """

    case: str
    file: str
    problem: str
    remedy: str
    severity: str = ERROR

    def __str__(self) -> str:
        return printable(f"{self.case}: {self.problem}; {self.remedy}")


@dataclass(frozen=True)
class Source:
    """Where one modality of a case is: a file, and for a 4-D file which of its volumes."""

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class Case:
    """One patient's imaging session.

    Attributes
    ----------
    identifier : str
        Name of the session, unique in its cohort.
    patient : str
        Name of the patient. Sessions of one patient share it, and must stay in one part of a split.
    format : str
        Key of `FORMATS`.
    images : mapping from modality to Source
        The modalities that were found, keyed by `helpers.regions.MODALITIES`; a missing one has no key.
    label : Path or None
        The reference label map, if there is one.
    labels : str
        Key of `helpers.regions.CONVENTIONS`: whose numbers the reference uses.
    faults : tuple of Fault
        What is wrong with the names of the files.
    """

    identifier: str
    patient: str
    format: str
    images: Mapping[str, Source]
    label: Path | None
    labels: str = "brats2021"
    faults: tuple[Fault, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Modalities for which no file was found."""
        return tuple(modality for modality in MODALITIES if modality not in self.images)

    @property
    def channels(self) -> dict[Path, dict[str, int | None]]:
        """Every image file once, with the modalities it holds and the channel of each, so that it is read once."""
        files: dict[Path, dict[str, int | None]] = {}
        for modality in (modality for modality in MODALITIES if modality in self.images):
            files.setdefault(self.images[modality].path, {})[modality] = self.images[modality].channel
        return files

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the case once, images first."""
        return (*self.channels, *([self.label] if self.label else []))


def fault_of(identifier: str, error: Exception, path: Path | None = None) -> Fault:
    """Turn any exception that a case raised into its fault: the one place that does so, for every command on a cohort."""
    file = path.name if path else ""
    if isinstance(error, DataError):
        problem = error.problem.replace(str(path), file) if path else error.problem
        return Fault(identifier, file, problem.removeprefix(f"case {identifier}: "), error.remedy)
    if isinstance(error, MemoryError):
        return Fault(identifier, file, "there is not enough memory for it", "work on fewer cases at a time (workers)")
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Fault(identifier, file, f"it cannot be read ({reason})", "look at the case's files, or leave the case out")


# Files


def open_volume(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file and read its header only; raises `DataError` like `read_volume`."""
    path = Path(path)
    _reject_what_is_not_nifti(path)
    try:
        image = nib.load(path)
    except (ImageFileError, HeaderDataError, EOFError, OSError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read as NIfTI ({_one_line(error)})", "copy or download it again") from error
    if not isinstance(image, nib.Nifti1Image):
        raise DataError(f"{path} is {type(image).__name__}, not NIfTI", _conversion(path))
    _affine_in_mm(image, path)
    return image


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
        In the file's own axes and number type; float32 if the header carries a scale factor.
    affine : float64 array (4, 4)
        From voxel indices to millimetres in RAS+, also if the header counts in metres or micrometres.

    Raises
    ------
    DataError
        If the file is missing, a Git LFS pointer, not NIfTI, truncated or of the wrong dimension, or if its voxels have no
        size that a scanner can give them.
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
    except (EOFError, OSError, isal_zlib.error, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is truncated or damaged ({_one_line(error)})", "copy or download it again") from error
    return volumes, _affine_in_mm(image, path)


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
    if values.dtype.kind != "f":
        raise DataError(f"{path} holds {values.dtype}, not plain numbers", "export the label map as integers")
    rounded = np.rint(values)
    wrong = ~np.isclose(values, rounded, rtol=0, atol=LABEL_TOLERANCE) | ~np.isfinite(values)
    if wrong.any():
        example = values[wrong].flat[0]
        raise DataError(
            f"{path} is not a label map: {int(wrong.sum())} voxels are not whole numbers (such as {example:.4g})",
            "resample label maps with nearest neighbour",
        )
    return rounded.clip(-(2**15), 2**15 - 1).astype(np.int16), affine


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
        An image in the same grid: its sform, qform and unit are taken over, so that every viewer aligns the two files.
        Nothing else of its header is, since descriptions and extensions may hold the patient's name.
    """
    path = Path(path)
    image = nib.Nifti1Image(volume, affine if like is None else like.affine)
    image.set_data_dtype(volume.dtype)
    if like is None:
        image.header.set_xyzt_units("mm")
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=1)
    else:
        for field in ("pixdim", "qform_code", "sform_code", "xyzt_units", *_GEOMETRY):
            image.header[field] = like.header[field]
        image.header["pixdim"][4:] = 1
        if not int(like.header["xyzt_units"]) & 7:
            image.header.set_xyzt_units("mm")
    with write_atomically(path) as temporary:
        payload = image.to_bytes()
        temporary.write_bytes(igzip.compress(payload, compresslevel=1, mtime=0) if path.suffix == ".gz" else payload)
    return path


_GEOMETRY = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")


def refuse_to_overwrite(target: Path, reading: Iterable[Path]) -> Path:
    """Return `target`; raise `DataError` if writing there would replace a file that is read or be taken for an image."""
    target = Path(target)
    if target.exists() and any(target.samefile(path) for path in reading if path.exists()):
        raise DataError(f"{target} is one of the files that are read", "give another name or folder to --out")
    role = _role_of(target.name)
    if role and role[1] != "seg":
        raise DataError(
            f"{target} has the name of a {role[1]} image", "give another name to --out, such as segmentation.nii.gz"
        )
    return target


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _reject_what_is_not_nifti(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file", "give the NIfTI file in it")
    if not path.is_file():
        raise DataError(f"{path} does not exist", "check the folder and the file's name")
    try:
        with path.open("rb") as stream:
            start = stream.read(40)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", "check the file's permissions") from error
    if not start:
        raise DataError(f"{path} is empty", "copy or download it again")
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{path} is a Git LFS pointer, not the image", "run `git lfs pull` where it came from")
    gzipped, name = start.startswith(b"\x1f\x8b"), path.name.lower()
    if not name.endswith(ENDINGS):
        raise DataError(f"{path} is not a NIfTI file by its name", _conversion(path))
    if name.endswith(".gz") and not gzipped:
        raise DataError(f"{path} is named .gz but is not gzip-compressed", "rename it to .nii or download it again")
    if name.endswith(".nii") and gzipped:
        raise DataError(f"{path} is gzip-compressed", f"rename it to {path.name}.gz")


def _conversion(path: Path) -> str:
    """How to turn a file of another format into NIfTI."""
    name = path.name.lower()
    if name.endswith((".dcm", ".ima")):
        return "convert the DICOM series: dcm2niix -z y -o OUT FOLDER"
    if name.endswith((".npy", ".npz")):
        return "an array has no grid: write it with nibabel.Nifti1Image(array, affine) and nibabel.save"
    if name.endswith((".mgz", ".mgh")):
        return f"convert it: mri_convert {path.name} {path.stem}.nii.gz"
    if name.endswith((".mha", ".mhd", ".nrrd", ".nhdr", ".img", ".hdr")):
        code = f"import SimpleITK as s; s.WriteImage(s.ReadImage('{path.name}'), '{path.stem}.nii.gz')"
        return f'convert it: python -c "{code}"'
    return "convert it to .nii.gz first"


def _affine_in_mm(image: nib.Nifti1Image, path: Path) -> np.ndarray:
    """Affine of a file in millimetres; `DataError` if its voxels have no size that a scanner can give them."""
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) == 0:
        problem = f"{path} has an affine that gives its voxels no size"
        raise DataError(problem, "write the header's sform or qform again")
    factor = {1: 1e3, 3: 1e-3}.get(int(image.header["xyzt_units"]) & 7, 1.0)  # NIfTI: 1 metre, 2 mm, 3 micrometre
    for scale in (factor, 1.0):  # some tools name a unit and then write millimetres
        found = np.diag([scale, scale, scale, 1.0]) @ affine
        edges = nib.affines.voxel_sizes(found)
        if edges.min() >= SMALLEST_MM and edges.max() <= LARGEST_MM and (edges * image.shape[:3]).max() <= WIDEST_MM:
            return found
    size = " x ".join(f"{edge:.3g}" for edge in nib.affines.voxel_sizes(affine) * factor)
    counts = " x ".join(str(count) for count in image.shape[:3])
    raise DataError(
        f"{path} has {counts} voxels of {size} mm, which no scan of a head has",
        "set the spacing in millimetres and xyzt_units to mm",
    )


def _read_data(image: nib.Nifti1Image, channel: int | None, path: Path) -> np.ndarray:
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1 and channel is None:
        shape = shape[:-1]
    if channel is None and len(shape) != 3:
        problem = f"{path} has shape {image.shape}, one 3-D volume was expected"
        raise DataError(problem, "split it into one file a modality, or choose the right dataset format")
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


# Cohorts

SPELLINGS: dict[str, tuple[str, ...]] = {
    "t1": ("t1", "t1n", "t1w", "t1pre", "t1native", "t1wn"),
    "t1ce": ("t1ce", "t1c", "t1gd", "t1post", "t1km", "t1wce", "t1contrast", "t1gado"),
    "t2": ("t2", "t2w", "t2wi"),
    "flair": ("flair", "t2f", "fla", "flr", "t2flair", "t2wflair"),
    "seg": ("seg", "segm", "segmentation", "label", "tumor_segmentation", "tumour_segmentation"),
}
"""How public data sets end a file's name for each modality and the reference, in lower case. A "mask" may be the brain's."""

_ROLES = {spelling: role for role, spellings in SPELLINGS.items() for spelling in spellings}
_NAME = re.compile(
    rf"^(?:(?P<stem>.+?)(?P<separator>[-_. ]))?(?P<ending>{'|'.join(sorted(_ROLES, key=len, reverse=True))})\.nii(\.gz)?$",
    re.IGNORECASE,
)
_OWN = {"brats2021": ("_", {*MODALITIES, "seg"}), "brats2023": ("-", {"t1n", "t1c", "t2w", "t2f", "seg"})}
_MISNAMED = {"W39_1998.09.19": "BraTS20_Training_355"}
"""References that were published under the name that they had before the release."""


@dataclass(frozen=True)
class Format:
    """A dataset format: how the files of a cohort are named, and whose label numbers they use if their names do not say."""

    name: str
    labels: str
    find: Callable[[Path], list[Case]]


def discover(folder: Path, format: str = "auto", *, labels: str = "auto", patients: Path | None = None) -> list[Case]:
    """Find the cases of a cohort.

    Parameters
    ----------
    folder : Path
        The cohort, or a single case's own folder. Links are followed.
    format : str
        Key of `FORMATS` or of `ALIASES`, or "auto" to take whatever is there.
    labels : str
        Key of `helpers.regions.CONVENTIONS`: whose numbers the references use. By default a case's name says it
        (`helpers.regions.CASE_NAMES`), else the dataset format.
    patients : Path, optional
        CSV with the columns case and patient. By default `patients_of` tells patients apart by name.

    Returns
    -------
    list of Case
        Sorted by identifier; incomplete cases included, so that `helpers.data.checks` can report them.

    Raises
    ------
    DataError
        If the folder, the format, the labels or the patients do not exist, or the folder has no case in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"the cohort folder {folder} does not exist", "give the folder that holds the cases")
    wanted = None if format == "auto" else format_key(format)
    if labels not in ("auto", *CONVENTIONS):
        raise DataError(f"there are no labels called {labels!r}", f"choose auto or one of {', '.join(CONVENTIONS)}")
    for key in [wanted] if wanted else FORMATS:
        cases = FORMATS[key].find(folder)
        if cases:
            break
    else:
        raise _nothing_found(folder, wanted)
    default = format.lower() if format.lower() in CONVENTIONS else None  # brats2024 names files as brats2023 does
    names = patients_of([case.identifier for case in cases], patients)
    return [
        replace(case, patient=names[case.identifier], labels=_labels_of(case, default) if labels == "auto" else labels)
        for case in sorted(cases, key=lambda case: case.identifier)
    ]


def _labels_of(case: Case, default: str | None) -> str:
    """Convention of a case for which none was given: MSD's, or what its name says, or that of its format."""
    own = FORMATS[case.format].labels
    return own if case.format == "msd" else convention_by_name(case.identifier, default or own)


def case_of_files(files: Mapping[str, Path], *, labels: str = "brats2021") -> Case:
    """Make a case from one file for each modality, such as {"t1": Path("x_t1.nii.gz"), ...}; raises `DataError`."""
    missing = [modality for modality in MODALITIES if not files.get(modality)]
    if missing:
        raise DataError(f"no file was given for {' and '.join(missing)}", f"all of {', '.join(MODALITIES)} are needed")
    images = {modality: Source(Path(files[modality])) for modality in MODALITIES}
    first = images[MODALITIES[0]].path
    role = _role_of(first.name)
    name = (role[0] or first.resolve().parent.name or "case") if role else first.name.split(".nii")[0]
    return Case(name, name, "named", images, None, labels)


def format_key(name: str) -> str:
    """Resolve the name or alias of a dataset format ("brats2020", "phantom") to its key in `FORMATS`."""
    key = ALIASES.get(name.lower(), name.lower())
    if key not in FORMATS:
        raise DataError(f"there is no dataset format {name!r}", f"choose one of {', '.join([*FORMATS, *ALIASES])}")
    return key


def convention_of(case: Case) -> LabelConvention:
    """Label convention of the case's reference."""
    return CONVENTIONS[case.labels]


def patients_of(identifiers: Sequence[str], table: Path | None = None) -> dict[str, str]:
    """Patient of each case: from a CSV with the columns case and patient, else from the names.

    Two names that differ only in a session at their end belong to one patient: ``BraTS-GLI-00005-000`` and ``-001``,
    ``UPENN-GBM-00001_11`` and ``_21``, ``sub-01_ses-1`` and ``sub-01_ses-2``. A number of up to three digits counts as a
    session if what stands before it ends in a number of at least three digits and some name shares that beginning.
    """
    if table is not None:
        return _patients_in(Path(table), identifiers)
    numbered = {name: match[1] for name in identifiers if (match := re.fullmatch(r"(.*\d{3,})[-_]\d{1,3}", name))}
    shared = {patient for patient, count in Counter(numbered.values()).items() if count > 1}
    several = len(set(numbered.values())) > 1  # of names such as 2021_001, 2021_002 the beginning is no patient
    patients = {}
    for name in identifiers:
        match = next((match for pattern in _SESSIONS if (match := re.fullmatch(pattern, name, re.IGNORECASE))), None)
        patients[name] = match[1] if match else name
        if not match and several and numbered.get(name) in shared:
            patients[name] = numbered[name]
    return patients


_SESSIONS = (
    r"(BraTS-[A-Z]+-\d+)-\d{3}",
    r"(BraTS1[789]_.+)_\d+",
    r"(.+?)[-_](?:ses|session|visit|tp|timepoint|week|fu|followup|scan)[-_]?\w*\d\w*",
)
"""Beginning of a name that is the patient's, before what public data sets append for a session."""


def _patients_in(table: Path, identifiers: Sequence[str]) -> dict[str, str]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = {row["case"]: row["patient"] for row in csv.DictReader(stream)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        problem = f"{table} is not a table of patients ({error!r})"
        raise DataError(problem, "give a CSV file with the columns case and patient") from error
    absent = [name for name in identifiers if not rows.get(name)]
    if absent:
        raise DataError(f"{table} names no patient for {len(absent)} cases such as {absent[0]}", "add a row for each case")
    return {name: rows[name] for name in identifiers}


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder, links followed, hidden ones left out; of a folder named like a file, what is in it."""
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root) / name for name in sorted(files) if not name.startswith("."))


def _role_of(name: str) -> tuple[str, str, str] | None:
    """Case, role ("t1" ... "seg") and dataset format that a file's name stands for; None if it is no name of an image."""
    match = _NAME.match(name)
    if not match:
        return None
    ending = match["ending"].lower()
    own = (key for key, (separator, endings) in _OWN.items() if match["separator"] == separator and ending in endings)
    return match["stem"] or "", _ROLES[ending], next(own, "named")


def _find_named(folder: Path) -> list[Case]:
    """Cases of one file a modality, whose names end in one of `SPELLINGS`."""
    groups: dict[tuple[Path, str], dict[str, list[tuple[Path, str]]]] = defaultdict(lambda: defaultdict(list))
    for path in _walk(folder):
        # On Kaggle, a file is often a folder of its own name with one file of another name in it.
        outer = path.parent if path.parent.name.lower().endswith(ENDINGS) and path.name.lower().endswith(ENDINGS) else path
        role = _role_of(outer.name)
        if role:
            groups[outer.parent, role[0]][role[1]].append((path, role[2]))
    found: dict[str, list[Case]] = defaultdict(list)
    beside = Counter(parent for (parent, _), roles in groups.items() if set(roles) & set(MODALITIES))
    for (parent, stem), roles in groups.items():
        if set(roles) & set(MODALITIES):
            case = _named_case(printable(stem or parent.resolve().name or "case"), roles)
            if case.label is None:
                others = [
                    (name, paths["seg"])
                    for (place, name), paths in groups.items()
                    if place == parent and set(paths) == {"seg"} and "_segm." in paths["seg"][0][0].name.lower()
                ]
                case = _with_misnamed_label(case, others, alone=beside[parent] == 1)
            found[case.identifier].append(case)
    return [_one_of(cases) for cases in found.values()]


def _named_case(identifier: str, roles: Mapping[str, list[tuple[Path, str]]]) -> Case:
    faults = [
        Fault(
            identifier,
            files[0][0].name,
            f"{' and '.join(path.name for path, _ in files)} are both its {'reference' if role == 'seg' else role}",
            "remove or rename all but one",
        )
        for role, files in roles.items()
        if len(files) > 1
    ]
    formats = {name for role, files in roles.items() for _, name in files}
    images = {modality: Source(roles[modality][0][0]) for modality in MODALITIES if modality in roles}
    label = roles["seg"][0][0] if "seg" in roles else None
    key = formats.pop() if len(formats) == 1 else "named"
    return Case(identifier, identifier, key, images, label, faults=tuple(faults))


def _with_misnamed_label(case: Case, others: Sequence[tuple[str, list[tuple[Path, str]]]], *, alone: bool) -> Case:
    """Give a case the reference beside it whose name says another case, if there is no other case that it can belong to."""
    for name, files in others:
        owner = _MISNAMED.get(name)
        if owner == case.identifier or (alone and owner is None and len(others) == 1):
            return replace(case, label=files[0][0])
    if alone or not others:
        return case
    names = [files[0][0].name for name, files in others if name not in _MISNAMED]
    fault = Fault(
        case.identifier, "", f"{', '.join(names)} belongs to no case by its name", "name it <case>_seg.nii.gz", WARNING
    )
    return replace(case, faults=(*case.faults, fault)) if names else case


def _one_of(cases: Sequence[Case]) -> Case:
    """The case of several folders: together if each has other modalities, else with the fault that it is there twice."""
    first = cases[0]
    if len(cases) == 1:
        return first
    images = {modality: source for case in cases for modality, source in case.images.items()}
    labels = [case.label for case in cases if case.label]
    if len(images) == sum(len(case.images) for case in cases) and len(labels) < 2:
        faults = tuple(fault for case in cases for fault in case.faults)
        return replace(first, images=images, label=labels[0] if labels else None, faults=faults)
    places = " and ".join(str(case.files[0].parent) for case in cases)
    fault = Fault(
        first.identifier, "", f"there are {len(cases)} cases of this name, in {places}", "rename or remove all but one"
    )
    return replace(first, faults=(fault,))


def _find(key: str) -> Callable[[Path], list[Case]]:
    """Finder for the named cases of one dataset format."""
    return lambda folder: [case for case in _find_named(folder) if case.format == key]


def _find_msd(folder: Path) -> list[Case]:
    """Finder for MSD Task01: dataset.json, 4-D imagesTr (and imagesTs, without labels), labelsTr."""
    description = folder / "dataset.json"
    paths = sorted([*folder.glob("imagesTr/*.nii*"), *folder.glob("imagesTs/*.nii*")])
    if not description.is_file():
        return []
    order = _msd_channels(description)
    cases = []
    for path in paths:
        if path.name.startswith("."):
            continue  # macOS leaves ._BRATS_001.nii.gz beside the real files in the published archive
        name = path.name.split(".nii")[0]
        label = folder / "labelsTr" / path.name
        images = {modality: Source(path, channel) for modality, channel in order.items()}
        cases.append(Case(name, name, "msd", images, label if label.is_file() else None))
    return cases


def _msd_channels(description: Path) -> dict[str, int]:
    try:
        names = json.loads(description.read_text(encoding="utf-8"))["modality"]
        channels = {_ROLES[name.lower()]: int(number) for number, name in names.items()}
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        problem = f"{description} does not describe the channels of MSD Task01 ({error!r})"
        raise DataError(problem, 'expected "modality": FLAIR, T1w, t1gd, T2w') from error
    if set(channels) != set(MODALITIES):
        problem = f"{description} names the channels {sorted(channels)}"
        raise DataError(problem, f"expected all of {list(MODALITIES)}")
    return channels


def _nothing_found(folder: Path, wanted: str | None) -> DataError:
    """Say what is in a folder without a case, and which name was nearest."""
    paths = list(_walk(folder))
    problem = f"{folder} holds no case in {FORMATS[wanted].name if wanted else 'any known dataset format'}"
    remedy = "name the files <case>_t1.nii.gz, _t1ce, _t2, _flair and _seg (see the README, your own data)"
    images = [path for path in paths if path.name.lower().endswith(ENDINGS)]
    if not paths:
        return DataError(f"{problem}: it is empty", "give the folder that holds the cases")
    if not images:
        endings = Counter(path.suffix.lower() or path.name for path in paths)
        found = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(4))
        other = next((path for path in paths if _conversion(path) != _conversion(Path("x"))), None)
        return DataError(f"{problem}: no NIfTI file, but {found}", _conversion(other) if other else remedy)
    name = images[0].name
    if wanted and (other := _find_named(folder)):
        return DataError(problem, f"its files, such as {other[0].files[0].name}, are in the format {other[0].format}")
    token = re.split(r"[-_. ]", re.split(r"\.nii", name, flags=re.IGNORECASE)[0])[-1].lower()
    near = difflib.get_close_matches(token, _ROLES, 1, 0.5)
    hint = f"; the nearest known ending of {name} is {near[0]}" if near else f", such as {name}"
    return DataError(f"{problem}: {len(images)} NIfTI files{hint}", remedy)


FORMATS: dict[str, Format] = {
    "brats2021": Format("BraTS 2018-2021 (<case>/<case>_t1.nii.gz, _t1ce, _t2, _flair, _seg)", "brats2021", _find("brats2021")),
    "brats2023": Format(
        "BraTS 2023 and later (<case>/<case>-t1n.nii.gz, -t1c, -t2w, -t2f, -seg)", "brats2023", _find("brats2023")
    ),
    "named": Format("other spellings of one file a modality (t1.nii.gz, <case>-T1Gd.nii.gz)", "brats2021", _find("named")),
    "msd": Format("MSD Task01 (dataset.json, imagesTr/BRATS_001.nii.gz with four channels, labelsTr)", "msd", _find_msd),
}
"""Dataset formats. To read a cohort of your own, rename its files to one of them or add a `Format` here."""

ALIASES: dict[str, str] = {
    "phantom": "brats2021",
    "brats2018": "brats2021",
    "brats2019": "brats2021",
    "brats2020": "brats2021",
    "brats2024": "brats2023",
    **dict.fromkeys(("brats-peds", "brats-met", "brats-men", "brats-africa"), "brats2023"),
    "task01": "msd",
}
"""Other names of dataset formats."""


# Arrays


def read_image(case: Case, *, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Read the four modalities of a case in the order of `MODALITIES`.

    Parameters
    ----------
    case : Case
    threads : int
        How many files to read and decompress at a time.

    Returns
    -------
    image : array (4, X, Y, Z)
        In the grid, units and, if all four agree, number type of the files. A file whose voxels are those of the first one
        in another order of axes, or off by a small share of a voxel, is taken to the first one's grid.
    affine : float64 array (4, 4)
        From voxel indices to millimetres in RAS+.

    Raises
    ------
    DataError
        If a modality is missing, a file cannot be read, or shapes or affines differ.
    """
    volumes, affine, faults = read_modalities(case, threads=threads)
    raise_first(case.identifier, (*missing_faults(case), *faults))
    return np.stack([volumes[modality] for modality in MODALITIES]), affine


def read_modalities(case: Case, *, threads: int = 1) -> tuple[dict[str, np.ndarray], np.ndarray | None, list[Fault]]:
    """Read as many modalities as can be read: volumes (X, Y, Z) in the grid of the first, its affine, and the faults found."""
    volumes: dict[str, np.ndarray] = {}
    faults = list(case.faults)
    grid: tuple[str, tuple[int, ...], np.ndarray] | None = None

    def attempt(path: Path) -> tuple[list[np.ndarray], np.ndarray] | Fault:
        try:
            return read_volumes(path, list(case.channels[path].values()))
        except Exception as error:  # whatever one file does must not end the work on the others
            return fault_of(case.identifier, error, path)

    with ThreadPoolExecutor(threads) as pool:
        for path, outcome in zip(case.channels, pool.map(attempt, case.channels), strict=True):
            if isinstance(outcome, Fault):
                faults.append(outcome)
                continue
            found, affine = outcome
            grid = grid or (path.name, found[0].shape, affine)
            for modality, volume in zip(case.channels[path], found, strict=True):
                turned, fault = onto_grid(volume, affine, grid, case.identifier, path.name)
                faults += [fault] if fault and fault not in faults else []
                if turned is not None:
                    volumes[modality] = turned
    return volumes, grid[2] if grid else None, faults


def onto_grid(
    volume: np.ndarray, affine: np.ndarray, grid: tuple[str, tuple[int, ...], np.ndarray], identifier: str, name: str
) -> tuple[np.ndarray | None, Fault | None]:
    """Take a volume to the grid (file, shape, affine) of a case: the volume, or None if it lies elsewhere, and what to say."""
    first, shape, to_affine = grid
    turned = turn_to_grid(volume, affine, shape, to_affine)
    if turned is not None:
        said = turned[1] and Fault(identifier, name, f"{name} {turned[1]} {first}", "nothing needs to be done", WARNING)
        return turned[0], said or None
    if sorted(volume.shape) != sorted(shape):
        problem = f"{name} has shape {volume.shape}, {first} has {shape}"
        return None, Fault(identifier, name, problem, "resample one to the other's grid")
    problem = f"{name} has another affine than {first}, so their voxels lie elsewhere in the head"
    return None, Fault(identifier, name, problem, "register the images to each other")


def missing_faults(case: Case) -> Iterator[Fault]:
    """One fault for each modality without a file."""
    for modality in case.missing:
        yield Fault(case.identifier, "", f"{MODALITY_NAMES[modality]} is missing", "leave the case out or add the file")


def raise_first(identifier: str, faults: Iterable[Fault]) -> None:
    """Raise the first fault that is an error as a `DataError`."""
    for fault in faults:
        if fault.severity == ERROR:
            raise DataError(f"case {identifier or '(unnamed)'}: {fault.problem}", fault.remedy)


def read_classes(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Read the reference label map as classes 0 to 3, uint8 (X, Y, Z), with its affine; raises `DataError`.

    It is turned to the grid of the case's first image, if it has the same voxels in another order of axes.
    """
    if case.label is None:
        raise DataError(f"case {case.identifier} has no reference label map", "add one, or only predict the case")
    values, affine = read_label_values(case.label)
    classes = to_numbered_classes(values, convention_of(case), case.label)
    first = next(iter(case.channels), None)
    if first is None:
        return classes, affine
    image = open_volume(first)
    grid = (first.name, image.shape[:3], _affine_in_mm(image, first))
    turned, fault = onto_grid(classes, affine, grid, case.identifier, case.label.name)
    raise_first(case.identifier, [fault] if fault else [])
    return turned, grid[2]


def to_numbered_classes(values: np.ndarray, convention: LabelConvention, path: Path) -> np.ndarray:
    """`helpers.regions.to_classes` for the label map of a file: an unknown number is a `DataError`."""
    try:
        return to_classes(values, convention)
    except ValueError as error:
        raise DataError(f"{path}: {error}", f"name the numbers with --labels ({', '.join(CONVENTIONS)})") from error
