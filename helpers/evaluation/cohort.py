"""Scores of a cohort: files against files, and a test set with a checkpoint.

A test set goes through files: what is scored is what a reader can open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from brats_cohort.case import Case
from brats_cohort.cases import onto_grid, read_classes, to_numbered_classes
from brats_cohort.files import DataError
from brats_cohort.formats import described_labels
from brats_cohort.grid import spacing_of
from brats_cohort.nifti import read_label_values
from brats_cohort.regions import CONVENTIONS, REGIONS, classes_to_regions, convention_by_name, to_classes
from helpers.evaluation.metrics import dice, score_case
from helpers.evaluation.predict import predict_case, write_prediction
from helpers.evaluation.statistics import calibration_scores, reliability_table
from helpers.models.checkpoints import ModelCard

UNLIKELY, FITTING = 0.1, 0.5
"""Gain in Dice of a region, without loss in the others, from which other numbers than the guessed ones are likely, if with them
the Dice of WT is above the second."""


@dataclass(frozen=True)
class LabelFile:
    """A label map on disk, with the key of `brats_cohort.regions.CONVENTIONS` whose numbers it uses; "auto" tells from them.

    `patient` is empty if only the file's name can say it.
    """

    path: Path
    labels: str = "auto"
    patient: str = ""


def read_label_file(label: LabelFile) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map as classes 0 to 3, uint8 (X, Y, Z), with its affine; a number that its labels lack is a `DataError`.

    With labels "auto" a dataset.json decides (`stated_labels`), else a name that begins as those of a data set
    (`brats_cohort.regions.CASE_NAMES`), if its numbers fit. Else a 4 means BraTS 2018-2021 and a 3 BraTS 2023; with neither,
    the two agree. MSD Task01 and nnU-Net swap 1 and 2, which no value gives away: elsewhere they must be named.
    """
    values, affine = read_label_values(label.path)
    return to_numbered_classes(values, CONVENTIONS[labels_in(label, values)], label.path), affine


def stated_labels(label: LabelFile) -> str:
    """Find out whose label numbers a file is said to use, "auto" if nothing says it.

    For a file in a folder ``labelsTr`` or ``labelsTs`` the dataset.json above it does (``labelsTr`` without one is of MSD),
    else one beside it, which nnU-Net puts there with its predictions.
    """
    folder = label.path.parent
    if label.labels != "auto":
        return label.labels
    if folder.name not in ("labelsTr", "labelsTs"):
        return described_labels(folder) or "auto"
    described = described_labels(folder.parent)
    if described == "":
        problem = f"{folder.parent / 'dataset.json'} does not say whose label numbers it uses"
        raise DataError(problem, "name them with --reference-labels or --prediction-labels")
    return described or ("msd" if folder.name == "labelsTr" else "auto")


def labels_in(label: LabelFile, values: np.ndarray, likely: str = "auto") -> str:
    """Decide whose label numbers a file uses: those it says, else the `likely` ones or those of its name, if they fit."""
    stated = stated_labels(label)
    if stated != "auto":
        return stated
    for key in (likely, convention_by_name(label.path.name, "auto")):
        if key != "auto" and np.isin(values, list(CONVENTIONS[key].numbers)).all():
            return key
    return "brats2023" if (values == 3).any() else "brats2021"


def score_files(prediction: LabelFile, reference: LabelFile) -> pd.DataFrame:
    """Score one file against another; returns the table of `helpers.evaluation.metrics.score_case`.

    Its ``attrs["labels"]`` say whose numbers were read in both. A prediction that does not say is read with the reference's
    numbers if it has no others; ``attrs["doubt"]`` is then a `DataError` if it fits the reference much better in those of
    another convention, else None. Raises `DataError` if a file cannot be read or the two are not in one grid.
    """
    expected_values, expected_affine = read_label_values(reference.path)
    values, affine = read_label_values(prediction.path)
    grid = (reference.path.name, expected_values.shape, expected_affine)
    values, fault = onto_grid(values, affine, grid, "", str(prediction.path))
    if values is None:
        raise DataError(fault.problem, "write it in the grid of the images, or resample it there with nearest neighbour")
    expected_labels = labels_in(reference, expected_values)
    said = (stated_labels(reference), convention_by_name(reference.path.name, "auto"))
    labels = labels_in(prediction, values, expected_labels if expected_labels in said else "auto")
    expected = to_numbered_classes(expected_values, CONVENTIONS[expected_labels], reference.path, option="--reference-labels")
    predicted = to_numbered_classes(values, CONVENTIONS[labels], prediction.path, option="--prediction-labels")
    scores = score_case(predicted, expected, spacing_of(expected_affine))
    doubt = _doubt_numbers(prediction.path, values, expected, labels) if prediction.labels == "auto" else None
    scores.attrs |= {"labels": (labels, expected_labels), "doubt": doubt}
    return scores


def _doubt_numbers(path: Path, values: np.ndarray, expected: np.ndarray, labels: str) -> DataError | None:
    """Return an error if a label map, whose numbers were guessed, fits its reference much better in others.

    Numbers that read a part of it as background are no candidates: they would forgive every false voxel of that part.
    """
    scores, present = {}, np.unique(values[values != 0])
    for key, convention in CONVENTIONS.items():
        if key == labels or all(convention.numbers.get(number) for number in present.tolist()):
            pairs = zip(classes_to_regions(to_classes(values, convention)), classes_to_regions(expected), strict=True)
            scores[key] = np.array([dice(*pair) for pair in pairs])
    for key, found in scores.items():
        gain = found - scores[labels]
        best = int(gain.argmax())
        if gain.min() > -1e-6 and gain[best] > UNLIKELY and found[REGIONS.index("WT")] > FITTING:
            if len(present) == 1:
                problem = f"{path} holds one number only, {present[0]}, as a plain tumour mask does"
                return DataError(problem, f"predict TC, WT and ET, or give --prediction-labels {labels} to score it as it is")
            problem = f"{path} reaches a Dice of {found[best]:.3f} for {REGIONS[best]} in the numbers of {key}"
            remedy = f"say whose numbers they are: --prediction-labels {key} or {labels}"
            return DataError(f"{problem}, and {scores[labels][best]:.3f} in those of {labels}", remedy)
    return None


@dataclass(frozen=True)
class CohortScores:
    """What one checkpoint reached on a set of cases.

    Attributes
    ----------
    scores : DataFrame
        ``case``, ``patient``, ``region``, `helpers.evaluation.metrics.METRICS` of the written label map, ``ece`` and ``brier``
        of the probabilities, and ``checkpoint``, the SHA-256 of the weights; three rows a case.
    files : dict from identifier to Path
        The label maps.
    reliability : DataFrame
        ``case`` and the columns of `helpers.evaluation.statistics.reliability_table`, over the voxels of the brain.
    """

    scores: pd.DataFrame
    files: dict[str, Path]
    reliability: pd.DataFrame


def score_cohort(
    network: nn.Module, card: ModelCard, cases: Iterable[Case], *, folder: Path, tta: bool = False
) -> CohortScores:
    """Predict cases into files in native space and score those files, and the probabilities, against the references.

    `folder` gets one ``<identifier>.nii.gz`` a case, in the numbers of its cohort; with `tta`, test-time augmentation.

    Raises
    ------
    DataError
        At the first case without a reference or that cannot be predicted: a mean over the others would not be that of the set.
    """
    tables, bins, files = [], [], {}
    for case in cases:
        if case.label is None:
            raise DataError(f"case {case.identifier} has no reference label map", "a test set needs one for every case")
        prediction = predict_case(network, card, case, tta=tta)
        path = files[case.identifier] = write_prediction(Path(folder) / f"{case.identifier}.nii.gz", prediction)
        table = score_files(LabelFile(path, case.labels), LabelFile(case.label, case.labels))
        brain = (prediction.image != 0).any(0)
        reliability = reliability_table(prediction.probabilities, classes_to_regions(read_classes(case)[0]), brain)
        table = table.merge(calibration_scores(reliability), on="region").assign(checkpoint=card.weights_sha256)
        table.insert(0, "case", case.identifier)
        table.insert(1, "patient", case.patient)
        reliability.insert(0, "case", case.identifier)
        tables.append(table)
        bins.append(reliability)
    return CohortScores(pd.concat(tables, ignore_index=True), files, pd.concat(bins, ignore_index=True))
