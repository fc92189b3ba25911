"""Divisions of a cohort: by patient, stratified, complete, and safe from changes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brats_cohort.case import Case
from brats_cohort.checks import CaseFacts
from brats_cohort.files import DataError
from brats_cohort.splits import load_splits, make_splits, save_splits


def cohort(patients: int, sessions: int = 1, without_et: int = 4):
    cases, facts = [], {}
    for patient in range(patients):
        for session in range(sessions if patient % 3 == 0 else 1):
            name = f"BraTS-GLI-{patient:05d}-{session:03d}"
            cases.append(Case(name, name[:15], "brats2023", {}, None))
            et_ml = 0.0 if patient % without_et == 0 else 5.0
            facts[name] = CaseFacts(identifier=name, wt_ml=10.0 + 7 * ((patient * 37) % 101), tc_ml=5 + et_ml, et_ml=et_ml)
    return cases, facts


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 60), st.integers(1, 3), st.integers(0, 2**16))
def test_every_patient_is_in_exactly_one_part(patients, sessions, seed):
    cases, facts = cohort(patients, sessions)
    manifest = make_splits(cases, facts, seed=seed)
    everyone = {case.identifier for case in cases}
    for fold in range(len(manifest.folds)):
        parts = [manifest.part(name, fold=fold) for name in ("train", "val", "test")]
        assert sorted(case for part in parts for case in part) == sorted(everyone)
        assert all(parts)
        owners = [{manifest.patients[case] for case in part} for part in parts]
        assert not owners[0] & owners[1]
        assert not owners[0] & owners[2]
        assert not owners[1] & owners[2]
    validated = [case for fold in range(len(manifest.folds)) for case in manifest.part("val", fold=fold)]
    assert sorted(validated) == sorted(everyone - set(manifest.test))


def test_order_of_cases_does_not_matter_and_the_seed_does():
    cases, facts = cohort(40)
    manifest = make_splits(cases, facts, seed=1)
    assert make_splits(cases[::-1], facts, seed=1).sha256 == manifest.sha256
    assert make_splits(cases, facts, seed=2).test != manifest.test


@pytest.mark.parametrize("seed", range(5))
def test_parts_resemble_the_cohort(seed):
    cases, facts = cohort(100)
    manifest = make_splits(cases, facts, seed=seed)
    assert len(manifest.test) == 20
    for part in (manifest.test, *manifest.folds):
        without = sum(not facts[case].et_ml for case in part) / len(part)
        assert without == pytest.approx(0.25, abs=0.07)
        small = sum(facts[case].wt_ml < 200 for case in part) / len(part)
        assert small == pytest.approx(sum(fact.wt_ml < 200 for fact in facts.values()) / 100, abs=0.15)


def test_the_file_gives_back_the_manifest(tmp_path):
    manifest = make_splits(*cohort(12, 2), seed=3)
    path = save_splits(tmp_path / "splits.json", manifest)
    assert load_splits(path) == manifest
    assert [entry.name for entry in tmp_path.iterdir()] == ["splits.json"]


def test_damaged_changed_and_absent_files_are_refused(tmp_path):
    manifest = make_splits(*cohort(12), seed=3)
    path = save_splits(tmp_path / "splits.json", manifest)
    record = json.loads(path.read_text())
    moved = {**record, "test": record["test"] + record["folds"][0][:1]}
    path.write_text(json.dumps(moved))
    with pytest.raises(DataError, match="was changed after it was made; remove it and run again what made it"):
        load_splits(path)
    path.write_text("{")
    with pytest.raises(DataError, match=r"damaged .*; remove it and run again what made it"):
        load_splits(path)
    with pytest.raises(DataError, match="does not exist; make it first, with save_splits or notebook 01_explore_data"):
        load_splits(tmp_path / "other.json")


def test_a_patient_in_two_parts_is_refused_even_with_a_right_checksum(tmp_path):
    manifest = make_splits(*cohort(12), seed=3)
    case, other = manifest.test[0], manifest.folds[0][0]
    mixed = type(manifest)(
        manifest.format, 3, manifest.test, manifest.folds, {**manifest.patients, case: manifest.patients[other]}
    )
    with pytest.raises(DataError, match="in two parts; remove it and run again what made it"):
        load_splits(save_splits(tmp_path / "splits.json", mixed))


def test_a_seed_may_be_an_integer_of_numpy(tmp_path):
    manifest = make_splits(*cohort(12), seed=np.int64(3))
    assert load_splits(save_splits(tmp_path / "splits.json", manifest)) == make_splits(*cohort(12), seed=3)


def test_two_patients_are_too_few():
    with pytest.raises(DataError, match="at least 3"):
        make_splits(*cohort(2), seed=0)
