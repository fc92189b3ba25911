"""Division of a cohort into training, validation and test parts: by patient, stratified, and kept in a file with a checksum.

The test part stands apart. The other patients are divided into folds; training on fold k means validating on fold k and
training on all other folds, so cross-validation covers every one of them exactly once.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from brats_cohort.case import Case
from brats_cohort.checks import CaseFacts
from brats_cohort.files import DataError, named, write_atomically

PARTS = ("train", "val", "test")
FOLDS = 5
"""Parts into which patients are divided: one of five is the test part, and the others are divided into five again."""
_AGAIN = "remove it and run again what made it, training or notebook 01_explore_data"


@dataclass(frozen=True)
class SplitManifest:
    """Who belongs to which part: test cases, the other cases by fold, and the patient of every identifier."""

    format: str
    seed: int
    test: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    patients: Mapping[str, str]

    def part(self, name: str, *, fold: int = 0) -> tuple[str, ...]:
        """Identifiers of "train", "val" or "test", sorted; `fold` is the one that validates."""
        if name not in PARTS:
            raise ValueError(f"there is no part {name!r}; choose one of {', '.join(PARTS)}")
        if not 0 <= fold < len(self.folds):
            raise ValueError(f"there is no fold {fold}; this split has folds 0 to {len(self.folds) - 1}")
        if name == "test":
            return self.test
        if name == "val":
            return self.folds[fold]
        return tuple(sorted(case for number, cases in enumerate(self.folds) if number != fold for case in cases))

    @property
    def sha256(self) -> str:
        """Checksum of the division: equal for equal parts, whoever wrote the file."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def make_splits(cases: Sequence[Case], facts: Mapping[str, CaseFacts], *, seed: int) -> SplitManifest:
    """Divide cases by patient, stratified by tumour volume and presence of enhancing tumour.

    One of `FOLDS` stratified folds over all patients becomes the test part; the remaining patients are divided into folds
    again (`sklearn.model_selection.StratifiedKFold`). The order in which cases are given does not matter.

    Parameters
    ----------
    cases : sequence of Case
        Usable cases with a reference, of at least three patients; `DataError` below.
    facts : mapping from identifier to CaseFacts
        As `brats_cohort.checks.check_cohort` reports them.
    seed : int
        Fixes the shuffling, 0 or more.
    """
    patients = dict(sorted((case.identifier, case.patient) for case in cases))
    rows = [(case.patient, facts[case.identifier].wt_ml, facts[case.identifier].et_ml) for case in cases]
    largest = pd.DataFrame(rows, columns=["patient", "wt_ml", "et_ml"]).groupby("patient").max()
    if len(largest) < 3:
        problem = f"{len(largest)} usable patients cannot be divided into train, val and test"
        raise DataError(problem, "a split needs at least 3; look at the faults of those that were left out, if any")
    third = pd.qcut(largest["wt_ml"].rank(method="first"), 3, labels=["0", "1", "2"]).astype(str)
    strata = third + np.where(largest["et_ml"] > 0, " with ET", " without ET")
    test, *_ = _folds(strata, seed)
    folds = _folds(strata.drop(test), seed)

    def identifiers(chosen: Sequence[str]) -> tuple[str, ...]:
        return tuple(sorted(name for name, patient in patients.items() if patient in set(chosen)))

    return SplitManifest(cases[0].format, int(seed), identifiers(test), tuple(map(identifiers, folds)), patients)


def _folds(strata: pd.Series, seed: int) -> list[list[str]]:
    """Divide patients into at most `FOLDS` folds that each hold about the same share of every stratum."""
    count = min(FOLDS, len(strata))
    if strata.value_counts().max() < count:  # so few patients cannot be stratified, and scikit-learn refuses to try
        strata = pd.Series("everyone", index=strata.index)
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # a rare stratum cannot be in every fold
        return [list(strata.index[members]) for _, members in splitter.split(strata, strata)]


def save_splits(path: Path, manifest: SplitManifest) -> Path:
    """Write the manifest as JSON with its checksum; the file is complete or absent."""
    record = {**asdict(manifest), "sha256": manifest.sha256}
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return Path(path)


def load_splits(path: Path) -> SplitManifest:
    """Read a manifest; raises `DataError` if it is absent, damaged, changed by hand, or has a patient in two parts."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"the split {path} does not exist", "make it first, with save_splits or notebook 01_explore_data")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        manifest = SplitManifest(
            format=record["format"],
            seed=record["seed"],
            test=tuple(record["test"]),
            folds=tuple(tuple(fold) for fold in record["folds"]),
            patients=record["patients"],
        )
        stated = record["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the split {path} is damaged ({named(error)})", _AGAIN) from error
    if stated != manifest.sha256:
        raise DataError(f"the split {path} was changed after it was made", _AGAIN)
    seen = Counter(patient for part in (manifest.test, *manifest.folds) for patient in {manifest.patients[c] for c in part})
    shared = sorted(patient for patient, count in seen.items() if count > 1)
    if shared:
        raise DataError(f"the split {path} has patient {shared[0]} in two parts", _AGAIN)
    return manifest
