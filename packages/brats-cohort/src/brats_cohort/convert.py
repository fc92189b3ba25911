"""Write a cohort in the dataset format of another tool, so that `brats_cohort.cases.discover` reads the same from it.

Voxel values, grids, label numbers and names of cases are kept; of a file's header only the geometry is, since descriptions and
extensions may hold the patient's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from brats_cohort.case import Case, Fault, fault_of
from brats_cohort.cases import raise_first, read_modalities, read_numbers
from brats_cohort.files import DataError, require_writable, write_atomically
from brats_cohort.formats import labels_by_name
from brats_cohort.nifti import open_volume, write_volume
from brats_cohort.regions import BACKGROUND, CONVENTIONS, MODALITIES, LabelConvention, renumber

ENDINGS: dict[str, tuple[str, ...]] = {
    "nnunet": ("_0000", "_0001", "_0002", "_0003", ""),
    "msd": ("", ""),
    "bids": ("_T1w", "_ce-gadolinium_T1w", "_T2w", "_FLAIR", "_dseg"),
    "brats2023": ("-t1n", "-t1c", "-t2w", "-t2f", "-seg"),
    "brats2021": ("_t1", "_t1ce", "_t2", "_flair", "_seg"),
}
"""How the files of a format end, in the order of `MODALITIES` with the reference last; MSD has one file of four channels."""
CHANNELS = ("T1", "T1Gd", "T2", "FLAIR")
RATERS = "derivatives/segmentation"
"""Where a BIDS dataset has its references."""


def convert_cohort(
    cases: Sequence[Case], format: str, folder: Path, *, workers: int | None = None
) -> tuple[list[Case], list[Fault]]:
    """Write cases in a dataset format, a key of `ENDINGS`, to a new folder.

    BIDS keeps the numbers of references and describes them, nnU-Net those of data sets with further labels, such as the
    resection cavity; the other formats have numbers of their own. Returns the cases that were converted, and what is wrong with
    the others.

    Raises
    ------
    DataError
        If there is no such format, the folder will not do, no case can be converted, BIDS cannot tell two cases apart, or the
        cases of one nnU-Net dataset have the numbers of several data sets.
    """
    folder = Path(folder)
    if format not in ENDINGS:
        raise DataError(f"no cohort can be written as {format!r}", f"choose one of {', '.join(ENDINGS)}")
    if format == "nnunet" and not re.fullmatch(r"Dataset\d{3}_.+", folder.name):
        raise DataError(f"nnU-Net does not find a folder called {folder.name}", "call it Dataset501_Gliomas or alike")
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty", "give the name of a new folder")
    if not cases:
        raise DataError("there are no cases to convert", "give at least one")
    conventions = {case.identifier: _convention(case, format) for case in cases}
    if format == "nnunet" and len({conventions[case.identifier].name for case in cases if case.label}) > 1:
        raise DataError("the cases have label numbers of several data sets", "convert each data set by itself")
    sessions = _sessions(cases) if format == "bids" else {}
    require_writable(folder)

    def convert(case: Case) -> Case | Fault:
        try:
            _convert(case, format, folder, conventions[case.identifier], sessions.get(case.identifier))
        except Exception as error:  # of whatever kind: one bad case stops no other
            return fault_of(case.identifier, error)
        return case

    with ThreadPoolExecutor(max(1, joblib.cpu_count() if workers is None else workers)) as pool:
        outcomes = list(pool.map(convert, cases))
    converted, faults = ([each for each in outcomes if isinstance(each, kind)] for kind in (Case, Fault))
    if not converted:
        raise DataError(f"no case could be converted ({faults[0]})", "look at the cases with the command check")
    if format == "bids":
        _describe_bids(folder, {case.identifier: sessions[case.identifier] for case in converted})
    elif format in ("nnunet", "msd"):
        example = next((case for case in converted if case.label), converted[0])
        _describe_lists(folder, format, converted, conventions[example.identifier])
    return converted, faults


def _convention(case: Case, format: str) -> LabelConvention:
    """The numbers in which the reference of a case is written."""
    own = CONVENTIONS[case.labels]
    if format == "bids" or (format == "nnunet" and own.others):
        return own
    return CONVENTIONS[format if format in ("nnunet", "msd") else labels_by_name(case.identifier, format)]


def _sessions(cases: Sequence[Case]) -> dict[str, tuple[str, str]]:
    """Subject and session of each case; BIDS allows letters and digits only."""
    names, patients = {}, set()
    for case in cases:
        parts = (case.patient, case.identifier.removeprefix(case.patient) or "1")
        names[case.identifier] = tuple(re.sub("[^A-Za-z0-9]", _latin, part) for part in parts)
        patients.add((case.patient, names[case.identifier][0]))
    if len(set(names.values())) < len(names) or len({name for _, name in patients}) < len(patients):
        raise DataError("two cases have the same letters and digits in their names", "rename one: BIDS knows no other signs")
    return {key: (f"sub-{subject}", f"ses-{session}") for key, (subject, session) in names.items()}


def _latin(sign: re.Match) -> str:
    """The number of a letter that BIDS does not know, in hexadecimal; nothing for other signs."""
    return f"{ord(sign[0]):x}" if sign[0].isalnum() else ""


def _convert(case: Case, format: str, folder: Path, to: LabelConvention, session: tuple[str, str] | None) -> None:
    """Write one case, its reference last."""
    volumes, affine, faults = read_modalities(case)
    raise_first(case.identifier, faults)
    name, place, raters = case.identifier, folder / case.identifier, folder / case.identifier
    if format in ("nnunet", "msd"):
        place, raters = folder / ("imagesTr" if case.label else "imagesTs"), folder / "labelsTr"
    if session:
        name = "_".join(session)
        place, raters = (folder.joinpath(root, *session, "anat") for root in ("", RATERS))
    reference, like = _reference(case, to) if case.label else None, open_volume(next(iter(case.channels)))
    images = [volumes[modality] for modality in MODALITIES]
    *endings, ending = ENDINGS[format]
    for image, each in zip([np.stack(images, axis=-1)] if format == "msd" else images, endings, strict=True):
        write_volume(place / f"{name}{each}.nii.gz", image, affine, like=like)
    if reference is not None:
        write_volume(raters / f"{name}{ending}.nii.gz", reference, affine, like=like)
        if session:
            _write(raters / f"{name}{ending}.tsv", [("index", "name"), *to.meanings.items()])


def _reference(case: Case, to: LabelConvention) -> np.ndarray:
    values, _ = read_numbers(case)
    try:
        return renumber(values, CONVENTIONS[case.labels], to)
    except ValueError as error:
        problem = f"{case.label.name}: {error}"
        raise DataError(problem, "give --labels, or convert to bids, which keeps every number") from error


def _describe_lists(folder: Path, format: str, cases: Sequence[Case], convention: LabelConvention) -> None:
    """Write dataset.json of nnU-Net or MSD."""
    paths = [f"./imagesTr/{case.identifier}.nii.gz" for case in cases if case.label]
    channels, content = {str(number): name for number, name in enumerate(CHANNELS)}, {"numTraining": len(paths)}
    if format == "nnunet":
        outside = [number for number, kind, _ in convention.others if kind == BACKGROUND]
        # A voxel takes the number of the last region that claims it.
        order = [convention.ed, convention.ncr, convention.et, *outside]
        content |= {"channel_names": channels, "labels": {"background": 0, **convention.regions}}
        content |= {"regions_class_order": order, "file_ending": ".nii.gz"}
    else:
        labels = {"0": "background", **{str(number): name for number, name in convention.meanings.items()}}
        content |= {"name": folder.name, "tensorImageSize": "4D", "modality": channels, "labels": labels}
        content["training"] = [{"image": path, "label": path.replace("imagesTr", "labelsTr")} for path in paths]
        content["test"] = [f"./imagesTs/{case.identifier}.nii.gz" for case in cases if not case.label]
        content["numTest"] = len(content["test"])
    _write(folder / "dataset.json", content)


def _describe_bids(folder: Path, sessions: Mapping[str, tuple[str, str]]) -> None:
    """Write what BIDS wants beside the images, and the names that the cases had."""
    about = {"Name": folder.name, "BIDSVersion": "1.10.0", "GeneratedBy": [{"Name": "brain-tumour-segmentation"}]}
    _write(folder / "dataset_description.json", {**about, "DatasetType": "raw"})
    _write(folder / RATERS / "dataset_description.json", {**about, "DatasetType": "derivative"})
    _write(folder / "README.md", "Registered, skull-stripped MRI of brain tumours; label maps in derivatives.\n")
    _write(folder / "sessions.json", {"case": {"Description": "Name of the case before it was converted"}})
    subjects = sorted({subject for subject, _ in sessions.values()})
    _write(folder / "participants.tsv", [("participant_id",), *((subject,) for subject in subjects)])
    for subject in subjects:
        rows = [(session, name) for name, (owner, session) in sessions.items() if owner == subject]
        _write(folder / subject / f"{subject}_sessions.tsv", [("session_id", "case"), *rows])


def _write(path: Path, content: Any) -> None:
    """Write an object as JSON, rows as a table, or text."""
    if not isinstance(content, str):
        rows = ("\t".join(map(str, row)) for row in content)
        content = (json.dumps(content, indent=2) if isinstance(content, dict) else "\n".join(rows)) + "\n"
    with write_atomically(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
