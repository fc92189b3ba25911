"""Find out what is wrong with the files of a case and of a cohort: its images, its reference, and what only a cohort shows."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import joblib
import nibabel as nib
import numpy as np
from tqdm.auto import tqdm

from brats_cohort.case import ERROR, WARNING, Case, Fault, fault_of
from brats_cohort.cases import onto_grid, read_modalities, to_numbered_classes
from brats_cohort.files import DataError
from brats_cohort.grid import spacing_of
from brats_cohort.nifti import read_label_values
from brats_cohort.regions import CONVENTIONS, REGION_CLASSES, REGIONS
from brats_cohort.session import LARGEST_VALUE, examine, moment

if TYPE_CHECKING:
    import pandas as pd

FEW_OUTSIDE, MOST_OUTSIDE = 0.01, 0.5  # share of the tumour outside the brain for a warning, and for an error


@dataclass(frozen=True)
class CaseFacts:
    """What a case's files hold: their grid, volumes in ml (0 without a reference), and a fingerprint of each image."""

    identifier: str
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    brain_ml: float = 0.0
    tc_ml: float = 0.0
    wt_ml: float = 0.0
    et_ml: float = 0.0
    fingerprints: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseCheck:
    """Facts and faults of one case."""

    case: Case
    facts: CaseFacts
    faults: tuple[Fault, ...]

    @property
    def readable(self) -> bool:
        """Whether the case has no error, so that it can be shown and predicted."""
        return all(fault.severity != ERROR for fault in self.faults)

    @property
    def usable(self) -> bool:
        """Whether the case can be trained on and scored: it has a reference and no error."""
        return self.case.label is not None and self.readable


@dataclass(frozen=True)
class CheckReport:
    """Checks of a cohort, in the order of its cases; cases that share an image have one patient."""

    checks: tuple[CaseCheck, ...]

    @property
    def usable(self) -> list[Case]:
        """Cases without an error and with a reference."""
        return [check.case for check in self.checks if check.usable]

    @property
    def readable(self) -> list[Case]:
        """Cases without an error, with or without a reference."""
        return [check.case for check in self.checks if check.readable]

    @property
    def faults(self) -> list[Fault]:
        """Every fault of every case."""
        return [fault for check in self.checks for fault in check.faults]

    @property
    def facts(self) -> dict[str, CaseFacts]:
        """Facts by identifier."""
        return {check.case.identifier: check.facts for check in self.checks}

    @property
    def notes(self) -> list[str]:
        """What must be known of the cohort as a whole: how patients are told apart, and whose label numbers are read."""
        return [_patients_note([check.case for check in self.checks]), *_label_notes(self.checks)] if self.checks else []

    def table(self) -> pd.DataFrame:
        """One row a case: status, grid, volumes in ml, number of faults and the first of them."""
        import pandas as pd  # here, as prediction checks its images too and needs no table

        rows = {}
        for check in self.checks:
            facts, faults = check.facts, check.faults
            rows[check.case.identifier] = {
                "status": "usable" if check.usable else "left out",
                "shape": " x ".join(map(str, facts.shape)),
                "mm": " x ".join(f"{edge:.3g}" for edge in facts.spacing),
                "axes": facts.orientation,
                "brain ml": round(facts.brain_ml),
                **{f"{region} ml": round(getattr(facts, f"{region.lower()}_ml"), 1) for region in REGIONS},
                "faults": len(faults),
                "first fault": f"{faults[0].severity}: {faults[0].problem}" if faults else "",
            }
        return pd.DataFrame([*rows.values()], index=pd.Index([*rows], name="case"))


def check_cohort(cases: Sequence[Case], *, workers: int | None = None, progress: bool = True) -> CheckReport:
    """Check every case, `workers` at a time (by default one for each core); a bad one never stops the others."""
    count = max(1, joblib.cpu_count() if workers is None else workers)
    with ThreadPoolExecutor(count) as pool:
        try:
            checks = tqdm(pool.map(check_case, cases), total=len(cases), desc="checks", unit="case", disable=not progress)
            return CheckReport(_share_patients(list(checks)))
        finally:
            pool.shutdown(cancel_futures=True)


def check_case(case: Case) -> CaseCheck:
    """Open every file of one case and compare it with the others; whatever happens becomes a fault of the case."""
    try:
        return _check(case)
    except Exception as error:  # a defect in one file, of whatever kind, must not end the check of the cohort
        return CaseCheck(case, CaseFacts(case.identifier), (fault_of(case.identifier, error),))


def _check(case: Case) -> CaseCheck:
    volumes, affine, faults = read_modalities(case)
    if not volumes:
        return CaseCheck(case, CaseFacts(case.identifier), (*faults, *_label(case, None, None)[1]))
    names = {modality: source.path.name for modality, source in case.images.items()}
    settled, brain, found = examine(volumes, affine, case.identifier, names)
    shape, spacing = next(iter(volumes.values())).shape, spacing_of(affine)
    classes, label_faults = _label(case, brain, (next(iter(names.values())), shape, affine))
    ml = float(np.prod(spacing)) / 1000
    counts = np.bincount(classes.ravel(), minlength=4) if classes is not None else np.zeros(4)
    facts = CaseFacts(
        case.identifier,
        shape=shape,
        spacing=tuple(spacing.tolist()),
        orientation="".join(axis or "?" for axis in nib.aff2axcodes(affine)),
        brain_ml=float(np.count_nonzero(brain) * ml) if brain is not None else 0.0,
        **{f"{region.lower()}_ml": float(counts[list(REGION_CLASSES[region])].sum() * ml) for region in REGIONS},
        fingerprints=tuple(filter(None, map(_fingerprint, settled.values()))),
    )
    return CaseCheck(case, facts, (*faults, *found, *label_faults))


def _label(
    case: Case, brain: np.ndarray | None, grid: tuple[str, tuple[int, ...], np.ndarray] | None
) -> tuple[np.ndarray | None, list[Fault]]:
    """Classes of the reference in the grid of the images, and what is wrong with it."""
    if case.label is None:
        remedy = "predict it, but do not train or score on it"
        return None, [Fault(case.identifier, "", "there is no reference", remedy, WARNING)]
    faults, name = [], case.label.name
    try:
        values, affine = read_label_values(case.label)
        if grid:
            values, fault = onto_grid(values, affine, grid, case.identifier, name, reference=True)
            faults += [fault] if fault else []
        if values is None:
            return None, faults
        classes = to_numbered_classes(values, CONVENTIONS[case.labels], case.label)
    except DataError as error:
        return None, [*faults, fault_of(case.identifier, error, case.label)]
    count = np.count_nonzero(classes)
    if count == 0:
        problem = f"{name} marks no tumour: every voxel is background"
        faults.append(Fault(case.identifier, name, problem, "make sure that is meant", WARNING))
    elif brain is not None and brain.shape == classes.shape:
        outside = 1 - np.count_nonzero((classes > 0) & brain) / count
        if outside > FEW_OUTSIDE:
            problem = f"{100 * outside:.0f} % of the tumour in {name} lies outside the brain"
            severity = ERROR if outside > MOST_OUTSIDE else WARNING
            faults.append(Fault(case.identifier, name, problem, "check that it belongs to these images", severity))
    return classes, faults


def _fingerprint(volume: np.ndarray) -> str:
    """Hash of how the values inside the brain are distributed, empty if there is one only.

    It stays the same if the image is cropped, padded, turned or mirrored, written as another data type, or scaled.
    """
    values = volume[volume != 0]
    if len(values) < 2:
        return ""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    largest = max(-low, high)
    if not largest < LARGEST_VALUE or high - low <= 1e-6 * largest:  # "not" as NaN is smaller than nothing
        return ""
    facts = f"{len(values)} {moment(values, 3):.4g} {moment(values, 4):.4g} {moment(values, 5):.4g}"
    return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()


def _share_patients(checks: list[CaseCheck]) -> tuple[CaseCheck, ...]:
    """Give cases that share an image one patient and a warning."""
    owners: dict[str, list[int]] = defaultdict(list)
    for number, check in enumerate(checks):
        for print_of_image in set(check.facts.fingerprints):
            owners[print_of_image].append(number)
    patients = [check.case.patient for check in checks]
    twins: dict[int, set[int]] = defaultdict(set)
    for numbers in (numbers for numbers in owners.values() if len(numbers) > 1):
        joined = {patients[number] for number in numbers}
        patients = [patients[numbers[0]] if patient in joined else patient for patient in patients]
        for number in numbers:
            twins[number] |= set(numbers) - {number}
    result = []
    for number, (check, patient) in enumerate(zip(checks, patients, strict=True)):
        faults = check.faults
        if twins[number]:
            named = ", ".join(checks[other].case.identifier for other in sorted(twins[number])[:3])
            problem = f"it has an image in common with {named}, so they count as one patient"
            remedy = "keep one of them, if they are the same session"
            faults = (*faults, Fault(check.case.identifier, "", problem, remedy, WARNING))
        result.append(replace(check, case=replace(check.case, patient=patient), faults=faults))
    return tuple(result)


def _patients_note(cases: Sequence[Case]) -> str:
    patients: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        patients[case.patient].append(case.identifier)
    name, sessions = max(patients.items(), key=lambda item: len(item[1]))
    note = f"{len(cases)} case{'s' * (len(cases) > 1)} of {len(patients)} patient{'s' * (len(patients) > 1)}"
    if len(sessions) == 1:
        return f"{note}: every case is taken for a patient of its own (--patients FILE.csv says otherwise)"
    return f"{note}, such as {name} with {', '.join(sessions[:3])} (--patients FILE.csv says otherwise)"


def _label_notes(checks: Sequence[CaseCheck]) -> Iterator[str]:
    by_labels: dict[str, list[CaseCheck]] = defaultdict(list)
    for check in checks:
        if check.case.label is not None:
            by_labels[check.case.labels].append(check)
    for key, group in by_labels.items():
        convention = CONVENTIONS[key]
        yield f"references are read with the numbers of {convention} (--labels NAME says otherwise)"
        facts = [check.facts for check in group if check.facts.wt_ml]
        present = (any(f.tc_ml > f.et_ml for f in facts), any(f.wt_ml > f.tc_ml for f in facts), any(f.et_ml for f in facts))
        numbers = [number for number, seen in zip(convention.values[1:], present, strict=True) if not seen]
        if facts and numbers:
            absent = " and ".join(f"{number} ({convention.meanings[number]})" for number in numbers)
            masks = ": they look like plain tumour masks, from which TC, WT and ET cannot be learnt apart"
            yield f"{absent} never occur{'s' * (len(numbers) == 1)} in them{masks * (len(numbers) == 2)}"
