"""Scores of a cohort: files against files, a test set with a checkpoint, and the folds of a cross-validation.

A test set goes through files: what is scored is what a reader can open. In a cross-validation every case outside the test part
is predicted by the one model that did not train on it (**out of fold**), which is read from the model cards and not taken on
trust. The limits of the post-processing are chosen on those predictions, and the models together are an ensemble, whose gain is
measured on the test part step by step.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from helpers.data.cases import Case, discover, onto_grid, read_classes, to_numbered_classes
from helpers.data.nifti import read_label_values
from helpers.data.resample import spacing_of
from helpers.data.splits import SplitManifest
from helpers.evaluation.metrics import METRICS, dice, score_case
from helpers.evaluation.postprocess import PostProcessing, postprocess
from helpers.evaluation.predict import predict_case, write_prediction
from helpers.evaluation.statistics import bootstrap_interval, calibration_scores, paired_test, reliability_table
from helpers.models.checkpoints import ModelCard, load_card, load_checkpoint, load_ensemble
from helpers.regions import CONVENTIONS, REGIONS, classes_to_regions, to_classes
from helpers.workspace import DataError

_ROLE = re.compile(r"[._-](seg|segmentation|label|labels|mask|pred|prediction)$", re.IGNORECASE)
"""What people append to the identifier in the name of a label map."""
KEEP_ALL = asdict(PostProcessing(tumour_ml=0.0, enhancing_ml=0.0))
TUMOUR_ML = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
ENHANCING_ML = (0.0, 0.1, 0.3, 0.5, 1.0)
"""Limits in ml that `choose_postprocessing` tries."""
STEPS = ("single model", "+ TTA", "+ ensemble", "+ post-processing")


@dataclass(frozen=True)
class LabelFile:
    """A label map on disk.

    Attributes
    ----------
    path : Path
        NIfTI file.
    labels : str
        Key of `helpers.regions.CONVENTIONS` whose numbers the file uses, or "auto" to tell from its values
        (`read_label_file`).
    """

    path: Path
    labels: str = "auto"


@dataclass(frozen=True)
class Pairing:
    """Label maps of two folders by case: `pairs` maps an identifier to (prediction, reference)."""

    pairs: Mapping[str, tuple[LabelFile, LabelFile]]
    without_reference: tuple[Path, ...]
    without_prediction: tuple[str, ...]
    faults: tuple[str, ...]


def read_label_file(label: LabelFile) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map as classes 0 to 3, uint8 (X, Y, Z), with its affine.

    With labels "auto" a 4 means BraTS 2018-2021 and a 3 BraTS 2023; with neither, the two agree. MSD Task01 and nnU-Net swap 1
    and 2, which no value gives away: MSD is recognised by its folder ``labelsTr`` only, and must be named otherwise.

    Raises
    ------
    DataError
        If the file cannot be read or holds a number that its convention does not have.
    """
    values, affine = read_label_values(label.path)
    return to_numbered_classes(values, CONVENTIONS[labels_in(label, values)], label.path), affine


def labels_in(label: LabelFile, values: np.ndarray, likely: str = "auto") -> str:
    """Whose numbers the values of a file are: those it says, else the `likely` ones if they have all of its values."""
    if label.labels != "auto":
        return label.labels
    if label.path.parent.name == "labelsTr":
        return "msd"
    if likely != "auto" and np.isin(values, list(CONVENTIONS[likely].numbers)).all():
        return likely
    return "brats2023" if (values == 3).any() else "brats2021"


def score_files(prediction: LabelFile, reference: LabelFile) -> pd.DataFrame:
    """Score one file against another; returns the table of `helpers.evaluation.metrics.score_case`.

    Its ``attrs["labels"]`` say whose numbers were read in the prediction and in the reference. A prediction that says nothing
    is read with the reference's numbers, if it fits them.

    Raises
    ------
    DataError
        If a file cannot be read, the two are not in one grid, or the prediction, which says nothing, fits the reference much
        better in the numbers of another convention.
    """
    expected_values, expected_affine = read_label_values(reference.path)
    values, affine = read_label_values(prediction.path)
    grid = (reference.path.name, expected_values.shape, expected_affine)
    values, fault = onto_grid(values, affine, grid, "", str(prediction.path))
    if values is None:
        raise DataError(fault.problem, "write it in the grid of the images, or resample it there with nearest neighbour")
    expected_labels = labels_in(reference, expected_values)
    labels = labels_in(prediction, values, reference.labels)
    expected = to_numbered_classes(expected_values, CONVENTIONS[expected_labels], reference.path)
    predicted = to_numbered_classes(values, CONVENTIONS[labels], prediction.path)
    if prediction.labels == "auto":
        _refuse_other_numbers(prediction.path, values, expected, labels)
    scores = score_case(predicted, expected, spacing_of(expected_affine))
    scores.attrs["labels"] = (labels, expected_labels)
    return scores


def _refuse_other_numbers(path: Path, values: np.ndarray, expected: np.ndarray, labels: str) -> None:
    """Raise `DataError` if a label map, whose numbers were guessed, fits its reference much better in others."""
    found = np.unique(values)
    scores = {}
    for key, convention in CONVENTIONS.items():
        if np.isin(found, list(convention.numbers)).all():
            pairs = zip(classes_to_regions(to_classes(values, convention)), classes_to_regions(expected), strict=True)
            scores[key] = np.array([dice(*pair) for pair in pairs])
    for key, found in scores.items():
        gain = found - scores[labels]
        if gain.min() > -1e-6 and gain.max() > UNLIKELY:
            region = REGIONS[int(gain.argmax())]
            problem = (
                f"{path} reaches a Dice of {found[gain.argmax()]:.3f} for {region} in the numbers of "
                f"{key}, and {scores[labels][gain.argmax()]:.3f} in those of {labels}"
            )
            raise DataError(problem, f"say whose numbers they are: --prediction-labels {key} or {labels}")


UNLIKELY = 0.1
"""Gain in Dice of a region, without loss in the others, from which other numbers than the guessed ones are likely."""


def pair_folders(
    predictions: Path,
    references: Path,
    *,
    format: str = "auto",
    prediction_labels: str = "auto",
    reference_labels: str = "auto",
) -> Pairing:
    """Find the label maps in two folders and say which belong together.

    Parameters
    ----------
    predictions, references : Path
        Cohort folders (any format of `helpers.data.cases`), or folders of plain label maps with the identifier in the name.
    format : str
        Dataset format of the reference cohort, or "auto".
    prediction_labels, reference_labels : str
        Key of `helpers.regions.CONVENTIONS`, or "auto": those of the cohort, else told from the values.

    Raises
    ------
    DataError
        If a folder does not exist or has no label map in it.
    """
    found = _label_maps(Path(predictions), "auto", prediction_labels)
    expected = _label_maps(Path(references), format, reference_labels)
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


def _label_maps(folder: Path, format: str, labels: str) -> dict[str, LabelFile]:
    """Label maps of a folder by identifier: those of its cases where it is a cohort, else every NIfTI file."""
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist", "give a folder of label maps or a cohort")
    try:
        cases = discover(folder, format)
    except DataError:
        if format != "auto":
            raise
        cases = []
    if cases:
        maps = {
            case.identifier: LabelFile(case.label, case.labels if labels == "auto" else labels) for case in cases if case.label
        }
    else:
        paths = [path for path in sorted(folder.rglob("*.nii*")) if not path.name.startswith(".")]
        maps = {_ROLE.sub("", path.name.split(".nii")[0]): LabelFile(path, labels) for path in paths}
        if len(maps) < len(paths):
            raise DataError(
                f"{folder} holds {len(paths)} label maps but only {len(maps)} different names", "keep one for each case"
            )
    if not maps:
        raise DataError(
            f"{folder} holds no label map", "give a folder with <case>.nii.gz files or a cohort that has references"
        )
    return maps


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

    Parameters
    ----------
    network, card
        As `helpers.models.checkpoints.load_checkpoint` returns them.
    cases : iterable of Case
        With references.
    folder : Path
        Gets one ``<identifier>.nii.gz`` a case, in the numbers of its cohort.
    tta : bool
        As in `helpers.evaluation.predict.predict_prepared`.

    Raises
    ------
    DataError
        At the first case that cannot be predicted or scored: a mean over the others would not be that of the test set.
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
    if not tables:
        return CohortScores(empty_scores(), {}, pd.DataFrame())
    return CohortScores(pd.concat(tables, ignore_index=True), files, pd.concat(bins, ignore_index=True))


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
        raise DataError(
            f"the split has {len(manifest.folds)} folds, but {len(checkpoints)} checkpoints were given", "give one a fold"
        )
    cards = [load_card(path) for path in checkpoints]
    for fold, (path, card) in enumerate(zip(checkpoints, cards, strict=True)):
        if not card.training_cases:
            raise DataError(f"the card of {path} does not say which cases it was trained on", f"train fold {fold} again")
        if card.split_hash != manifest.sha256:
            raise DataError(f"{path} was trained on another split", f"train fold {fold} again")
        known = {manifest.patients.get(case, case) for case in card.training_cases}
        for case in (*manifest.part("val", fold=fold), *manifest.test):
            if manifest.patients[case] in known:
                raise DataError(f"{path} was trained on case {case}, which it is to be scored on", f"train fold {fold} again")
    return cards


def predict_out_of_fold(
    checkpoints: Sequence[Path],
    manifest: SplitManifest,
    cases: Mapping[str, Case],
    *,
    folder: Path,
    device: str,
    report: Callable[[str], None],
) -> CohortScores:
    """Predict every case outside the test part with the model that did not train on it, and score it without post-processing.

    Parameters
    ----------
    checkpoints : sequence of Path
        That of fold k in place k.
    manifest : SplitManifest
    cases : mapping from identifier to Case
        At least the cases to be predicted; others of the split are left out.
    folder : Path
        Gets the label maps.
    report : callable
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
        results.append(score_cohort(network, replace(card, postprocessing=KEEP_ALL), chosen, folder=folder, tta=True))
        report(f"fold {fold}: {len(chosen)} cases, mean Dice {results[-1].scores['dice'].mean():.3f} before post-processing")
    files = {name: path for result in results for name, path in result.files.items()}
    scores, reliability = (
        pd.concat([getattr(result, name) for result in results], ignore_index=True) for name in ("scores", "reliability")
    )
    return CohortScores(scores, files, reliability)


def choose_postprocessing(files: Mapping[str, Path], cases: Mapping[str, Case]) -> tuple[PostProcessing, pd.DataFrame]:
    """Choose the limits of the post-processing with the highest mean Dice on predictions out of fold; the smaller if equal.

    Parameters
    ----------
    files : mapping from identifier to Path
        Label maps in the numbers of their cases, not post-processed: validation data, never the test part.
    cases : mapping from identifier to Case
        With references.

    Returns
    -------
    PostProcessing
    DataFrame
        ``tumour_ml, enhancing_ml, dice``: the mean over cases and regions, for every combination.
    """
    limits = [PostProcessing(*pair) for pair in itertools.product(TUMOUR_ML, ENHANCING_ML)]
    totals = dict.fromkeys(limits, 0.0)
    for name, path in files.items():
        predicted, affine = read_label_file(LabelFile(path, cases[name].labels))
        truth, spacing = classes_to_regions(read_classes(cases[name])[0]), spacing_of(affine)
        for setting in limits:
            regions = classes_to_regions(postprocess(predicted, spacing, setting))
            totals[setting] += sum(dice(*pair) for pair in zip(regions, truth, strict=True)) / len(truth) / len(files)
    table = pd.DataFrame([{**asdict(setting), "dice": total} for setting, total in totals.items()])
    return max(limits, key=lambda setting: round(totals[setting], 9)), table


def score_steps(
    checkpoints: Sequence[Path],
    cases: Sequence[Case],
    *,
    settings: PostProcessing,
    folder: Path,
    device: str,
    report: Callable[[str], None],
) -> pd.DataFrame:
    """Score test cases after each of `STEPS`.

    A single model means every fold's model, so its rows come once a fold; the mean over them is the fair start, as no fold is
    singled out. `folder` gets the label maps of the last step.

    Returns
    -------
    DataFrame
        ``step`` and the columns of `CohortScores.scores`.
    """
    members = [load_checkpoint(path, device=device) for path in checkpoints]
    ensemble = [load_ensemble(checkpoints, device=device)]
    plans = zip(STEPS, (members, members, ensemble, ensemble), [KEEP_ALL] * 3 + [asdict(settings)], strict=True)
    tables = []
    for step, models, limits in plans:
        results = [
            score_cohort(network, replace(card, postprocessing=limits), cases, folder=folder, tta=step != STEPS[0]).scores
            for network, card in models
        ]
        tables.append(pd.concat(results, ignore_index=True).assign(step=step))
        report(f"{step}: mean Dice {tables[-1]['dice'].mean():.4f}")
    return pd.concat(tables, ignore_index=True)


def gains_table(scores: pd.DataFrame, *, metrics: Sequence[str] = ("dice", "lesion_dice", "hd95")) -> pd.DataFrame:
    """Compute what each step of `score_steps` adds to the one before, over the mean of the regions of each patient.

    Returns
    -------
    DataFrame
        One row for each metric and step: ``metric, step, mean, low, high`` with its interval, and ``gain, gain_low,
        gain_high, p`` against the step before on the same patients; ``checkpoint``, the SHA-256 if there is one.
    """
    per_patient = scores.groupby(["step", "patient"])[list(metrics)].mean()  # sessions of one patient are averaged first
    rows = []
    for metric in metrics:
        before = None
        for step in [step for step in STEPS if step in set(scores["step"])]:
            values, hashes = per_patient.loc[step, metric], scores.loc[scores["step"] == step, "checkpoint"].unique()
            interval = bootstrap_interval(values)
            row = {"metric": metric, "step": step, "mean": interval.mean, "low": interval.low, "high": interval.high}
            if before is not None:
                result = paired_test(values, before.loc[values.index])
                gain = result.difference
                row |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high, "p": result.p_value}
            rows.append({**row, "checkpoint": hashes[0] if len(hashes) == 1 else f"mean of {len(hashes)}"})
            before = values
    return pd.DataFrame(rows)
