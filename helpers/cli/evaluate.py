"""``python -m helpers evaluate PREDICTION REFERENCE``: Dice and HD95 by region, for two files or two folders."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from json import dumps, loads
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from helpers.cli.options import Target
from helpers.data.cases import fault_of, patients_of, refuse_to_overwrite
from helpers.evaluation.cohort import LabelFile, Pairing, empty_scores, pair_folders, score_files
from helpers.evaluation.statistics import summarise
from helpers.regions import CONVENTIONS, REGIONS
from helpers.workspace import DataError, write_atomically


@dataclass
class Evaluation:
    """What a run of the command found."""

    scores: pd.DataFrame
    faults: list[str] = field(default_factory=list)
    without_reference: list[str] = field(default_factory=list)
    without_prediction: list[str] = field(default_factory=list)
    labels: list[tuple[str, str]] = field(default_factory=list)


def run(
    prediction: Path,
    reference: Path,
    /,
    *,
    format: str = "auto",
    prediction_labels: str = "auto",
    reference_labels: str = "auto",
    csv: Target | None = None,
    json: Target | None = None,
) -> int:
    """Print Dice and 95 % Hausdorff distance by region; status 1 unless every pair could be scored.

    Parameters
    ----------
    prediction
        Label map, or folder of label maps.
    reference
        Label map, folder of label maps, or cohort folder.
    format
        Dataset format of the reference cohort, such as brats2021, brats2023 or msd.
    prediction_labels
        Numbers in the predictions, such as brats2023 or nnunet; auto: those of the reference if they fit, else a 4 means
        brats2021 and a 3 brats2023.
    reference_labels
        Numbers in the references; auto: those of the cohort, else as for predictions.
    csv
        Write one row for each case and region here.
    json
        Write cases, summary and faults here.
    """
    for path in (prediction, reference):
        if not path.exists():
            raise DataError(f"{path} does not exist", "give two label maps or two folders")
    for labels in (prediction_labels, reference_labels):
        if labels not in ("auto", *CONVENTIONS):
            raise DataError(f"there are no labels called {labels!r}", f"choose auto or one of {', '.join(CONVENTIONS)}")
    if prediction.is_dir() != reference.is_dir():
        raise DataError(f"{prediction} and {reference} are a file and a folder", "give two of a kind")
    for table in filter(None, (csv, json)):
        refuse_to_overwrite(table, (prediction, reference))
    if prediction.is_dir():
        pairing = pair_folders(
            prediction, reference, format=format, prediction_labels=prediction_labels, reference_labels=reference_labels
        )
        evaluation = _evaluate_folders(pairing)
    else:
        pair = LabelFile(prediction, prediction_labels), LabelFile(reference, reference_labels)
        evaluation = _evaluate_files(*pair)
    summary = summarise(evaluation.scores)
    _print(evaluation, summary)
    if csv:
        with write_atomically(csv) as temporary:
            evaluation.scores.to_csv(temporary, index=False, errors="backslashreplace")
    if json:
        with write_atomically(json) as temporary:
            temporary.write_text(dumps(_record(evaluation, summary), indent=2) + "\n")
    return 1 if evaluation.faults or evaluation.scores.empty else 0


def _evaluate_files(prediction: LabelFile, reference: LabelFile) -> Evaluation:
    scores = score_files(prediction, reference)
    scores.insert(0, "case", prediction.path.name.split(".nii")[0])
    return Evaluation(scores, labels=[scores.attrs["labels"]])


def _evaluate_folders(pairing: Pairing) -> Evaluation:
    patients = patients_of(list(pairing.pairs))
    tables, labels, faults = [], {}, list(pairing.faults)
    for identifier, pair in tqdm(pairing.pairs.items(), desc="evaluate", unit="case", disable=not sys.stderr.isatty()):
        try:
            table = score_files(*pair)
        except Exception as error:  # of whatever kind: one bad pair stops no other
            faults.append(f"case {fault_of(identifier, error)}")
            continue
        labels[table.attrs.pop("labels")] = None
        table.insert(0, "case", identifier)
        table.insert(1, "patient", patients[identifier])
        tables.append(table)
    scores = pd.concat(tables, ignore_index=True) if tables else empty_scores()
    unpaired = [str(path) for path in pairing.without_reference]
    return Evaluation(scores, faults, unpaired, list(pairing.without_prediction), list(labels))


def _print(evaluation: Evaluation, summary: pd.DataFrame) -> None:
    scores = evaluation.scores
    if not scores.empty:
        print(_case_table(scores).to_string())
        if scores["case"].nunique() > 1:
            print(f"\nOver {scores['case'].nunique()} cases, with the 95 % bootstrap interval of the mean over cases:")
            print(summary.to_string(index=False, float_format="{:.3f}".format, na_rep="too few"))
        for predicted, expected in evaluation.labels:
            print(f"\nPredictions are read with the numbers of {CONVENTIONS[predicted]}")
            print(f"References are read with the numbers of {CONVENTIONS[expected]}")
        print("\nEmpty regions: both empty is Dice 1 and HD95 0, exactly one empty is Dice 0 and HD95 373.13 mm (BraTS).")
    for title, lines in (
        ("Not scored", evaluation.faults),
        ("Predictions without a reference, not scored", evaluation.without_reference),
        ("References without a prediction, not counted in any mean", evaluation.without_prediction),
    ):
        if lines:
            print(f"\n{title} ({len(lines)}):", *lines, sep="\n  ")


def _case_table(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a case, as text: Dice of each region, then HD95 of each."""
    columns = {}
    for metric, heading, form in (("dice", "Dice {}", "{:.4f}"), ("hd95", "HD95 {} mm", "{:.2f}")):
        for region in REGIONS:
            rows = scores[scores["region"] == region].set_index("case")
            columns[heading.format(region)] = rows[metric].map(form.format)
    return pd.DataFrame(columns).rename_axis(None)


def _record(evaluation: Evaluation, summary: pd.DataFrame) -> dict:
    """The evaluation as plain JSON, NaN as null."""
    return {
        "cases": loads(evaluation.scores.to_json(orient="records", double_precision=10)),
        "summary": loads(summary.to_json(orient="records", double_precision=10)),
        "faults": evaluation.faults,
        "predictions_without_reference": evaluation.without_reference,
        "references_without_prediction": evaluation.without_prediction,
    }
