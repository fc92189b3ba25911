"""``python -m helpers evaluate PREDICTION REFERENCE``: Dice and HD95 by region, for two files or two folders."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from json import dumps, loads
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from brats_cohort.case import fault_of
from brats_cohort.cases import discover, patients_of
from brats_cohort.command import Target, check_tables
from brats_cohort.files import DataError, write_atomically
from brats_cohort.formats import find_cases
from brats_cohort.regions import CONVENTIONS, REGIONS, convention_by_name
from helpers.evaluation.cohort import LabelFile, score_files, stated_labels
from helpers.evaluation.metrics import METRICS
from helpers.evaluation.statistics import summarise

_ROLE = re.compile(r"[._-](seg|segmentation|label|labels|mask|pred|prediction)$", re.IGNORECASE)
"""What people append to the identifier in the name of a label map."""

NAMES_SHOWN = 10
"""Unmatched label maps that are listed below the scores."""


@dataclass
class Evaluation:
    """Which label maps belong together, (prediction, reference) by identifier, and what scoring them gave."""

    pairs: dict[str, tuple[LabelFile, LabelFile]]
    faults: list[str] = field(default_factory=list)
    without_reference: list[str] = field(default_factory=list)
    without_prediction: list[str] = field(default_factory=list)
    scores: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["case", "patient", "region", *METRICS]))
    labels: dict[tuple[str, str], None] = field(default_factory=dict)


def run(
    prediction: Path,
    reference: Path,
    /,
    *,
    format: str = "auto",
    prediction_labels: str = "auto",
    reference_labels: str = "auto",
    patients: Path | None = None,
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
        Numbers in the predictions, such as brats2023 or nnunet; auto: those of the reference or of the file's name if they fit,
        else a 4 means brats2021 and a 3 brats2023.
    reference_labels
        Numbers in the references; auto: those of the cohort, else as for predictions.
    patients
        CSV with the columns case and patient, if names do not tell patients apart.
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
        kinds = ("a folder", "a file") if prediction.is_dir() else ("a file", "a folder")
        raise DataError(f"{prediction} is {kinds[0]} and {reference} {kinds[1]}", "give two of a kind")
    if prediction.is_dir():
        found = list_label_maps(prediction, "auto", prediction_labels)
        expected = list_label_maps(reference, format, reference_labels)
        evaluation, maps = pair_label_maps(found, expected), [*found.values(), *expected.values()]
    else:
        pair = LabelFile(prediction, prediction_labels), LabelFile(reference, reference_labels)
        evaluation, maps = Evaluation({prediction.name.split(".nii")[0]: pair}), pair
    check_tables([csv, json], [*(label.path for label in maps), *([patients] if patients else [])])
    score_pairs(evaluation, stop=prediction.is_file(), owners=patients)
    scores, summary = evaluation.scores, summarise(evaluation.scores)
    _print(evaluation, summary)
    if csv:
        with write_atomically(csv) as temporary:
            scores.to_csv(temporary, index=False, errors="backslashreplace")
    if json:
        record = {
            "cases": loads(scores.to_json(orient="records", double_precision=10)),  # NaN as null
            "summary": loads(summary.to_json(orient="records", double_precision=10)),
            "faults": evaluation.faults,
            "predictions_without_reference": evaluation.without_reference,
            "references_without_prediction": evaluation.without_prediction,
        }
        with write_atomically(json) as temporary:
            temporary.write_text(dumps(record, indent=2) + "\n")
    return 1 if evaluation.faults or scores.empty else 0


def list_label_maps(folder: Path, format: str, labels: str) -> dict[str, LabelFile]:
    """List the label maps of a folder by identifier: those of its cases if it is a cohort, else every NIfTI file."""
    try:
        cohort = format != "auto" or bool(find_cases(folder))
    except DataError as error:  # a dataset.json beside predictions may be of any data set
        if isinstance(error.__cause__, OSError):  # a folder that cannot be read
            raise
        cohort = False
    try:
        cases = discover(folder, format, labels=labels) if cohort else []
    except DataError as error:
        raise DataError(error.problem, error.remedy.replace("--labels", "--reference-labels or --prediction-labels")) from error
    maps = {each.identifier: LabelFile(each.label, each.labels, each.patient) for each in cases if each.label}
    if not cases:
        paths = [path for path in sorted(folder.rglob("*.nii*")) if not path.name.startswith(".")]
        maps = {_ROLE.sub("", path.name.split(".nii")[0]): LabelFile(path, labels) for path in paths}
        if len(maps) < len(paths):  # the folders may be named for the cases, and all files alike
            maps = {str(path.relative_to(folder)).split(".nii")[0]: LabelFile(path, labels) for path in paths}
        if len(maps) < len(paths):
            twice = next(path for path in paths if path not in {label.path for label in maps.values()})
            problem = f"{folder} holds {len(paths)} label maps but only {len(maps)} different names: {twice} is not alone"
            raise DataError(problem, "keep one for each case")
    if not maps:
        remedy = "give a folder with <case>.nii.gz files or a cohort that has references"
        raise DataError(f"{folder} holds no label map", remedy)
    return maps


def pair_label_maps(found: dict[str, LabelFile], expected: dict[str, LabelFile]) -> Evaluation:
    """Say which predictions and references belong together, by the identifier in the name."""
    matches: dict[str | None, list[LabelFile]] = {}
    for name, label in found.items():
        matches.setdefault(match_identifier(name, expected), []).append(label)
    unmatched = [str(label.path) for label in matches.pop(None, [])]
    result = Evaluation({}, [], unmatched, [name for name in expected if name not in matches])
    for name, labels in sorted(matches.items()):
        if len(labels) == 1:
            result.pairs[name] = (labels[0], expected[name])
        else:
            both = " and ".join(label.path.name for label in labels)
            result.faults.append(f"case {name}: {both} are both named for it; keep one")
    return result


def match_identifier(name: str, identifiers: Iterable[str]) -> str | None:
    """Find the longest of `identifiers` that stands in `name` as a word of its own: Case_1 is not in Case_10_seg.

    >>> match_identifier("fold0-Case_10_seg", ["Case_1", "Case_10"])
    'Case_10'
    """
    fitting = [i for i in identifiers if i in name and re.search(rf"(?<![A-Za-z0-9]){re.escape(i)}(?![A-Za-z0-9])", name)]
    return max(fitting, key=len, default=None)


def score_pairs(evaluation: Evaluation, *, stop: bool, owners: Path | None = None) -> None:
    """Score every pair, into `scores`, `labels` and `faults`; an error becomes a fault unless it is to `stop` the command.

    Doubts about the numbers of most files always stop it; in a few, a poor prediction is the likelier reason. `owners` is a
    table of patients, without which the cohort or the names tell them apart.
    """
    patients, tables, doubts, guessed = patients_of(list(evaluation.pairs), owners), [], [], []
    for name, pair in tqdm(evaluation.pairs.items(), desc="evaluate", unit="case", disable=not sys.stderr.isatty()):
        try:
            table = score_files(*pair)
        except Exception as error:  # of whatever kind: one bad pair stops no other
            if stop:
                raise
            evaluation.faults.append(f"case {fault_of(name, error)}")
            continue
        doubts += filter(None, [table.attrs.pop("doubt")])
        predicted, expected = table.attrs.pop("labels")
        evaluation.labels[predicted, expected] = None
        said = {stated_labels(pair[0]), convention_by_name(pair[0].path.name, "auto")}
        if said == {"auto"} and predicted == "brats2023" != expected:
            guessed.append(pair[0].path)
        table.insert(0, "case", name)
        table.insert(1, "patient", (not owners and pair[1].patient) or patients[name])
        tables.append(table)
    if len(doubts) > len(tables) / 2:
        raise doubts[0]
    if guessed:
        remedy = "confirm it with --prediction-labels brats2023, or give nnunet or msd if 1 is oedema"
        print(f"warning: {guessed[0]} holds a 3, which is taken for BraTS 2023; {remedy}", file=sys.stderr)
    for doubt in doubts:
        print(f"warning: {doubt}", file=sys.stderr)
    if tables:
        evaluation.scores = pd.concat(tables, ignore_index=True)


def _print(evaluation: Evaluation, summary: pd.DataFrame) -> None:
    scores = evaluation.scores
    if not scores.empty:
        columns = {}
        for metric, heading, form in (("dice", "Dice {}", "{:.4f}"), ("hd95", "HD95 {} mm", "{:.2f}")):
            table = scores.pivot(index="case", columns="region", values=metric)
            columns |= {heading.format(region): table[region].map(form.format) for region in REGIONS}
        print(pd.DataFrame(columns).rename_axis(None).to_string())
        if scores["case"].nunique() > 1:
            cases, patients = scores["case"].nunique(), scores["patient"].nunique()
            over = f"{cases} cases" if patients == cases else f"{cases} cases of {patients} patient{'s' * (patients > 1)}"
            print(f"\nOver {over}, with the 95 % bootstrap interval of the mean over patients:")
            print(summary.to_string(index=False, float_format="{:.3f}".format, na_rep="too few"))
        for predicted, expected in evaluation.labels:
            print(f"\nPredictions are read with the numbers of {CONVENTIONS[predicted]}")
            print(f"References are read with the numbers of {CONVENTIONS[expected]}")
        print("\nEmpty regions: both empty is Dice 1 and HD95 0, exactly one empty is Dice 0 and HD95 373.13 mm (BraTS).")
    if evaluation.faults:
        print(f"\nNot scored ({len(evaluation.faults)}):", *evaluation.faults, sep="\n  ")
    for title, names in (
        ("Predictions without a reference, not scored", evaluation.without_reference),
        ("References without a prediction, not counted in any mean", evaluation.without_prediction),
    ):
        if names:
            more = [f"and {len(names) - NAMES_SHOWN} more (--json lists all)"] if len(names) > NAMES_SHOWN else []
            print(f"\n{title} ({len(names)}):", *names[:NAMES_SHOWN], *more, sep="\n  ")
