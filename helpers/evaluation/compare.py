"""Score files of predictions against files of references: which belongs to which, and whose numbers they use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.data.files import DataError, read_label_values
from helpers.data.layouts import LAYOUTS, discover
from helpers.data.reading import same_affine
from helpers.evaluation.metrics import METRICS, score_case, voxel_spacing
from helpers.regions import to_classes

_ROLE = re.compile(r"[._-](seg|segmentation|label|labels|mask|pred|prediction)$", re.IGNORECASE)
"""What people append to the identifier in the name of a label map."""


@dataclass(frozen=True)
class LabelFile:
    """A label map on disk.

    Attributes
    ----------
    path : Path
        NIfTI file.
    layout : str
        Key of `LAYOUTS` whose numbers the file uses, or "auto" to tell from its values (`read_label_file`).
    """

    path: Path
    layout: str = "auto"


@dataclass(frozen=True)
class Pairing:
    """Label maps of two folders by case: `pairs` maps an identifier to (prediction, reference)."""

    pairs: Mapping[str, tuple[LabelFile, LabelFile]]
    without_reference: tuple[Path, ...]
    without_prediction: tuple[str, ...]
    faults: tuple[str, ...]


def read_label_file(label: LabelFile) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map as classes 0 to 3, uint8 (X, Y, Z), with its affine.

    With layout "auto" a 4 means BraTS 2018-2021 and a 3 BraTS 2023 and later; with neither, the two agree. MSD Task01 swaps 1
    and 2, which no value gives away: it is recognised by its folder ``labelsTr`` only, and must be named otherwise.

    Raises
    ------
    DataError
        If the file cannot be read or holds a number that its layout does not have.
    """
    values, affine = read_label_values(label.path)
    layout = label.layout
    if layout == "auto":
        layout = "msd" if label.path.parent.name == "labelsTr" else "brats2023" if (values == 3).any() else "brats2021"
    try:
        return to_classes(values, LAYOUTS[layout].convention), affine
    except ValueError as error:
        raise DataError(f"{label.path}: {error}") from error


def score_files(prediction: LabelFile, reference: LabelFile) -> pd.DataFrame:
    """Score one file against another; returns the table of `helpers.evaluation.metrics.score_case`.

    Raises
    ------
    DataError
        If a file cannot be read, or the two are not in one grid.
    """
    predicted, affine = read_label_file(prediction)
    expected, expected_affine = read_label_file(reference)
    if predicted.shape != expected.shape:
        raise DataError(
            f"{prediction.path} has shape {predicted.shape}, {reference.path} has {expected.shape}; "
            "resample the prediction to the grid of the reference with nearest neighbour"
        )
    if not same_affine(affine, expected_affine):
        raise DataError(
            f"{prediction.path} has another affine than {reference.path}, so its voxels lie elsewhere in the patient; "
            "write predictions with the affine of the images they were made from"
        )
    return score_case(predicted, expected, voxel_spacing(expected_affine))


def pair_folders(
    predictions: Path,
    references: Path,
    *,
    layout: str = "auto",
    prediction_labels: str = "auto",
    reference_labels: str = "auto",
) -> Pairing:
    """Find the label maps in two folders and say which belong together.

    Parameters
    ----------
    predictions, references : Path
        Cohort folders (any layout of `helpers.data.layouts`), or folders of plain label maps with the identifier in the name.
    layout : str
        Layout of the reference cohort, or "auto".
    prediction_labels, reference_labels : str
        Key of `LAYOUTS` whose numbers the files use, or "auto": those of the cohort's layout, else told from the values.

    Raises
    ------
    DataError
        If a folder does not exist or has no label map in it.
    """
    found = _label_maps(Path(predictions), "auto", prediction_labels)
    expected = _label_maps(Path(references), layout, reference_labels)
    matches: dict[str, list[LabelFile]] = {}
    unmatched = []
    for name, label in found.items():
        identifier = match_identifier(name, expected)
        if identifier is None:
            unmatched.append(label.path)
        else:
            matches.setdefault(identifier, []).append(label)
    pairs = {name: (labels[0], expected[name]) for name, labels in sorted(matches.items()) if len(labels) == 1}
    faults = tuple(
        f"case {name}: {' and '.join(label.path.name for label in labels)} are both named for it; keep one"
        for name, labels in sorted(matches.items())
        if len(labels) > 1
    )
    return Pairing(pairs, tuple(unmatched), tuple(name for name in expected if name not in matches), faults)


def match_identifier(name: str, identifiers: Iterable[str]) -> str | None:
    """Find the longest of `identifiers` that stands in `name` as a word of its own: Case_1 is not in Case_10_seg.

    >>> match_identifier("fold0-Case_10_seg", ["Case_1", "Case_10"])
    'Case_10'
    """
    fitting = [i for i in identifiers if re.search(rf"(?<![A-Za-z0-9]){re.escape(i)}(?![A-Za-z0-9])", name)]
    return max(fitting, key=len, default=None)


def empty_scores() -> pd.DataFrame:
    """A table of scores without a row: ``case, region`` and `METRICS`."""
    return pd.DataFrame(columns=["case", "region", *METRICS])


def _label_maps(folder: Path, layout: str, labels: str) -> dict[str, LabelFile]:
    """Label maps of a folder by identifier: those of its cases where it is a cohort, else every NIfTI file."""
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist; give a folder of label maps or a cohort")
    try:
        cases = discover(folder, layout)
    except DataError:
        if layout != "auto":
            raise
        cases = []
    if cases:
        maps = {
            case.identifier: LabelFile(case.label, case.layout if labels == "auto" else labels) for case in cases if case.label
        }
    else:
        paths = [path for path in sorted(folder.rglob("*.nii*")) if not path.name.startswith(".")]
        maps = {_ROLE.sub("", path.name.split(".nii")[0]): LabelFile(path, labels) for path in paths}
        if len(maps) < len(paths):
            raise DataError(
                f"{folder} holds {len(paths)} label maps but only {len(maps)} different names; keep one for each case"
            )
    if not maps:
        raise DataError(f"{folder} holds no label map; give a folder with <case>.nii.gz files or a cohort that has references")
    return maps
