"""Benchmarks: what is learnt from is of other patients, what was measured is kept, and wrong options cost no work."""

import sys

import pandas as pd
import pytest

from benchmarks import ablation, fine_tuning, missing_modality, own_scan, released_model
from brats_cohort.regions import REGIONS
from brats_cohort.testing import write_case

SESSIONS = {"A-1": "A", "A-2": "A", "B-1": "B", "C-1": "C"}
"""Patients of four cases."""


def call(monkeypatch, module, *words):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    module.main()


def test_fine_tuning_learns_from_no_other_session_of_the_test_patient():
    for test, patient in SESSIONS.items():
        found = fine_tuning.others(test, SESSIONS)
        assert sorted(found) == [name for name, other in SESSIONS.items() if other != patient]


def test_sessions_of_a_patient_count_as_one_in_the_gain_of_fine_tuning():
    gained = {"A-1": 0.1, "A-2": 0.3, "B-1": 0.5, "C-1": 0.0}
    rows = [
        {"cases": min(step, 1), "mixed": False, "step": step, "case": case, **dict.fromkeys(REGIONS, step * gain)}
        for step in (0, 1)
        for case, gain in gained.items()
    ]
    found = fine_tuning.gains(pd.DataFrame(rows), SESSIONS)
    assert found.loc[0, "WT"].startswith("+0.233 ")


def test_fine_tuning_refuses_more_cases_than_there_are(monkeypatch, tmp_path):
    for number in range(2):
        write_case(tmp_path / "cohort", f"Case_{number}", seed=number)
    with pytest.raises(SystemExit, match="has only 1 of other patients to learn from; give smaller --sizes"):
        call(monkeypatch, fine_tuning, "--cases", tmp_path / "cohort", "--out", tmp_path / "table.csv", "--sizes", 1, 2)


def test_an_ablation_keeps_the_scores_of_every_variant_and_has_the_baseline(monkeypatch, tmp_path, capsys):
    def scored(settings, manifest, files, fold):
        if not settings.augment:
            raise KeyboardInterrupt
        rows = [{"case": name, "patient": name, "region": "WT", "dice": 0.5} for name in manifest.part("val", fold=fold)]
        return pd.DataFrame(rows)

    for number in range(8):
        write_case(tmp_path / "cohort", f"Case_{number}", seed=number)
    monkeypatch.setattr(ablation, "_train_and_score", scored)
    table = tmp_path / "new" / "scores.csv"
    words = ["--cohort", tmp_path / "cohort", "--workers", 1, "--csv", table, "--variants", "Dice alone"]
    call(monkeypatch, ablation, *words)
    assert "as it is" in capsys.readouterr().out.partition("Dice, WT")[2]
    table.unlink()
    with pytest.raises(KeyboardInterrupt):
        call(monkeypatch, ablation, *words, "without")
    assert set(pd.read_csv(table)["variant"]) == {"as it is", "Dice alone"}


def test_sessions_that_all_fail_have_a_summary():
    assert own_scan.summary([{"session": 0, "failed": "the FLAIR shows a part of the head"}]) == "0 of 1 prepared"


@pytest.mark.parametrize("module", [missing_modality, released_model], ids=lambda module: module.__name__)
def test_a_benchmark_with_nothing_to_measure_is_an_error_of_usage(monkeypatch, capsys, module):
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, module)
    assert "give --phantoms, --cases or both" in capsys.readouterr().err
