"""Write a cohort in the dataset format of another tool, so that `helpers.data.cases.discover` reads the same from it.

Voxel values, grids, label numbers and names of cases are kept; of a file's header only the geometry is, since descriptions and
extensions may hold the patient's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from helpers.data.cases import Case, Fault, fault_of, labels_by_name, raise_first, read_modalities, read_numbers
from helpers.data.nifti import open_volume, write_volume
from helpers.regions import BACKGROUND, CONVENTIONS, MODALITIES, LabelConvention, renumber
from helpers.workspace import DataError, require_writable, write_atomically

ENDINGS: dict[str, tuple[str, ...]] = {
    "brats2021": ("_t1", "_t1ce", "_t2", "_flair", "_seg"),
    "brats2023": ("-t1n", "-t1c", "-t2w", "-t2f", "-seg"),
    "bids": ("_T1w", "_ce-gadolinium_T1w", "_T2w", "_FLAIR", "_dseg"),
    "nnunet": ("_0000", "_0001", "_0002", "_0003", ""),
}
"""How the files of a format end, in the order of `MODALITIES`, and the reference; "msd" has one file of four channels."""
FORMATS = (*ENDINGS, "msd")
RATERS = "derivatives/segmentation"
"""Where a BIDS dataset has its references."""
MADE_BY = [{"Name": "brain-tumour-segmentation"}]


def convert_cohort(
    cases: Sequence[Case], format: str, folder: Path, *, workers: int | None = None
) -> tuple[list[Case], list[Fault]]:
    """Write cases in a dataset format to a new folder; a case that cannot be converted is left out.

    Parameters
    ----------
    cases : sequence of Case
    format : str
        One of `FORMATS`. "bids" keeps the numbers of references and describes them; "nnunet" keeps those of data sets with
        further labels, such as the resection cavity; the others have numbers of their own.
    folder : Path
        New or empty; for nnU-Net called Dataset<three digits>_<name>.
    workers : int, optional
        Cases at a time; by default one for each core.

    Returns
    -------
    converted : list of Case
    faults : list of Fault

    Raises
    ------
    DataError
        If the folder cannot be taken, no case can be converted, two patients would share a name, or cases of one nnU-Net
        dataset have different numbers.
    """
    folder = Path(folder)
    if format == "nnunet" and not re.fullmatch(r"Dataset\d{3}_.+", folder.name):
        raise DataError(
            f"nnU-Net does not find a folder called {folder.name}", "call it Dataset and three digits: Dataset501_Gliomas"
        )
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty", "give the name of a new folder to --out")
    sessions = _sessions(cases) if format == "bids" else {}
    conventions = {case.identifier: _convention(case, format) for case in cases}
    if format == "nnunet" and len({conventions[case.identifier].name for case in cases if case.label}) > 1:
        raise DataError("the cases have label numbers of several data sets", "convert each data set by itself")
    require_writable(folder)

    def convert(case: Case) -> Case | Fault:
        try:
            _convert(case, format, folder, conventions[case.identifier], sessions.get(case.identifier))
        except Exception as error:  # of whatever kind: one bad case stops no other
            return fault_of(case.identifier, error)
        return case

    with ThreadPoolExecutor(max(1, joblib.cpu_count() if workers is None else workers)) as pool:
        outcomes = list(pool.map(convert, cases))
    converted = [outcome for outcome in outcomes if isinstance(outcome, Case)]
    faults = [outcome for outcome in outcomes if isinstance(outcome, Fault)]
    if not converted:
        raise DataError(f"no case could be converted ({faults[0]})", "look at the cases with the command check")
    _describe(converted, format, folder, conventions, sessions)
    return converted, faults


def _convention(case: Case, format: str) -> LabelConvention:
    """The numbers in which the reference of a case is written."""
    own = CONVENTIONS[case.labels]
    if format == "bids" or (format == "nnunet" and own.others):
        return own
    return CONVENTIONS[format if format in ("nnunet", "msd") else labels_by_name(case.identifier, format)]


def _sessions(cases: Iterable[Case]) -> dict[str, tuple[str, str]]:
    """Subject and session of each case by the rules of BIDS, whose names have letters and digits only."""
    names = {}
    for case in cases:
        rest = case.identifier.removeprefix(case.patient) if case.identifier.startswith(case.patient) else case.identifier
        plain = [re.sub("[^A-Za-z0-9]", "", part) for part in (case.patient, rest)]
        names[case.identifier] = (f"sub-{plain[0]}", f"ses-{plain[1] or 1}")
    patients = {names[case.identifier][0]: case.patient for case in cases}
    if len(set(names.values())) < len(names) or len(patients) < len({case.patient for case in cases}):
        raise DataError(
            "two cases have the same letters and digits in their names, so BIDS cannot tell them apart", "rename one"
        )
    return names


def _convert(case: Case, format: str, folder: Path, convention: LabelConvention, session: tuple[str, str] | None) -> None:
    """Write one case, its reference last."""
    volumes, affine, faults = read_modalities(case)
    raise_first(case.identifier, faults)
    reference = None
    if case.label:
        try:
            reference = renumber(read_numbers(case)[0], CONVENTIONS[case.labels], convention)
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{case.label.name}: {error}", "give --labels, or convert to bids, which keeps every number"
            ) from error
    name, place, raters = case.identifier, Path(case.identifier), Path(case.identifier)
    if format in ("nnunet", "msd"):
        place, raters = Path("imagesTr" if case.label else "imagesTs"), Path("labelsTr")
    if session:
        name, place = "_".join(session), Path(*session, "anat")
        raters = RATERS / place
    like = open_volume(next(iter(case.channels)))
    *endings, ending = ENDINGS.get(format, ("", ""))
    images = [volumes[modality] for modality in MODALITIES]
    images = [np.stack(images, axis=-1)] if format == "msd" else images
    for image, each in zip(images, endings, strict=True):
        write_volume(folder / place / f"{name}{each}.nii.gz", image, affine, like=like)
    if reference is not None:
        write_volume(folder / raters / f"{name}{ending}.nii.gz", reference, affine, like=like)
        if session:
            rows = [("index", "name"), *convention.meanings.items()]
            _write(folder / raters / f"{name}{ending}.tsv", rows)


def _describe(
    cases: Sequence[Case],
    format: str,
    folder: Path,
    conventions: Mapping[str, LabelConvention],
    sessions: Mapping[str, tuple[str, str]],
) -> None:
    """Write what a format wants beside the images."""
    labelled = [case for case in cases if case.label]
    if format == "nnunet":
        convention = conventions[labelled[0].identifier] if labelled else CONVENTIONS["nnunet"]
        cavity = [number for number, kind, _ in convention.others if kind == BACKGROUND]
        content = {
            "channel_names": {str(number): name for number, name in enumerate(("T1", "T1ce", "T2", "FLAIR"))},
            "labels": {"background": 0, **convention.regions},
            # A voxel takes the number of the last region that claims it.
            "regions_class_order": [convention.ed, convention.ncr, convention.et, *cavity],
            "numTraining": len(labelled),
            "file_ending": ".nii.gz",
        }
        _write(folder / "dataset.json", content)
    elif format == "msd":
        paths = [f"./imagesTr/{case.identifier}.nii.gz" for case in labelled]
        content = {
            "name": folder.name,
            "tensorImageSize": "4D",
            "modality": {str(number): name for number, name in enumerate(("T1w", "t1gd", "T2w", "FLAIR"))},
            "labels": {"0": "background", **{str(n): name for n, name in CONVENTIONS["msd"].meanings.items()}},
            "numTraining": len(labelled),
            "numTest": len(cases) - len(labelled),
            "training": [{"image": path, "label": path.replace("imagesTr", "labelsTr")} for path in paths],
            "test": [f"./imagesTs/{case.identifier}.nii.gz" for case in cases if not case.label],
        }
        _write(folder / "dataset.json", content)
    elif format == "bids":
        about = {"Name": folder.name, "BIDSVersion": "1.10.0", "GeneratedBy": MADE_BY}
        _write(folder / "dataset_description.json", {**about, "DatasetType": "raw"})
        _write(folder / RATERS / "dataset_description.json", {**about, "DatasetType": "derivative"})
        subjects = sorted({sessions[case.identifier][0] for case in cases})
        _write(folder / "participants.tsv", [("participant_id",), *((subject,) for subject in subjects)])
        for subject in subjects:
            rows = [
                (sessions[case.identifier][1], case.identifier) for case in cases if sessions[case.identifier][0] == subject
            ]
            _write(folder / subject / f"{subject}_sessions.tsv", [("session_id", "case"), *rows])
        _write(folder / "sessions.json", {"case": {"Description": "Name of the case before it was converted"}})
        _write(folder / "README.md", "Registered, skull-stripped MRI of brain tumours; label maps in derivatives.\n")


def _write(path: Path, content: Any) -> None:
    """Write an object as JSON, rows as a table, or text."""
    if not isinstance(content, str):
        rows = ("\t".join(map(str, row)) for row in content)
        content = (json.dumps(content, indent=2) if isinstance(content, dict) else "\n".join(rows)) + "\n"
    with write_atomically(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
