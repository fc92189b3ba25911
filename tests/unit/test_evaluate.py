"""The evaluate command on real files: two files, two folders, foreign numbers, unmatched and broken cases."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from brats_cohort.cases import discover, read_classes, read_numbers
from brats_cohort.files import DataError
from brats_cohort.grid import spacing_of
from brats_cohort.nifti import write_volume
from brats_cohort.regions import BRATS2021, CONVENTIONS, MSD, from_classes
from brats_cohort.testing import LPS, case_arrays, write_case
from helpers.cli import main
from helpers.cli.evaluate import list_label_maps, match_identifier, pair_label_maps
from helpers.evaluation.cohort import LabelFile, read_label_file, score_files
from helpers.evaluation.metrics import score_case
from tests.cases import REAL_CASES


def write_prediction(folder, name, classes, *, affine=LPS, convention=BRATS2021):
    return write_volume(folder / f"{name}.nii.gz", from_classes(classes, convention), affine)


@pytest.mark.parametrize("layout", ["brats2021", "brats2023", "msd"])
def test_predictions_in_brats_numbers_score_one_against_a_cohort_of_any_layout(tmp_path, layout):
    for seed in range(3):
        _, classes = case_arrays(seed=seed)
        write_case(tmp_path / "cohort", f"Case_{seed:03d}", layout, seed=seed)
        write_prediction(tmp_path / "out", f"Case_{seed:03d}", classes)
    status = main(["evaluate", str(tmp_path / "out"), str(tmp_path / "cohort"), "--csv", str(tmp_path / "scores.csv")])
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert status == 0
    assert len(scores) == 9
    assert (scores["dice"] == 1).all()
    assert (scores["hd95"] == 0).all()


def test_two_files_print_dice_and_hd95_by_region_and_write_json(tmp_path, capsys):
    _, classes = case_arrays()
    reference = write_prediction(tmp_path, "Case_001_seg", classes)
    prediction = write_prediction(tmp_path, "Case_001", np.where(classes == 3, 1, classes).astype(np.uint8))
    assert main(["evaluate", str(prediction), str(reference), "--json", str(tmp_path / "a" / "r.json")]) == 0
    printed = capsys.readouterr().out
    assert "Dice TC" in printed
    assert "HD95 ET mm" in printed
    assert "373.13" in printed
    record = json.loads((tmp_path / "a" / "r.json").read_text())
    assert [row["region"] for row in record["cases"]] == ["TC", "WT", "ET"]
    assert [row["dice"] for row in record["cases"]] == [1.0, 1.0, 0.0]
    assert record["summary"][0]["low"] is None


def test_one_bad_case_never_stops_the_rest_and_the_unmatched_are_listed(tmp_path, capsys):
    _, classes = case_arrays()
    for name in ("Case_1", "Case_2", "Case_3", "Case_10"):
        write_prediction(tmp_path / "references", f"{name}_seg", classes)
    write_prediction(tmp_path / "out", "Case_1", classes)
    write_prediction(tmp_path / "out", "Case_2", classes, affine=np.eye(4))
    (tmp_path / "out" / "Case_3.nii.gz").write_bytes(b"\x1f\x8bnothing")
    write_prediction(tmp_path / "out", "Case_99", classes)
    arguments = ["evaluate", str(tmp_path / "out"), str(tmp_path / "references"), "--json", str(tmp_path / "r.json")]
    assert main(arguments) == 1
    record = json.loads((tmp_path / "r.json").read_text())
    assert {row["case"] for row in record["cases"]} == {"Case_1"}
    assert len(record["faults"]) == 2
    assert "case Case_2" in record["faults"][0]
    assert "affine" in record["faults"][0]
    assert record["references_without_prediction"] == ["Case_10"]
    assert record["predictions_without_reference"][0].endswith("Case_99.nii.gz")
    printed = capsys.readouterr().out
    assert "Not scored (2)" in printed
    assert "Case_10" in printed


def test_many_references_without_a_prediction_do_not_hide_the_scores(tmp_path, capsys):
    _, classes = case_arrays()
    for number in range(13):
        write_prediction(tmp_path / "references", f"Case_{number:03d}_seg", classes)
    write_prediction(tmp_path / "out", "Case_000", classes)
    arguments = ["evaluate", str(tmp_path / "out"), str(tmp_path / "references"), "--json", str(tmp_path / "r.json")]
    assert main(arguments) == 0
    assert len(json.loads((tmp_path / "r.json").read_text())["references_without_prediction"]) == 12
    printed = capsys.readouterr().out
    assert "References without a prediction, not counted in any mean (12):" in printed
    assert printed.endswith("\n  Case_010\n  and 2 more (--json lists all)\n")


def test_a_differing_grid_is_one_clear_sentence(tmp_path, capsys):
    _, classes = case_arrays()
    reference = write_prediction(tmp_path, "reference", classes)
    smaller = write_prediction(tmp_path, "smaller", classes[:-1])
    assert main(["evaluate", str(smaller), str(reference)]) == 1
    assert "resample it there with nearest neighbour" in capsys.readouterr().err
    moved = write_prediction(tmp_path, "moved", classes, affine=LPS + np.array([[0, 0, 0, 4.0]] + [[0] * 4] * 3))
    assert main(["evaluate", str(moved), str(reference)]) == 1
    assert "another affine" in capsys.readouterr().err
    assert main(["evaluate", str(moved), str(tmp_path)]) == 1
    assert "is a file and" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "absent.nii.gz"), str(reference)]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_numbers_are_told_from_values_only_where_they_say_it(tmp_path):
    _, classes = case_arrays()
    msd = write_prediction(tmp_path / "plain", "Case_001", classes, convention=MSD)
    in_msd_folder = write_prediction(tmp_path / "labelsTr", "Case_001", classes, convention=MSD)
    assert not np.array_equal(read_label_file(LabelFile(msd))[0], classes)  # read as BraTS 2023: nothing in the file tells
    assert np.array_equal(read_label_file(LabelFile(msd, "msd"))[0], classes)
    assert np.array_equal(read_label_file(LabelFile(in_msd_folder))[0], classes)
    with pytest.raises(DataError, match="brats2023"):
        read_label_file(LabelFile(msd, "brats2021"))
    reference = write_prediction(tmp_path, "reference", classes)
    assert (score_files(LabelFile(msd, "msd"), LabelFile(reference))["dice"] == 1).all()
    arguments = ["evaluate", str(msd), str(reference), "--prediction-labels", "msd", "--csv", str(tmp_path / "s.csv")]
    assert main(arguments) == 0
    assert (pd.read_csv(tmp_path / "s.csv")["dice"] == 1).all()


@pytest.mark.parametrize(("name", "numbers"), [("BraTS-PED-00001-000", "brats-peds"), ("BraTS-GLI-00001-101", "brats2024")])
def test_the_names_of_plain_files_say_whose_numbers_they_hold(tmp_path, name, numbers):
    _, classes = case_arrays()
    values = from_classes(np.where(classes == 3, 1, classes), CONVENTIONS[numbers])
    if numbers == "brats2024":
        values[2:6, 2:6, 2:6] = 4  # a resection cavity, which is background
    paths = [write_volume(tmp_path / folder / f"{name}-seg.nii.gz", values, LPS) for folder in ("found", "labels")]
    scores = score_files(*map(LabelFile, paths))
    assert scores.attrs["labels"] == (numbers, numbers) and scores["dice"].tolist() == [1, 1, 1]
    assert scores["reference_ml"].tolist()[2] == 0


def test_a_prediction_of_another_name_is_read_with_the_numbers_that_the_name_of_the_reference_says(tmp_path):
    _, classes = case_arrays()
    poor, numbers = classes.copy(), CONVENTIONS["brats-peds"]
    poor[:17] = 0  # so little of it that no Dice raises a doubt
    reference = write_prediction(tmp_path, "BraTS-PED-00001-000-seg", classes, convention=numbers)
    for name, found in (("good", classes), ("poor", poor)):
        prediction = write_prediction(tmp_path, name, found, convention=numbers)
        scores = score_files(LabelFile(prediction), LabelFile(reference))
        assert scores.attrs["labels"] == ("brats-peds", "brats-peds") and scores.attrs["doubt"] is None
        assert scores["dice"].tolist() == score_case(found, classes, (1, 1, 1))["dice"].tolist()


def test_foreign_values_are_explained_with_the_options_of_the_command(tmp_path, capsys):
    image, classes = case_arrays()
    reference = write_prediction(tmp_path, "reference", classes)
    volumes = {"other": classes, "five": np.where(classes == 3, 5, classes).astype(np.uint8), "image": image[0]}
    paths = {name: str(write_volume(tmp_path / f"{name}.nii.gz", volume, LPS)) for name, volume in volumes.items()}
    assert main(["evaluate", paths["other"], str(reference), "--prediction-labels", "brats2021"]) == 1
    assert "with --prediction-labels (brats2023, brats2024, " in capsys.readouterr().err
    assert main(["evaluate", str(reference), paths["other"], "--reference-labels", "brats2021"]) == 1
    assert "with --reference-labels (brats2023" in capsys.readouterr().err
    assert main(["evaluate", paths["five"], str(reference)]) == 1
    assert "no data set has all of them" in (said := capsys.readouterr().err) and "msd" not in said
    assert main(["evaluate", paths["image"], str(reference)]) == 1
    assert "different values and looks like an image" in capsys.readouterr().err


def test_a_false_component_is_a_false_component_and_no_cavity(tmp_path):
    _, classes = case_arrays()
    classes[classes == 3] = 1
    reference = write_prediction(tmp_path, "reference", classes)
    classes[2:7, 2:7, 2:7] = 3
    found = score_files(LabelFile(write_prediction(tmp_path, "prediction", classes)), LabelFile(reference))
    assert found.attrs["labels"] == ("brats2021", "brats2021") and found["dice"].tolist()[2] == 0


def test_numbers_that_fit_a_poor_prediction_by_chance_are_not_taken_for_its_own(tmp_path):
    _, classes = case_arrays()
    reference = write_prediction(tmp_path, "reference", classes)
    poor = np.choose(classes, [0, 2, 0, 1]).astype(np.uint8)  # half a core, whose parts BraTS-PEDs number so
    poor[classes.shape[0] // 2 :] = 0
    assert len(score_files(LabelFile(write_prediction(tmp_path, "prediction", poor)), LabelFile(reference))) == 3


def test_numbers_are_doubted_for_a_whole_folder_or_not_at_all(tmp_path, capsys):
    for seed in range(3):
        _, classes = case_arrays(seed=seed)
        write_prediction(tmp_path / "references", f"Case_{seed}", classes)
        write_prediction(tmp_path / "few", f"Case_{seed}", classes, convention=BRATS2021 if seed else MSD)
        write_prediction(tmp_path / "most", f"Case_{seed}", classes, convention=MSD if seed else BRATS2021)
    assert main(["evaluate", str(tmp_path / "few"), str(tmp_path / "references"), "--csv", str(tmp_path / "s.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "s.csv")) == 9
    assert "warning: " in (warned := capsys.readouterr().err) and "Case_0.nii.gz reaches a Dice of 1.000" in warned
    assert main(["evaluate", str(tmp_path / "most"), str(tmp_path / "references")]) == 1
    assert "--prediction-labels msd" in capsys.readouterr().err


def test_a_3_in_a_poor_prediction_is_no_sure_sign_of_brats_2023(tmp_path, capsys):
    """nnU-Net's 1 is oedema; the prediction is too poor for its Dice to tell."""
    _, classes = case_arrays()
    reference = write_prediction(tmp_path, "Case_1_seg", classes)
    poor = np.where(np.arange(classes.shape[2]) < classes.shape[2] - 6, 0, np.roll(classes, 5, axis=0)).astype(np.uint8)
    poor[:2, :2, 0], poor[3, 3, 0] = 1, 3
    prediction = write_prediction(tmp_path, "Case_1", poor, convention=MSD)
    words = ["evaluate", str(prediction), str(reference)]
    assert main(words) == 0
    assert "Case_1.nii.gz holds a 3, which is taken for BraTS 2023" in capsys.readouterr().err
    for labels in ("brats2023", "nnunet"):
        assert main([*words, "--prediction-labels", labels]) == 0
        assert "warning" not in capsys.readouterr().err
    plain = write_prediction(tmp_path, "Case_1_again", poor)
    assert main(["evaluate", str(plain), str(reference)]) == 0
    assert "warning" not in capsys.readouterr().err


def test_the_dataset_json_above_labelstr_says_whose_numbers_are_there(tmp_path):
    """nnU-Net names that folder as MSD does, and its label 4 may be a resection cavity."""
    case = write_case(tmp_path / "cohort", "BraTS-GLI-00001-100", "brats2023")
    values, affine = read_numbers(case)
    values[2:6, 2:6, 2:6] = 4
    write_volume(case.label, values, affine)
    dataset = tmp_path / "Dataset501_X"
    assert main(["convert", str(tmp_path / "cohort"), "--to", "nnunet", "--out", str(dataset)]) == 0
    write_volume(tmp_path / "out" / "BraTS-GLI-00001-100.nii.gz", values, affine)
    for reference in (dataset, dataset / "labelsTr"):
        assert main(["evaluate", str(tmp_path / "out"), str(reference), "--csv", str(tmp_path / "s.csv")]) == 0
        assert pd.read_csv(tmp_path / "s.csv")["dice"].tolist() == [1, 1, 1]


def test_the_dataset_json_of_nnunet_counts_for_its_test_part_and_its_predictions(tmp_path):
    """nnU-Net's 1 is oedema: in the numbers of BraTS, oedema called core would be an error of the whole tumour alone."""
    case = write_case(tmp_path / "set", "Case-001", "nnunet")
    write_case(tmp_path / "cohort", "Case-001")
    classes, affine = read_classes(case)
    reference = shutil.copytree(tmp_path / "set" / "labelsTr", tmp_path / "set" / "labelsTs")
    wrong = np.where((classes == 1) & (np.arange(classes.shape[2]) % 2 == 0), 2, classes).astype(np.uint8)
    out = write_prediction(tmp_path / "out", "Case-001", wrong, affine=affine, convention=CONVENTIONS["nnunet"]).parent
    expected = score_case(wrong, classes, spacing_of(affine))["dice"].tolist()
    for truth in (reference, reference.with_name("labelsTr"), tmp_path / "cohort"):
        if truth.name == "cohort":
            shutil.copy(tmp_path / "set" / "dataset.json", out)
        assert main(["evaluate", str(out), str(truth), "--csv", str(tmp_path / "s.csv")]) == 0
        assert pd.read_csv(tmp_path / "s.csv")["dice"].tolist() == pytest.approx(expected)


def test_an_nnunet_dataset_with_labels_that_nobody_knows_is_not_guessed(tmp_path, capsys):
    case = write_case(tmp_path / "from", "Case-001", "nnunet")
    facts = json.loads((tmp_path / "from" / "dataset.json").read_text())
    plain = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
    (tmp_path / "from" / "dataset.json").write_text(json.dumps({**facts, "labels": plain}))
    out = write_volume(tmp_path / "out" / "Case-001.nii.gz", *read_numbers(case)).parent
    for reference in (tmp_path / "from", tmp_path / "from" / "labelsTr"):
        assert main(["evaluate", str(out), str(reference)]) == 1
        assert "--reference-labels" in capsys.readouterr()[1 if reference.name == "from" else 0]
        words = ["--reference-labels", "brats2023", "--csv", str(tmp_path / "s.csv")]
        assert main(["evaluate", str(out), str(reference), *words]) == 0
        assert pd.read_csv(tmp_path / "s.csv")["dice"].tolist() == [1, 1, 1]


def test_sessions_of_a_bids_subject_are_one_patient_in_the_mean(tmp_path, capsys):
    write_case(tmp_path / "bids", "Case-001", "bids")
    for name in ("sub-Case001", "derivatives/raters/sub-Case001"):
        shutil.copytree(tmp_path / "bids" / name / "ses-1", tmp_path / "bids" / name / "ses-postop")
        for path in (tmp_path / "bids" / name / "ses-postop").rglob("*ses-1*"):
            path.rename(path.with_name(path.name.replace("ses-1", "ses-postop")))
    assert {case.patient for case in discover(tmp_path / "bids")} == {"Case-001"}
    for case in discover(tmp_path / "bids"):
        write_prediction(tmp_path / "out", case.identifier, read_classes(case)[0])
    assert main(["evaluate", str(tmp_path / "out"), str(tmp_path / "bids")]) == 0
    assert "Over 2 cases of 1 patient," in capsys.readouterr().out


def test_a_table_says_whose_sessions_the_cases_are(tmp_path, capsys):
    _, classes = case_arrays()
    for name in "abcd":
        write_prediction(tmp_path / "references", name, classes)
        write_prediction(tmp_path / "out", name, classes)
    words = ["evaluate", str(tmp_path / "out"), str(tmp_path / "references"), "--csv", str(tmp_path / "s.csv")]
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\na,P1\nb,P1\nc,P1\nd,P2\n")
    assert main([*words, "--patients", str(table)]) == 0
    assert "Over 4 cases of 2 patients," in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "s.csv").groupby("case")["patient"].first().tolist() == ["P1", "P1", "P1", "P2"]
    table.write_text("case,patient\na,P1\n")
    assert main([*words, "--patients", str(table)]) == 1
    assert "names no patient for 3 cases such as b" in capsys.readouterr().err


def test_names_match_as_whole_words_and_doubles_are_a_fault(tmp_path):
    identifiers = ["BraTS-GLI-00005", "BraTS-GLI-00005-001", "Case_1", "Case_10"]
    assert match_identifier("BraTS-GLI-00005-001-pred", identifiers) == "BraTS-GLI-00005-001"
    assert match_identifier("Case_10_seg", identifiers) == "Case_10"
    assert match_identifier("Case_100", identifiers) is None
    _, classes = case_arrays()
    write_prediction(tmp_path / "references", "Case_1", classes)
    write_prediction(tmp_path / "out", "Case_1", classes)
    write_prediction(tmp_path / "out", "fold1_Case_1", classes)
    pairing = pair_label_maps(*(list_label_maps(tmp_path / name, "auto", "auto") for name in ("out", "references")))
    assert not pairing.pairs
    assert "both named for it" in pairing.faults[0]


def test_a_large_folder_is_paired_without_a_search_for_every_pair_of_names(monkeypatch):
    searched, search = [], re.search
    monkeypatch.setattr(re, "search", lambda pattern, name: searched.append(name) or search(pattern, name))
    identifiers = [f"Case_{number:03}" for number in range(30)]
    assert [match_identifier(name, identifiers) for name in identifiers] == identifiers == searched


def test_a_folder_without_label_maps_says_so(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["evaluate", str(tmp_path / "empty"), str(tmp_path / "empty")]) == 1
    assert "no label map" in capsys.readouterr().err


@pytest.mark.skipif(not REAL_CASES.is_dir(), reason=f"no real cases in {REAL_CASES}")
def test_real_references_against_themselves_are_perfect(tmp_path, capsys):
    cohort = str(REAL_CASES / "brats2021")
    assert main(["evaluate", cohort, cohort, "--csv", str(tmp_path / "scores.csv")]) == 0
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert len(scores) == 18
    assert (scores["dice"] == 1).all()
    assert (scores["hd95"] == 0).all()
    assert "BraTS2021_01480" in capsys.readouterr().out
