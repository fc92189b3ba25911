"""A test set from the first case to the table of scores, through files: what is scored is what a reader can open."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from torch import nn

from helpers.data.files import DataError
from helpers.data.layouts import Case
from helpers.evaluation.compare import LabelFile, empty_scores, score_files
from helpers.evaluation.inference import predict_cases
from helpers.models.checkpoints import ModelCard


def score_cases(
    network: nn.Module, card: ModelCard, cases: Iterable[Case], *, folder: Path, flips: bool = False
) -> tuple[pd.DataFrame, dict[str, Path]]:
    """Predict cases into files in native space and score those files against the references.

    Parameters
    ----------
    network, card
        As `helpers.models.checkpoints.load_checkpoint` returns them.
    cases : iterable of Case
        With references.
    folder : Path
        Gets one ``<identifier>.nii.gz`` a case, in BraTS 2021 numbers.
    flips : bool
        As in `helpers.evaluation.inference.predict_image`.

    Returns
    -------
    scores : DataFrame
        ``case``, ``region`` and `helpers.evaluation.metrics.METRICS`, three rows a case.
    files : dict from identifier to Path

    Raises
    ------
    DataError
        At the first case that cannot be predicted or scored: a mean over the others would not be that of the test set.
    """
    tables, files = [empty_scores()], {}
    for case, outcome in predict_cases(network, card, cases, folder=folder, flips=flips):
        if isinstance(outcome, DataError):
            raise outcome
        if case.label is None:
            raise DataError(f"case {case.identifier} has no reference label map; a test set needs one for every case")
        table = score_files(LabelFile(outcome, "brats2021"), LabelFile(case.label, case.layout))
        table.insert(0, "case", case.identifier)
        tables.append(table)
        files[case.identifier] = outcome
    return pd.concat(tables[1:] or tables, ignore_index=True), files
