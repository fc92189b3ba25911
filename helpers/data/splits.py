"""Division of a cohort into training, validation and test parts: by patient, stratified, and kept in a file with a checksum.

The test part stands apart. The other patients are divided into folds; training on fold k means validating on fold k and
training on all other folds, so cross-validation covers every one of them exactly once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.data.cases import Case, DataError
from helpers.data.checks import CaseFacts

PARTS = ("train", "val", "test")
VOLUME_STRATA = 3


@dataclass(frozen=True)
class SplitManifest:
    """Who belongs to which part.

    Attributes
    ----------
    layout : str
        Layout of the cohort.
    seed : int
        Seed of the division.
    test : tuple of str
        Identifiers of the test cases.
    folds : tuple of tuples of str
        Identifiers of the other cases by fold.
    patients : mapping from str to str
        Patient of every identifier.
    """

    layout: str
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
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    def _content(self) -> dict:
        return {
            "layout": self.layout,
            "seed": self.seed,
            "test": list(self.test),
            "folds": [list(fold) for fold in self.folds],
            "patients": dict(sorted(self.patients.items())),
        }


def make_splits(
    cases: Sequence[Case], facts: Mapping[str, CaseFacts], *, seed: int, test_share: float = 0.2, folds: int = 5
) -> SplitManifest:
    """Divide cases by patient, stratified by tumour volume and presence of enhancing tumour.

    Within a stratum (third of whole-tumour volume, with or without enhancing tumour) patients are shuffled; the strata
    are then dealt out one after the other like cards, so every part receives its share of each stratum to within one
    patient. The order in which cases are given does not matter.

    Parameters
    ----------
    cases : sequence of Case
        Usable cases with a reference, of at least three patients.
    facts : mapping from identifier to CaseFacts
        As `helpers.data.checks.check_cohort` reports them.
    seed : int
        Fixes the shuffling.
    test_share : float
        Share of patients in the test part, in (0, 1); at least one patient, and at least two remain.
    folds : int
        Number of folds of the rest, at least 2; fewer where fewer patients remain.

    Raises
    ------
    DataError
        If there are fewer than three patients.
    """
    sessions: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        sessions[case.patient].append(case.identifier)
    patients = {case.identifier: case.patient for case in cases}
    strata = _strata(sessions, facts)
    return divide(cases[0].layout if cases else "", patients, strata, seed=seed, test_share=test_share, folds=folds)


def divide(
    layout: str,
    patients: Mapping[str, str],
    strata: Mapping[str, tuple],
    *,
    seed: int,
    test_share: float = 0.2,
    folds: int = 5,
) -> SplitManifest:
    """Divide identifiers by patient, stratified by anything; raises like `make_splits`, which says how.

    Parameters
    ----------
    layout : str
        Layout of the cohort.
    patients : mapping from str to str
        Patient of every identifier.
    strata : mapping from str to tuple
        Stratum of every patient; strata must sort.
    """
    sessions: dict[str, list[str]] = defaultdict(list)
    for identifier, patient in patients.items():
        sessions[patient].append(identifier)
    if len(sessions) < 3:
        raise DataError(f"{len(sessions)} patients cannot be divided into train, val and test; a split needs at least 3")
    if not 0 < test_share < 1 or folds < 2:
        raise ValueError(f"test_share must lie between 0 and 1 and folds be at least 2, not {test_share} and {folds}")
    ordered = _deal(strata, np.random.default_rng(seed))
    tested = min(max(1, round(test_share * len(ordered))), len(ordered) - 2)
    places = set(np.floor((np.arange(tested) + 0.5) * len(ordered) / tested).astype(int).tolist())
    rest = [patient for place, patient in enumerate(ordered) if place not in places]
    count = min(folds, len(rest))

    def identifiers(chosen: Sequence[str]) -> tuple[str, ...]:
        return tuple(sorted(case for patient in chosen for case in sessions[patient]))

    return SplitManifest(
        layout=layout,
        seed=seed,
        test=identifiers([ordered[place] for place in sorted(places)]),
        folds=tuple(identifiers(rest[number::count]) for number in range(count)),
        patients=dict(patients),
    )


def save_splits(path: Path, manifest: SplitManifest) -> Path:
    """Write the manifest as JSON with its checksum; the file is complete or absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    record = {**manifest._content(), "sha256": manifest.sha256}
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return temporary.replace(path)


def load_splits(path: Path) -> SplitManifest:
    """Read a manifest; raises `DataError` if it is absent, damaged, changed by hand, or has a patient in two parts."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"the split {path} does not exist; run notebook 01_explore_data, which makes it")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        manifest = SplitManifest(
            layout=record["layout"],
            seed=record["seed"],
            test=tuple(record["test"]),
            folds=tuple(tuple(fold) for fold in record["folds"]),
            patients=record["patients"],
        )
        stated = record["sha256"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"the split {path} is damaged ({error!r}); make it again with notebook 01_explore_data") from error
    if stated != manifest.sha256:
        raise DataError(f"the split {path} was changed after it was made; make it again with notebook 01_explore_data")
    _reject_shared_patients(manifest, path)
    return manifest


def _reject_shared_patients(manifest: SplitManifest, path: Path) -> None:
    parts = [manifest.test, *manifest.folds]
    seen = Counter(patient for part in parts for patient in {manifest.patients[case] for case in part})
    shared = sorted(patient for patient, count in seen.items() if count > 1)
    if shared:
        raise DataError(f"the split {path} has patient {shared[0]} in two parts; make it again with notebook 01_explore_data")


def thirds(values: Mapping[str, float]) -> dict[str, tuple[int]]:
    """Stratum of every patient by a number: the third of all patients in which it lies."""
    limits = np.quantile(list(values.values()) or [0.0], np.arange(1, VOLUME_STRATA) / VOLUME_STRATA)
    return {patient: (int(np.searchsorted(limits, value)),) for patient, value in values.items()}


def _strata(sessions: Mapping[str, Sequence[str]], facts: Mapping[str, CaseFacts]) -> dict[str, tuple[bool, int]]:
    """Presence of enhancing tumour and third of whole-tumour volume (the largest of a patient's sessions) by patient."""
    volume = thirds({patient: max(facts[case].wt_ml for case in cases) for patient, cases in sessions.items()})
    return {patient: (any(facts[case].has_et for case in sessions[patient]), *volume[patient]) for patient in sessions}


def _deal(strata: Mapping[str, tuple], generator: np.random.Generator) -> list[str]:
    """All patients in one row, stratum after stratum, shuffled within each."""
    members: dict[tuple, list[str]] = defaultdict(list)
    for patient in sorted(strata):
        members[strata[patient]].append(patient)
    return [str(patient) for key in sorted(members) for patient in generator.permutation(members[key])]
