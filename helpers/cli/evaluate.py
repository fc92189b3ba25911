"""``python -m helpers evaluate PREDICTION REFERENCE``: Dice and HD95 by region, for two files or two folders."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from helpers.data.cases import fault_of
from helpers.evaluation.cohort import LabelFile, empty_scores, pair_folders, score_files
from helpers.evaluation.statistics import summarise
from helpers.regions import CONVENTIONS, REGIONS
from helpers.workspace import DataError, write_atomically

LABELS = ("auto", *CONVENTIONS)


@dataclass
class Evaluation:
    """What a run of the command found."""

    scores: pd.DataFrame
    faults: list[str] = field(default_factory=list)
    without_reference: list[str] = field(default_factory=list)
    without_prediction: list[str] = field(default_factory=list)
    labels: list[tuple[str, str]] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    numbers = "numbers in the files; auto: those of the cohort, else 4 means brats2021 and 3 brats2023 (name others yourself)"
    parser.add_argument("prediction", type=Path, metavar="PREDICTION", help="label map, or folder of label maps")
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help="label map, folder of label maps, or cohort folder")
    parser.add_argument(
        "--format", default="auto", help="dataset format of the reference cohort, such as brats2021, brats2023 or msd"
    )
    parser.add_argument("--prediction-labels", choices=LABELS, default="auto", help=numbers)
    parser.add_argument("--reference-labels", choices=LABELS, default="auto", help=numbers)
    parser.add_argument("--csv", type=Path, help="write one row for each case and region here")
    parser.add_argument("--json", type=Path, help="write cases, summary and faults here")


def run(arguments: argparse.Namespace) -> int:
    """Score, print and write; 0 when every pair could be scored, else 1."""
    for path in (arguments.prediction, arguments.reference):
        if not path.exists():
            raise DataError(f"{path} does not exist", "give two label maps or two folders")
    if arguments.prediction.is_dir() != arguments.reference.is_dir():
        raise DataError(f"{arguments.prediction} and {arguments.reference} are a file and a folder", "give two of a kind")
    evaluation = _evaluate_folders(arguments) if arguments.prediction.is_dir() else _evaluate_files(arguments)
    summary = summarise(evaluation.scores)
    _print(evaluation, summary)
    if arguments.csv:
        with write_atomically(arguments.csv) as temporary:
            evaluation.scores.to_csv(temporary, index=False, errors="backslashreplace")
    if arguments.json:
        with write_atomically(arguments.json) as temporary:
            temporary.write_text(json.dumps(_record(evaluation, summary), indent=2) + "\n")
    return 1 if evaluation.faults or evaluation.scores.empty else 0


def _evaluate_files(arguments: argparse.Namespace) -> Evaluation:
    prediction = LabelFile(arguments.prediction, arguments.prediction_labels)
    scores = score_files(prediction, LabelFile(arguments.reference, arguments.reference_labels))
    scores.insert(0, "case", arguments.prediction.name.split(".nii")[0])
    return Evaluation(scores, labels=[scores.attrs["labels"]])


def _evaluate_folders(arguments: argparse.Namespace) -> Evaluation:
    pairing = pair_folders(
        arguments.prediction,
        arguments.reference,
        format=arguments.format,
        prediction_labels=arguments.prediction_labels,
        reference_labels=arguments.reference_labels,
    )
    tables, labels, faults = [], {}, list(pairing.faults)
    for identifier, pair in tqdm(pairing.pairs.items(), desc="evaluate", unit="case", disable=not sys.stderr.isatty()):
        try:
            table = score_files(*pair)
        except Exception as error:  # of whatever kind: one bad pair stops no other
            faults.append(f"case {fault_of(identifier, error)}")
            continue
        labels[table.attrs.pop("labels")] = None
        table.insert(0, "case", identifier)
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
        "cases": json.loads(evaluation.scores.to_json(orient="records", double_precision=10)),
        "summary": json.loads(summary.to_json(orient="records", double_precision=10)),
        "faults": evaluation.faults,
        "predictions_without_reference": evaluation.without_reference,
        "references_without_prediction": evaluation.without_prediction,
    }
