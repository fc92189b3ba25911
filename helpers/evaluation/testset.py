"""A test set from the first case to the table of scores, through files: what is scored is what a reader can open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from helpers.data.files import DataError
from helpers.data.layouts import Case
from helpers.data.reading import read_classes
from helpers.evaluation.calibration import calibration_scores, reliability_table
from helpers.evaluation.cleanup import CleanUp
from helpers.evaluation.compare import LabelFile, empty_scores, score_files
from helpers.evaluation.inference import Probabilities, predict_probabilities, segment, write_prediction
from helpers.models.checkpoints import ModelCard
from helpers.regions import classes_to_regions


@dataclass(frozen=True)
class CohortScores:
    """What one checkpoint reached on a set of cases.

    Attributes
    ----------
    scores : DataFrame
        ``case``, ``region``, `helpers.evaluation.metrics.METRICS` of the written label map, ``ece`` and ``brier`` of the
        probabilities (`helpers.evaluation.calibration`), and ``checkpoint``, the SHA-256 of the weights; three rows a case.
    files : dict from identifier to Path
        The label maps.
    reliability : DataFrame
        ``case`` and the columns of `helpers.evaluation.calibration.reliability_table`.
    """

    scores: pd.DataFrame
    files: dict[str, Path]
    reliability: pd.DataFrame


def score_cohort(
    network: nn.Module, card: ModelCard, cases: Iterable[Case], *, folder: Path, flips: bool = False
) -> CohortScores:
    """Predict cases into files in native space and score those files against the references, and their probabilities too.

    Parameters
    ----------
    network, card
        As `helpers.models.checkpoints.load_checkpoint` returns them.
    cases : iterable of Case
        With references.
    folder : Path
        Gets one ``<identifier>.nii.gz`` a case, in BraTS 2021 numbers.
    flips : bool
        As in `helpers.evaluation.inference.predict_prepared`.

    Raises
    ------
    DataError
        At the first case that cannot be predicted or scored: a mean over the others would not be that of the test set.
    """
    tables, bins, files = [empty_scores()], [], {}
    for case in cases:
        if case.label is None:
            raise DataError(f"case {case.identifier} has no reference label map; a test set needs one for every case")
        probabilities = predict_probabilities(network, card, case, flips=flips)
        prediction = segment(probabilities, CleanUp(**card.cleanup))
        path = files[case.identifier] = write_prediction(Path(folder) / f"{case.identifier}.nii.gz", prediction)
        table = score_files(LabelFile(path, "brats2021"), LabelFile(case.label, case.layout))
        reliability = reliability_of(probabilities, case)
        table = table.merge(calibration_scores(reliability), on="region").assign(checkpoint=card.weights_sha256)
        table.insert(0, "case", case.identifier)
        reliability.insert(0, "case", case.identifier)
        tables.append(table)
        bins.append(reliability)
    return CohortScores(
        pd.concat(tables[1:] or tables, ignore_index=True), files, pd.concat(bins or [pd.DataFrame()], ignore_index=True)
    )


def score_cases(
    network: nn.Module, card: ModelCard, cases: Iterable[Case], *, folder: Path, flips: bool = False
) -> tuple[pd.DataFrame, dict[str, Path]]:
    """`score_cohort`, of which the scores and the files only."""
    result = score_cohort(network, card, cases, folder=folder, flips=flips)
    return result.scores, result.files


def reliability_of(probabilities: Probabilities, case: Case) -> pd.DataFrame:
    """`helpers.evaluation.calibration.reliability_table` of a case, over the voxels that are not 0 in some modality."""
    regions = classes_to_regions(read_classes(case)[0])
    return reliability_table(probabilities.values, regions, (probabilities.image != 0).any(0))
