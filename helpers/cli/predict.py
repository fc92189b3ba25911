"""``python -m helpers predict``: segment one case, four files or a cohort with a trained checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from helpers.data.cases import ENDINGS, Case, Fault, case_of_files, discover, refuse_to_overwrite
from helpers.evaluation.predict import Prediction, predict_case, predict_cases, write_prediction
from helpers.models.checkpoints import load_ensemble, load_released
from helpers.regions import CONVENTIONS, MODALITIES, MODALITY_NAMES
from helpers.workspace import DataError, require_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("case", nargs="?", type=Path, metavar="CASE", help="folder of one case, or of a cohort")
    for modality in MODALITIES:
        parser.add_argument(
            f"--{modality}", type=Path, metavar="FILE", help=f"{MODALITY_NAMES[modality]} image, in place of CASE"
        )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        help="weights (.safetensors) with their card (.json) beside them, several for their mean; left out, "
        "the model that comes with the package",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="label map (.nii.gz) of one case, or a folder that gets one <case>.nii.gz each"
    )
    parser.add_argument("--format", default="auto", help="dataset format, such as brats2021, brats2023 or msd")
    parser.add_argument(
        "--labels",
        default="auto",
        choices=("auto", *CONVENTIONS),
        help="numbers to write; auto: those of the cohort, else brats2021",
    )
    parser.add_argument(
        "--tta", action="store_true", help="test-time augmentation: mean over mirrored images, up to eight times as long"
    )
    parser.add_argument("--device", default="auto", help="auto takes a GPU where there is one; cpu, cuda, cuda:1")


def run(arguments: argparse.Namespace) -> int:
    """Predict and say where the label maps are; 0 when every case could be segmented, else 1."""
    cases = _cases(arguments)
    single = arguments.out.name.lower().endswith(ENDINGS)
    if not single and arguments.out.suffix and not arguments.out.is_dir():
        raise DataError(f"{arguments.out} is neither a .nii.gz file nor a folder", "give one of them to --out")
    if single and len(cases) > 1:
        raise DataError(f"{arguments.case} holds {len(cases)} cases", f"give a folder to --out, not the file {arguments.out}")
    refuse_to_overwrite(arguments.out, cases)
    require_writable(arguments.out.absolute().parent if single else arguments.out)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if arguments.device == "auto" else arguments.device
    checkpoints = arguments.checkpoint
    network, card = load_ensemble(checkpoints, device=device) if checkpoints else load_released(device=device)
    if single:
        prediction = predict_case(network, card, cases[0], tta=arguments.tta)
        write_prediction(arguments.out, prediction)
        _say(prediction, arguments.out)
        return 0
    faults = []
    for case, outcome in predict_cases(network, card, cases, folder=arguments.out, tta=arguments.tta):
        if isinstance(outcome, Fault):
            faults.append(str(outcome))
        else:
            _say(outcome, arguments.out / f"{case.identifier}.nii.gz")
    if faults:
        print(f"\nNot segmented ({len(faults)} of {len(cases)}):", *faults, sep="\n  ")
    return 1 if faults else 0


def _say(prediction: Prediction, path: Path) -> None:
    for warning in prediction.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{path} ({CONVENTIONS[prediction.labels]})")


def _cases(arguments: argparse.Namespace) -> list[Case]:
    files = {modality: getattr(arguments, modality) for modality in MODALITIES}
    if any(files.values()) == bool(arguments.case):
        raise DataError("there are both or neither of CASE and files", "give either CASE or --t1 --t1ce --t2 --flair")
    if arguments.case:
        return discover(arguments.case, arguments.format, labels=arguments.labels)
    return [case_of_files(files, labels="brats2021" if arguments.labels == "auto" else arguments.labels)]
