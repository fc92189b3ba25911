"""``python -m helpers predict``: segment one case, four files or a cohort with a trained checkpoint.

Importing PyTorch takes a second or more; a single case is read by a thread meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import joblib
import tyro

from brats_cohort.case import Fault
from brats_cohort.cases import case_of_files, discover, refuse_to_overwrite
from brats_cohort.command import Target
from brats_cohort.files import DataError
from brats_cohort.nifti import ENDINGS
from brats_cohort.regions import CONVENTIONS, convention_by_name
from brats_cohort.session import read_session
from helpers.cli import importing
from helpers.workspace import pick_device

if TYPE_CHECKING:
    from helpers.evaluation.predict import Prediction
    from helpers.models.checkpoints import ModelCard


def run(
    case: Annotated[Path | None, tyro.conf.arg(metavar="[CASE]")] = None,
    /,
    *,
    out: Target,
    t1: Path | None = None,
    t1ce: Path | None = None,
    t2: Path | None = None,
    flair: Path | None = None,
    raw: Path | None = None,
    to: tuple[Literal["t1", "t1ce", "t2", "flair"], ...] = (),
    dicom_seg: bool = False,
    mask: Path | None = None,
    study: int | None = None,
    checkpoint: tuple[Path, ...] = (),
    format: str = "auto",
    labels: Literal["auto", *CONVENTIONS] = "auto",
    tta: bool = False,
    device: str = "auto",
) -> int:
    """Segment one case, four files or a cohort, each in its own grid; status 1 if a case could not be segmented.

    Parameters
    ----------
    case
        Folder of one case, or of a cohort.
    out
        Label map (.nii.gz) of one case, or a folder that gets one <case>.nii.gz each.
    t1
        T1 image, in place of CASE; with --raw, number of the series or name of the file that is T1.
    t1ce
        T1ce image.
    t2
        T2 image.
    flair
        FLAIR image.
    raw
        Folder from the scanner, in place of CASE: DICOM or NIfTI, skull on. --out gets the case, a page and the label maps.
    to
        Series of --raw whose grids get the label map; if left out, T1ce or T1, whichever has the smaller voxels.
    dicom_seg
        Write DICOM SEG for those series of --raw as well; it carries the patient's name, as they do.
    mask
        Brain mask of your own for --raw, drawn on T1ce or T1, whichever has the smaller voxels.
    study
        Which of several sessions in the folder of --raw, counted from the oldest: 1, 2, ...
    checkpoint
        Weights (.safetensors) with their card (.json) beside them, several for their ensemble; else the released model.
    format
        Dataset format, such as brats2021, brats2023 or msd.
    labels
        Numbers to write; auto takes those of the cohort, or of the file's name (BraTS-PED-...), else brats2021.
    tta
        Test-time augmentation: the mean over mirrored images, up to eight times as long.
    device
        auto takes a GPU if there is one; cpu, cuda, cuda:1.
    """
    files = {"t1": t1, "t1ce": t1ce, "t2": t2, "flair": flair}
    if not raw and (to or dicom_seg or mask or study is not None):
        raise DataError("--to, --dicom-seg, --mask and --study belong to --raw", "give --raw FOLDER, or leave them out")
    if raw and (format, labels) != ("auto", "auto"):
        raise DataError("--format and --labels belong to CASE: --raw writes the numbers of BraTS 2021", "leave them out")
    if raw and not case:
        options = {modality: str(file) if file else None for modality, file in files.items()} | {"mask": mask, "study": study}
        return _segment_raw(raw, out, options, to, dicom_seg, checkpoint, pick_device(device), tta)
    if raw or any(files.values()) == bool(case):
        raise DataError("one of CASE, files and a raw session is needed", "give CASE, or --t1 --t1ce --t2 --flair, or --raw")
    if case:
        cases = discover(case, format, labels=labels)
    else:
        found = case_of_files(files)
        cases = [replace(found, labels=convention_by_name(found.identifier, "brats2021") if labels == "auto" else labels)]
    single = out.name.lower().endswith(ENDINGS)
    if not single and out.suffix and not out.is_dir():
        remedy = "give one of them to --out; a new folder with a dot in its name has to be made first"
        raise DataError(f"{out} is neither a .nii.gz file nor a folder", remedy)
    if single and len(cases) > 1:
        raise DataError(f"{case} holds {len(cases)} cases", f"give a folder to --out, not the file {out}")
    refuse_to_overwrite(out, [path for each in cases for path in each.files])
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(read_session, cases[0], threads=joblib.cpu_count()) if single else None
        with importing():
            from helpers.evaluation.predict import predict_case, predict_cases, write_prediction
            from helpers.models.checkpoints import load_ensemble, released_files
        network, card = load_ensemble(checkpoint or released_files(), device=pick_device(device))
    _warn_of_tta(tta, card)
    if learnt := sorted({each.identifier for each in cases} & set(card.training_cases)):
        problem = f"warning: the model learnt from {len(learnt)} cases of these names, such as {learnt[0]}"
        print(f"{problem}; scores on them say nothing of others", file=sys.stderr)
    if reading:
        prediction = predict_case(network, card, cases[0], tta=tta, session=reading.result())
        write_prediction(out, prediction)
        _say(prediction, out)
        return 0
    faults = []
    for each, outcome in predict_cases(network, card, cases, folder=out, tta=tta):
        if isinstance(outcome, Fault):
            earlier = out / f"{each.identifier}.nii.gz"
            faults.append(f"{outcome} ({earlier} is of an earlier run)" if earlier.exists() else str(outcome))
        else:
            _say(outcome, out / f"{each.identifier}.nii.gz")
    if faults:
        print(f"\nNot segmented ({len(faults)} of {len(cases)}):", *faults, sep="\n  ")
    return 1 if faults else 0


def _segment_raw(
    raw: Path,
    out: Path,
    options: Mapping[str, object],
    to: Sequence[str],
    dicom_seg: bool,
    checkpoint: Sequence[Path],
    device: str,
    tta: bool,
) -> int:
    """Prepare a raw session in the folder `out`, segment it there, and take the label map back to the scanner's grids."""
    if out.name.lower().endswith(ENDINGS):
        raise DataError(f"{out} is a file, and --raw gives several", "give a folder to --out")
    from helpers.evaluation.predict import predict_case, write_prediction
    from helpers.models.checkpoints import load_ensemble, released_files
    from scan_session import SessionError, find_series, prepare_session, to_native, volumes, write_dicom_seg, write_native

    if dicom_seg and not any(one.is_dicom and not one.fault for one in find_series(raw, study=options["study"])):
        raise SessionError("the session is NIfTI, and a DICOM SEG refers to DICOM files", "leave out --dicom-seg")
    network, card = load_ensemble(checkpoint or released_files(), device=device)  # before the preparation, which takes minutes
    _warn_of_tta(tta, card)
    session = prepare_session(raw, out, **options)
    targets = to or (session.reference,)
    if dicom_seg and not all(session.series[modality].is_dicom for modality in targets):
        raise SessionError(
            f"one of {', '.join(targets)} is NIfTI, and a DICOM SEG refers to DICOM files", "leave out --dicom-seg"
        )
    prediction = predict_case(network, card, case_of_files(session.images), tta=tta)
    path = write_prediction(out / "label_map.nii.gz", prediction)
    _say(prediction, path)
    for modality in targets:
        print(write_native(out / f"label_map_on_{modality}_grid.nii.gz", path, session, modality))
        if dicom_seg:
            target, series = out / f"segmentation_on_{modality}_grid.dcm", session.series[modality]
            native = to_native(path, session, modality)
            print(write_dicom_seg(target, native, series, algorithm=card.network, version=card.weights_sha256[:16]))
    print(", ".join(f"{region} {ml:.1f} ml" for region, ml in volumes(path).items()), "(for research, not for diagnosis)")
    print(f"{session.page} shows what was done")
    return 0


def _warn_of_tta(tta: bool, card: ModelCard) -> None:
    if tta and not card.tta_axes:
        print("warning: --tta changes nothing, as the model was not trained on mirrored images; leave it out", file=sys.stderr)


def _say(prediction: Prediction, path: Path) -> None:
    for warning in prediction.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{path} ({CONVENTIONS[prediction.labels]})")
