"""What cross-validation is good for: scores of cases by models that did not know them, and choices made without the test part.

The models of the folds give three things. Every case outside the test part is predicted by the one model that did not train
on it (**out of fold**), which is read from the model cards and not taken on trust. The limits of the clean-up are chosen on
those predictions. And the models together are an ensemble, whose gain is measured on the test part step by step: single
model, mirrored copies, ensemble, clean-up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from helpers.data.files import DataError
from helpers.data.layouts import Case
from helpers.data.reading import read_classes
from helpers.data.splits import SplitManifest
from helpers.evaluation.cleanup import CleanUp, clean_up
from helpers.evaluation.compare import LabelFile, read_label_file
from helpers.evaluation.metrics import dice, voxel_spacing
from helpers.evaluation.statistics import bootstrap_interval, paired_test
from helpers.evaluation.testset import CohortScores, score_cohort
from helpers.models.checkpoints import ModelCard, load_card, load_checkpoint
from helpers.models.ensemble import load_ensemble
from helpers.regions import classes_to_regions

KEEP_ALL = asdict(CleanUp(tumour_ml=0.0, enhancing_ml=0.0))
TUMOUR_ML = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
ENHANCING_ML = (0.0, 0.1, 0.3, 0.5, 1.0)
"""Limits in ml that `choose_cleanup` tries."""

STEPS = ("single model", "+ mirrored copies", "+ ensemble", "+ clean-up")


def check_folds(checkpoints: Sequence[Path], manifest: SplitManifest) -> list[ModelCard]:
    """Make sure that checkpoint k knows no patient of fold k nor of the test part, and belongs to this split.

    Returns
    -------
    list of ModelCard
        One a fold.

    Raises
    ------
    DataError
        If one does, if its card does not say what it was trained on, or if the number of checkpoints is not that of the folds.
    """
    if len(checkpoints) != len(manifest.folds):
        raise DataError(f"the split has {len(manifest.folds)} folds, but {len(checkpoints)} checkpoints were given")
    cards = [load_card(path) for path in checkpoints]
    for fold, (path, card) in enumerate(zip(checkpoints, cards, strict=True)):
        if not card.training_cases:
            raise DataError(f"the card of {path} does not say which cases it was trained on; train fold {fold} again")
        if card.split_hash != manifest.sha256:
            raise DataError(f"{path} was trained on another split; train fold {fold} again")
        known = {manifest.patients.get(case, case) for case in card.training_cases}
        for case in (*manifest.part("val", fold=fold), *manifest.test):
            if manifest.patients[case] in known:
                raise DataError(f"{path} was trained on case {case}, which it is to be scored on; train fold {fold} again")
    return cards


def predict_out_of_fold(
    checkpoints: Sequence[Path],
    manifest: SplitManifest,
    cases: Mapping[str, Case],
    *,
    folder: Path,
    flips: bool = False,
    device: str = "cpu",
    report: Callable[[str], None] | None = None,
) -> CohortScores:
    """Predict every case outside the test part with the model that did not train on it, without clean-up, and score it.

    Parameters
    ----------
    checkpoints : sequence of Path
        That of fold k in place k.
    manifest : SplitManifest
    cases : mapping from identifier to Case
        At least the cases to be predicted; what is not in it is left out.
    folder : Path
        Gets the label maps.
    flips, device
        As elsewhere.
    report : callable, optional
        Called with a line of text after every fold.

    Raises
    ------
    DataError
        As `check_folds`, or at the first case that cannot be predicted or scored.
    """
    results = []
    for fold, card in enumerate(check_folds(checkpoints, manifest)):
        network, _ = load_checkpoint(checkpoints[fold], device=device)
        chosen = [cases[name] for name in manifest.part("val", fold=fold) if name in cases]
        results.append(score_cohort(network, replace(card, cleanup=KEEP_ALL), chosen, folder=folder, flips=flips))
        if report:
            report(f"fold {fold}: {len(chosen)} cases, mean Dice {results[-1].scores['dice'].mean():.3f} before clean-up")
    files = {name: path for result in results for name, path in result.files.items()}
    scores, reliability = (
        pd.concat([getattr(result, name) for result in results], ignore_index=True) for name in ("scores", "reliability")
    )
    return CohortScores(scores, files, reliability)


def choose_cleanup(
    files: Mapping[str, Path],
    cases: Mapping[str, Case],
    *,
    tumour_ml: Sequence[float] = TUMOUR_ML,
    enhancing_ml: Sequence[float] = ENHANCING_ML,
) -> tuple[CleanUp, pd.DataFrame]:
    """Choose the limits of the clean-up that give the highest mean Dice on predictions out of fold; the smaller where equal.

    Parameters
    ----------
    files : mapping from identifier to Path
        Label maps in BraTS 2021 numbers, not cleaned up: validation data, never the test part.
    cases : mapping from identifier to Case
        With references.
    tumour_ml, enhancing_ml : sequence of float
        Limits to try, in every combination.

    Returns
    -------
    CleanUp
    DataFrame
        ``tumour_ml, enhancing_ml, dice``: the mean over cases and regions, for every combination.
    """
    limits = [CleanUp(*pair) for pair in itertools.product(sorted(tumour_ml), sorted(enhancing_ml))]
    totals = dict.fromkeys(limits, 0.0)
    for name, path in files.items():
        predicted, affine = read_label_file(LabelFile(path, "brats2021"))
        truth, spacing = classes_to_regions(read_classes(cases[name])[0]), voxel_spacing(affine)
        for setting in limits:
            regions = classes_to_regions(clean_up(predicted, spacing, setting))
            totals[setting] += sum(dice(*pair) for pair in zip(regions, truth, strict=True)) / len(truth) / len(files)
    table = pd.DataFrame([{**asdict(setting), "dice": total} for setting, total in totals.items()])
    return max(limits, key=lambda setting: round(totals[setting], 9)), table


def score_steps(
    checkpoints: Sequence[Path],
    cases: Sequence[Case],
    *,
    cleanup: CleanUp,
    folder: Path,
    device: str = "cpu",
    report: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Score test cases after each of `STEPS`.

    A single model means every fold's model, so its rows come once a fold; the mean over them is the fair start, as no fold is
    singled out.

    Parameters
    ----------
    checkpoints : sequence of Path
        Of the folds.
    cases : sequence of Case
        The test part, with references.
    cleanup : CleanUp
        As `choose_cleanup` found it.
    folder : Path
        Gets the label maps of the last step.

    Returns
    -------
    DataFrame
        ``step`` and the columns of `helpers.evaluation.testset.CohortScores.scores`.
    """
    members = [load_checkpoint(path, device=device) for path in checkpoints]
    ensemble = load_ensemble(checkpoints, device=device)
    final = asdict(cleanup)
    plans = [
        (STEPS[0], members, KEEP_ALL, False),
        (STEPS[1], members, KEEP_ALL, True),
        (STEPS[2], [ensemble], KEEP_ALL, True),
        (STEPS[3], [ensemble], final, True),
    ]
    tables = []
    for step, models, limits, flips in plans:
        for network, card in models:
            result = _score(network, replace(card, cleanup=limits), cases, folder, flips)
            tables.append(result.assign(step=step))
        if report:
            report(f"{step}: mean Dice {pd.concat(tables).query('step == @step')['dice'].mean():.4f}")
    return pd.concat(tables, ignore_index=True)


def gains_table(scores: pd.DataFrame, *, metrics: Sequence[str] = ("dice", "lesion_dice", "hd95")) -> pd.DataFrame:
    """What each step of `score_steps` adds to the one before, over the mean of the regions of each patient.

    Returns
    -------
    DataFrame
        One row for each metric and step: ``metric, step, mean, low, high`` with its interval, and ``gain, gain_low,
        gain_high, p`` against the step before on the same patients; ``checkpoint``, the SHA-256 where there is one.
    """
    per_case = scores.groupby(["step", "case"])[list(metrics)].mean()
    rows = []
    for metric in metrics:
        before = None
        for step in [step for step in STEPS if step in set(scores["step"])]:
            values, hashes = per_case.loc[step, metric], scores.loc[scores["step"] == step, "checkpoint"].unique()
            interval = bootstrap_interval(values)
            row = {"metric": metric, "step": step, "mean": interval.mean, "low": interval.low, "high": interval.high}
            if before is not None:
                result = paired_test(values, before.loc[values.index])
                gain = result.difference
                row |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high, "p": result.p_value}
            rows.append({**row, "checkpoint": hashes[0] if len(hashes) == 1 else f"mean of {len(hashes)}"})
            before = values
    return pd.DataFrame(rows)


def _score(network: nn.Module, card: ModelCard, cases: Sequence[Case], folder: Path, flips: bool) -> pd.DataFrame:
    with torch.inference_mode():
        return score_cohort(network, card, cases, folder=folder, flips=flips).scores
