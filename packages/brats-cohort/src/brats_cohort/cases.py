"""Find the cases of a cohort and read them: `discover` leads from a folder to cases, `read_image` from a case to arrays.

What the names of files mean is decided in `brats_cohort.formats`; how one file is read, in `brats_cohort.nifti`; what is wrong
with its contents, in `brats_cohort.session` and `brats_cohort.checks`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from brats_cohort.case import ERROR, WARNING, Case, Fault, Source, fault_of
from brats_cohort.files import DataError, printable
from brats_cohort.formats import DESCRIBED, find_cases, format_key, labels_by_name, nothing_found, role_of, rows_of
from brats_cohort.grid import turn_to_grid
from brats_cohort.nifti import affine_in_mm, forms_apart, open_volume, read_label_values, read_volumes
from brats_cohort.regions import CONVENTIONS, MODALITIES, MODALITY_NAMES, LabelConvention, to_classes

MOST_LABELS = 32
"""Different values above which a file is taken for an image instead of a label map."""


def discover(folder: Path, format: str = "auto", *, labels: str = "auto", patients: Path | None = None) -> list[Case]:
    """Find the cases of a cohort, sorted by identifier, incomplete ones included.

    Parameters
    ----------
    folder : Path
        The cohort, or a single case's own folder. Links are followed.
    format : str
        Key of `brats_cohort.formats.FORMATS` or `ALIASES`, or "auto" for the first that fits.
    labels : str
        Key of `brats_cohort.regions.CONVENTIONS`: whose numbers the references use. By default a case's name says it
        (`brats_cohort.regions.CASE_NAMES`), else the dataset format.
    patients : Path, optional
        CSV with the columns case and patient. By default `patients_of` tells patients apart by name.

    Raises
    ------
    DataError
        If the folder, the format, the labels or the patients do not exist, or the folder has no case in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        wrong = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"the cohort folder {folder} {wrong}", "give the folder that holds the cases")
    wanted = None if format == "auto" else format_key(format)
    if labels not in ("auto", *CONVENTIONS):
        raise DataError(f"there are no labels called {labels!r}", f"choose auto or one of {', '.join(CONVENTIONS)}")
    cases = find_cases(folder, wanted)
    if not cases:
        raise nothing_found(folder, wanted)
    cases = [replace(case, identifier=printable(case.identifier)) for case in cases]
    default = format.lower() if format.lower() in CONVENTIONS else ""  # brats2024 names files as brats2023 does
    names = patients_of([case.identifier for case in cases], patients)
    if patients is None:  # BIDS says itself which sessions are one patient's
        first: dict[str, str] = {}
        for case in sorted(cases, key=lambda case: case.identifier):
            if case.format == "bids":
                names[case.identifier] = first.setdefault(case.patient, names[case.identifier])

    def labels_of(case: Case) -> str:
        if labels != "auto" or case.format in DESCRIBED:
            own = case.labels or ("" if case.label else "brats2021")  # without a reference nothing depends on them
            return own if labels == "auto" else labels
        return labels_by_name(case.identifier, case.format, default)

    ordered = sorted(cases, key=lambda case: case.identifier)
    found = [replace(case, patient=names[case.identifier], labels=labels_of(case)) for case in ordered]
    if any(case.label and not case.labels for case in found):
        raise DataError(
            f"{folder} does not say whose label numbers it uses", f"name them with --labels ({', '.join(CONVENTIONS)})"
        )
    return found


def case_of_files(files: Mapping[str, Path], *, labels: str = "brats2021") -> Case:
    """Make a case from one file for each modality, such as {"t1": Path("x_t1.nii.gz"), ...}; raises `DataError`.

    Names that say different cases give it a fault, a warning.
    """
    missing = [modality for modality in MODALITIES if not files.get(modality)]
    if missing:
        *others, last = missing
        wanted = f"{', '.join(others)} and {last}" if others else last
        raise DataError(f"no file was given for {wanted}", "all of t1, t1ce, t2 and flair are needed")
    images = {modality: Source(Path(files[modality])) for modality in MODALITIES}
    first = images[MODALITIES[0]].path
    role = role_of(first.name)
    name = (role[0] or first.resolve().parent.name or "case") if role else first.name.split(".nii")[0]
    owners = {path.name: role[0].lower() for path in map(Path, files.values()) if (role := role_of(path.name)) and role[0]}
    (common, count), *_ = Counter(owners.values()).most_common(1) or [("", 0)]
    same = re.compile(rf"{re.escape(common)}($|[-_. ])")  # p1_pre may be p1, but case_10 is not case_1
    others = [path for path, owner in owners.items() if count > 1 and not same.match(owner)]
    faults = ()
    if others:
        problem = f"{' and '.join(others)} is of another case than {common} by its name"
        faults = (Fault(printable(name), "", problem, "make sure that all four are of one session", WARNING),)
    return Case(printable(name), name, "named", images, None, labels, faults)


def patients_of(identifiers: Sequence[str], table: Path | None = None) -> dict[str, str]:
    """Patient of each case: from a CSV with the columns case and patient, else from the names.

    Two names that differ only in a session at their end belong to one patient: ``BraTS-GLI-00005-000`` and ``-001``,
    ``UPENN-GBM-00001_11`` and ``_21``, ``sub-01_ses-1`` and ``sub-01_ses-2``, ``P01_20190312`` and ``P01_20200107``,
    ``P01_pre`` and ``P01_postop``. A number of up to three digits counts as a session if what stands before it ends in a number
    of at least three digits and some name shares that beginning. If all names of a cohort are one word and the number of a
    scan, each is a patient: ``Brain_Scan_001`` and ``Brain_Scan_002`` are two.
    """
    if table is not None:
        table = Path(table)
        if not table.exists():
            raise DataError(f"the table of patients {table} does not exist", "check its path")
        read = rows_of(table)
        if read and not {"case", "patient"} <= set(read[0]):
            problem = f"{table} is not a table of patients: its columns are {', '.join(map(str, read[0]))}"
            raise DataError(problem, "give a CSV file with the columns case and patient")
        rows: dict[str, str] = {}
        for row in read:  # a blank after a name would make two patients of one
            name, patient = ((row[column] or "").strip() for column in ("case", "patient"))
            if rows.setdefault(name, patient) != patient:
                problem = f"{table} gives case {name} two patients, {rows[name]} and {patient}"
                raise DataError(problem, "keep the row that is right")
        absent = [name for name in identifiers if not rows.get(name)]
        if absent:
            problem = f"{table} names no patient for {len(absent)} cases such as {absent[0]}"
            raise DataError(problem, "add a row for each case")
        return {name: rows[name] for name in identifiers}
    numbered = {name: match[1] for name in identifiers if (match := re.fullmatch(r"(.*\d{3,})[-_]\d{1,3}", name))}
    shared = {patient for patient, count in Counter(numbered.values()).items() if count > 1}
    several = len(set(numbered.values())) > 1  # of names such as 2021_001, 2021_002 the beginning is no patient
    patients = {}
    for name in identifiers:
        match = next((match for pattern in _SESSIONS if (match := re.fullmatch(pattern, name, re.IGNORECASE))), None)
        patients[name] = match[1] if match else name
        if not match and several and numbered.get(name) in shared:
            patients[name] = numbered[name]
    counted = all(re.fullmatch(r"\D+[-_. ]scan[-_ ]?\d+", name, re.IGNORECASE) for name in identifiers)
    return {name: name for name in identifiers} if counted and len(set(patients.values())) == 1 else patients


_SESSIONS = (
    r"(BraTS-[A-Z]+-\d+)-\d{3}",
    r"(BraTS1[789]_.+)_\d+",
    r"(UPENN-GBM-\d+)_\d+",
    r"(.+?)[-_. ](?:ses|session|visit|tp|time|timepoint|day|week|month|fu|followup|scan)(?:[-_ ]?\w*\d\w*|[-_ ]\d[\w-]*)",
    r"(.*\d)[-_. ](?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])",  # the date of a scan
    r"(.*\d)[-_. ](?:baseline|(?:pre|post)(?:[-_ ]?op)?)",
)
"""Beginning of a name that is the patient's, before what public data sets append for a session."""


def refuse_to_overwrite(target: Path, reading: Iterable[Path]) -> Path:
    """Return `target`; raise `DataError` if writing there would replace a file that is read or be taken for an image."""
    target = Path(target)
    if target.exists() and any(target.samefile(path) for path in reading if path.exists()):
        raise DataError(f"{target} is one of the files that are read", "write to another file or folder")
    role = role_of(target.name)
    if role and role[1] != "seg":
        remedy = "give another name to --out, such as segmentation.nii.gz"
        raise DataError(f"{target} has the name of a {role[1]} image", remedy)
    return target


def read_image(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Read the four modalities of a case: array (4, X, Y, Z) in the order of `MODALITIES`, and affine (4, 4) to mm in RAS+.

    The image has the grid, units and, if all four agree, data type of the files. A file whose voxels are those of the
    first one in another order of axes, or off by a small share of a voxel, is taken to the first one's grid. Raises
    `DataError` if a modality is missing, a file cannot be read, or shapes or affines differ.
    """
    volumes, affine, faults = read_modalities(case)
    raise_first(case.identifier, faults)
    return np.stack([volumes[modality] for modality in MODALITIES]), affine


def read_modalities(case: Case, *, threads: int = 1) -> tuple[dict[str, np.ndarray], np.ndarray | None, list[Fault]]:
    """Read as many modalities as can be read: volumes (X, Y, Z) in the grid of the first, its affine, and all faults."""
    volumes: dict[str, np.ndarray] = {}
    faults = naming_faults(case)
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
            if forms_apart(path) > 0.5:
                problem = f"the sform and the qform of {path.name} put its voxels in different places; the sform is used"
                remedy = "make sure that other programs show it in the right place"
                faults.append(Fault(case.identifier, path.name, problem, remedy, WARNING))
            grid = grid or (path.name, found[0].shape, affine)
            for modality, volume in zip(case.channels[path], found, strict=True):
                turned, fault = onto_grid(volume, affine, grid, case.identifier, path.name)
                faults += [fault] if fault and fault not in faults else []
                if turned is not None:
                    volumes[modality] = turned
    return volumes, grid[2] if grid else None, faults


def onto_grid(
    volume: np.ndarray,
    affine: np.ndarray,
    grid: tuple[str, tuple[int, ...], np.ndarray],
    identifier: str,
    name: str,
    *,
    reference: bool = False,
) -> tuple[np.ndarray | None, Fault | None]:
    """Take a volume to the grid (file, shape, affine) of a case: the volume, or None if it lies elsewhere, and what to say.

    `reference` says that the volume is a reference label map, which is not registered, but written in the images' grid.
    """
    first, shape, to_affine = grid
    turned = turn_to_grid(volume, affine, shape, to_affine)
    if turned is not None:
        said = turned[1] and Fault(identifier, name, f"{name} {turned[1]} {first}", "nothing needs to be done", WARNING)
        return turned[0], said or None
    problem, remedy = f"{name} has shape {volume.shape}, {first} has {shape}", "resample one to the other's grid"
    if sorted(volume.shape) == sorted(shape):
        problem = f"{name} has another affine than {first}, so their voxels lie elsewhere in the head"
        remedy = "write the reference in the grid of the images" if reference else "register the images to each other"
    return None, Fault(identifier, name, problem, remedy)


def naming_faults(case: Case) -> list[Fault]:
    """What the names of a case's files say already: modalities without a file, and `Case.faults`."""
    names, remedy = (MODALITY_NAMES[modality] for modality in case.missing), "leave the case out or add the file"
    beside = {path.name for file in case.files for path in file.parent.glob("*.nii*")} if case.missing else set()
    own = re.compile(rf"{re.escape(case.identifier)}[-_. ]")
    if unclear := sorted(name for name in beside - {file.name for file in case.files} if own.match(name) and not role_of(name)):
        remedy = f"leave the case out, add the file, or rename it if it is {' or '.join(unclear[:3])}"
    return [*(Fault(case.identifier, "", f"{name} is missing", remedy) for name in names), *case.faults]


def raise_first(identifier: str, faults: Iterable[Fault]) -> None:
    """Raise the first fault that is an error as a `DataError`."""
    for fault in faults:
        if fault.severity == ERROR:
            raise DataError(f"case {identifier or '(unnamed)'}: {fault.problem}", fault.remedy)


def read_classes(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Read the reference label map as classes 0 to 3, uint8 (X, Y, Z), with its affine; otherwise as `read_numbers`."""
    values, affine = read_numbers(case)
    return to_numbered_classes(values, CONVENTIONS[case.labels], case.label), affine


def read_numbers(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Read the reference label map of a case in the numbers of its file, with its affine; raises `DataError`.

    It is turned to the grid of the case's first image, if it has the same voxels in another order of axes.
    """
    if case.label is None:
        raise DataError(f"case {case.identifier} has no reference label map", "add one, or only predict the case")
    raise_first(case.identifier, case.faults)  # such as two references
    values, affine = read_label_values(case.label)
    first = next(iter(case.channels), None)
    if first is None:
        return values, affine
    image = open_volume(first)
    grid = (first.name, image.shape[:3], affine_in_mm(image, first))
    turned, fault = onto_grid(values, affine, grid, case.identifier, case.label.name, reference=True)
    raise_first(case.identifier, [fault] if fault else [])
    return turned, grid[2]


def to_numbered_classes(values: np.ndarray, convention: LabelConvention, path: Path, *, option: str = "--labels") -> np.ndarray:
    """`brats_cohort.regions.to_classes` for the label map of a file: an unknown number is a `DataError`.

    `option` is that of the command line which says whose numbers the file holds.
    """
    try:
        return to_classes(values, convention)
    except ValueError as error:
        present = np.unique(values)
        if len(present) > MOST_LABELS:
            problem = f"{path} holds {len(present)} different values and looks like an image, not a label map"
            raise DataError(problem, "give the label map") from error
        fitting = [key for key, other in CONVENTIONS.items() if np.isin(present, list(other.numbers)).all()]
        remedy = f"say whose they are with {option} ({', '.join(fitting)})"
        raise DataError(f"{path}: {error}", remedy if fitting else "correct them: no data set has all of them") from error
