"""Benchmarks: what is learnt from is of other patients, what was measured is kept, and wrong options cost no work."""

import csv
import sys
from dataclasses import asdict, replace

import joblib
import numpy as np
import pandas as pd
import pytest

from benchmarks import ablation, fine_tuning, missing_modality, own_scan, released_model, train_abdomen
from brats_cohort.files import DataError
from brats_cohort.regions import REGIONS
from brats_cohort.testing import case_arrays, write_case
from helpers.data.prepared import PreparedFile, PreprocessSettings, save_prepared
from helpers.data.preprocess import preprocess_image
from helpers.models.checkpoints import ModelCard, save_checkpoint
from helpers.models.networks import build_network

SESSIONS = {"A-1": "A", "A-2": "A", "B-1": "B", "C-1": "C"}
"""Patients of four cases."""
TINY = {"channels": (4, 8), "num_res_units": 1}
CARD = ModelCard("unet", TINY, asdict(PreprocessSettings()), (16, 16, 16), tta_axes=(0,))


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


def test_phantoms_are_prepared_as_the_card_of_the_model_says(monkeypatch, tmp_path):
    monkeypatch.setattr(released_model, "KINDS", {"usual": released_model.KINDS["usual"]})
    with joblib.parallel_config("sequential"):
        for wanted in (PreprocessSettings(4), PreprocessSettings((4.5, 5, 5), "minmax")):
            [path] = released_model.validation_phantoms(tmp_path, asdict(wanted), 1)["usual"]
            assert PreparedFile(path).settings == wanted


def test_fine_tuning_mixes_in_no_phantoms_that_are_prepared_otherwise(monkeypatch, tmp_path):
    for number in range(2):
        write_case(tmp_path / "cohort", f"Case_{number}", seed=number)
    save_checkpoint(tmp_path / "mine.safetensors", build_network("unet", **TINY), CARD)  # corrects no bias
    words = ["--cases", tmp_path / "cohort", "--out", tmp_path / "table.csv", "--checkpoint", tmp_path / "mine.safetensors"]
    with pytest.raises(DataError, match="give --alone"):
        call(monkeypatch, fine_tuning, *words, "--sizes", 1, "--marks", 1)


def test_patients_who_lack_an_image_are_left_out_and_named(monkeypatch, tmp_path, capsys):
    for number in range(2):
        write_case(tmp_path / "cohort", f"Case_{number}", seed=number)
    next((tmp_path / "cohort" / "Case_1").glob("*_t2.nii.gz")).unlink()
    monkeypatch.setattr(missing_modality, "load_released", lambda: (build_network("unet", **TINY).eval(), CARD))
    call(monkeypatch, missing_modality, "--cases", tmp_path / "cohort")
    shown = capsys.readouterr()
    assert "1 patients of cohort" in shown.out and "Case_1" in shown.err


@pytest.mark.parametrize("module", [missing_modality, released_model], ids=lambda module: module.__name__)
def test_a_folder_without_a_case_to_score_is_named(monkeypatch, tmp_path, module):
    case = write_case(tmp_path / "cohort")
    case.label.unlink()
    with pytest.raises(SystemExit, match="cohort has no case with four images and a reference"):
        call(monkeypatch, module, "--cases", tmp_path / "cohort")


def test_fine_tuning_makes_the_folder_of_its_table_and_names_who_is_left_out(monkeypatch, tmp_path, capsys):
    for number in range(3):
        write_case(tmp_path / "cohort", f"Case_{number}", seed=number)
    next((tmp_path / "cohort" / "Case_1").glob("*_t2.nii.gz")).unlink()
    monkeypatch.setattr(fine_tuning, "load_released", lambda: (None, CARD))
    monkeypatch.setattr(fine_tuning, "fine_tune", lambda network, *_, **options: iter([(1, network)]))
    monkeypatch.setattr(fine_tuning, "score", lambda *_: dict.fromkeys(REGIONS, 0.5))
    table = tmp_path / "new" / "table.csv"
    call(monkeypatch, fine_tuning, "--cases", tmp_path / "cohort", "--out", table, "--sizes", 1, "--marks", 1, "--alone")
    assert set(pd.read_csv(table)["case"]) == {"Case_0", "Case_2"}
    assert "error: Case_1: T2 is missing" in capsys.readouterr().out


def test_a_place_where_weights_cannot_be_written_is_found_before_the_training(monkeypatch, tmp_path):
    (tmp_path / "taken").touch()
    monkeypatch.setattr(train_abdomen, "draw", lambda *_: pytest.fail("the training began"))
    with pytest.raises(DataError, match="taken is a file, not a folder"):
        call(monkeypatch, train_abdomen, "--out", tmp_path / "taken" / "abdomen.safetensors")


def test_a_table_that_cannot_be_written_keeps_what_it_had(monkeypatch, tmp_path):
    def measured(index, *_):
        if index == 1:
            raise KeyboardInterrupt
        return {"session": index, "failed": "the FLAIR shows a part of the head"}

    def full(writer, rows):
        raise OSError(28, "No space left on device")

    table = tmp_path / "own_scan.csv"
    monkeypatch.setattr(own_scan, "load_released", lambda: (None, CARD))
    monkeypatch.setattr(own_scan, "measure", measured)
    with pytest.raises(KeyboardInterrupt):
        call(monkeypatch, own_scan, "--out", table)
    before = table.read_text()
    monkeypatch.setattr(own_scan, "measure", lambda index, *_: {"session": index})
    monkeypatch.setattr(csv.DictWriter, "writerows", full)
    with pytest.raises(DataError, match="No space left"):
        call(monkeypatch, own_scan, "--out", table)
    assert table.read_text() == before


def test_sessions_measured_with_other_limits_are_not_taken_for_these(monkeypatch, tmp_path):
    monkeypatch.setattr(own_scan, "load_released", lambda: (None, CARD))
    monkeypatch.setattr(
        own_scan, "measure", lambda index, *_: {"session": index, "failed": "the FLAIR shows a part of the head"}
    )
    call(monkeypatch, own_scan, "--out", tmp_path / "own_scan.csv", "--count", 1)
    other = replace(CARD, postprocessing={**CARD.postprocessing, "core_threshold": 0.3})
    monkeypatch.setattr(own_scan, "load_released", lambda: (None, other))
    with pytest.raises(SystemExit, match="another run"):
        call(monkeypatch, own_scan, "--out", tmp_path / "own_scan.csv", "--count", 1)


def test_phantoms_are_scored_with_test_time_augmentation_too(tmp_path):
    image, classes = case_arrays((24, 24, 16))
    path = save_prepared(tmp_path / "phantom.safetensors", preprocess_image(image, np.eye(4), classes=classes))
    network = build_network("unet", **TINY).eval()
    tables = [released_model.phantom_scores(network, CARD, {"usual": [path]}, tta=tta) for tta in (False, True)]
    assert not tables[0].equals(tables[1])


def scored(dice: float, case: str, patient: str) -> pd.DataFrame:
    facts = {"case": case, "patient": patient, "dice": dice, "hd95": 10 * dice, "reference_ml": 1.0, "prediction_ml": 1.0}
    return pd.DataFrame([{"region": region, **facts} for region in REGIONS])


def test_sessions_of_a_patient_count_as_one_in_the_means_of_the_model_card():
    dices = {"A-1": 0.1, "A-2": 0.3, "B-1": 0.5, "C-1": 0.9}
    table = released_model.by_case(pd.concat(scored(dice, case, SESSIONS[case]) for case, dice in dices.items()))
    assert "| A-2 | 0.300 | 0.300 | 0.300 | 3.0 | 3.0 | 3.0 |" in table
    [mean] = [line for line in table.splitlines() if line.startswith("| mean of 3 [95 %]")]
    assert mean.count("| 0.533 [0.200, 0.900] ") == 3 and mean.count("| 5.3 [2.0, 9.0] ") == 3
    rows = [
        {"patient": SESSIONS[case], "missing": missing, "by": by, **dict.fromkeys(REGIONS, dice)}
        for case, dice in dices.items()
        for missing, by in missing_modality.ways()
    ]
    assert "| nothing |  | 0.533 | 0.533 | 0.533 |" in missing_modality.table(rows)
