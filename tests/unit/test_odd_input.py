"""Odd input through preparation and the commands: it is read right, or refused with a sentence, and never silently wrong."""

import json
import os
import shutil

import numpy as np
import pytest

from brats_cohort import check_case, check_session, discover
from brats_cohort.nifti import write_volume
from brats_cohort.testing import LPS, case_arrays, write_case
from helpers.cli import main
from helpers.data.prepared import PreprocessSettings, is_intact
from helpers.data.preprocess import prepare_cohort, preprocess_case, preprocess_image
from tests.requests import save_model

IMAGE, CLASSES = case_arrays((40, 44, 36))
BRAIN = (IMAGE != 0).any(0)


def problems(check):
    return " | ".join(fault.problem for fault in check.faults)


@pytest.mark.parametrize("background", [-1.0, 0.0219, 200.0, np.nan])
def test_a_constant_background_is_taken_out_and_the_brain_is_prepared_as_ever(tmp_path, background):
    plain = write_case(tmp_path / "plain", image=IMAGE, classes=CLASSES)
    image = IMAGE.astype(np.float32) / 300
    image[[0, 2, 3]] = np.where(BRAIN, image[[0, 2, 3]] + (0 if np.isnan(background) else background), background)
    odd = write_case(tmp_path / "odd", image=image, classes=CLASSES)
    check = check_case(odd)
    assert "the background is not 0 (T1" in problems(check) and "T1ce" not in problems(check)
    assert check.usable
    assert check.facts.brain_ml == pytest.approx(check_case(plain).facts.brain_ml)
    wanted, found = preprocess_case(plain), preprocess_case(odd)
    assert found.image.shape == wanted.image.shape
    np.testing.assert_allclose(found.image.astype(float), wanted.image.astype(float), atol=0.01)


def test_images_that_were_normalised_within_the_brain_are_recognised_and_prepared_as_ever():
    scanned = np.where(BRAIN, IMAGE - IMAGE[:, BRAIN].min(1)[:, None, None, None] + 1, 0)  # from near 0, as in a scan
    normalised = np.zeros(IMAGE.shape, np.float32)
    for number, volume in enumerate(scanned):
        normalised[number, BRAIN] = (volume[BRAIN] - volume[BRAIN].mean()) / volume[BRAIN].std()
    session = check_session(normalised, LPS)
    assert "on T1, T1ce, T2, FLAIR, many values in the brain are below 0, as after normalisation" in session.warnings[0]
    assert np.array_equal(session.image[2] != 0, BRAIN)
    settings = PreprocessSettings(correct_bias=True)
    wanted = preprocess_image(scanned, LPS, settings).image
    np.testing.assert_allclose(preprocess_image(session.image, LPS, settings).image, wanted, atol=0.05)


@pytest.mark.skipif(os.name != "posix", reason="names of bytes are of POSIX")
def test_names_that_are_not_utf8_are_worked_on_and_printed(tmp_path, capsys):
    case = write_case(tmp_path / "cohort", image=IMAGE, classes=CLASSES)
    odd = os.fsdecode(b"P\xe4tient")
    for path in case.files:
        path.rename(path.with_name(path.name.replace("Case_001", odd)))
    assert main(["check", str(tmp_path / "cohort"), "--workers", "1", "--csv", str(tmp_path / "t.csv")]) == 0
    result = prepare_cohort(discover(tmp_path / "cohort"), tmp_path / "out", progress=False)
    assert not result.faults and len(result.paths) == 1


def test_a_map_in_numbers_that_nobody_named_is_not_scored_wrongly(tmp_path, capsys):
    case = write_case(tmp_path / "cohort", image=IMAGE, classes=CLASSES)
    prediction = write_volume(tmp_path / "p.nii.gz", np.choose(CLASSES, [0, 2, 1, 3]).astype(np.uint8), LPS)
    assert main(["evaluate", str(prediction), str(case.label)]) == 1
    assert "--prediction-labels msd or brats2023" in capsys.readouterr().err
    assert main(["evaluate", str(prediction), str(case.label), "--prediction-labels", "nnunet"]) == 0
    out = capsys.readouterr().out
    assert "1.0000" in out and "Predictions are read with the numbers of nnU-Net: 1 oedema" in out
    write_volume(prediction, (CLASSES > 0).astype(np.uint8), LPS)
    assert main(["evaluate", str(prediction), str(case.label)]) == 1
    assert "holds one number only, 1, as a plain tumour mask does; predict TC, WT and ET" in capsys.readouterr().err


def test_a_model_is_not_exported_onto_itself_and_its_card_is_read_before_the_work(tmp_path, capsys):
    weights = save_model(tmp_path) / "best.safetensors"
    card = weights.with_suffix(".json")
    before = weights.read_bytes(), card.read_bytes()
    for target in (weights, card):
        assert main(["export", "--checkpoint", str(weights), "--format", "onnx", "--out", str(target)]) == 1
        assert "is one of the files that are read" in capsys.readouterr().err
    assert (weights.read_bytes(), card.read_bytes()) == before
    card.write_text(json.dumps({**json.loads(card.read_text()), "postprocessing": {"size": 1}}))
    case = write_case(tmp_path / "cohort", image=IMAGE, classes=CLASSES)
    assert main(["predict", str(case.label.parent), "--checkpoint", str(weights), "--out", str(tmp_path / "o.nii.gz")]) == 1
    assert "the model card has a post-processing that is not known here" in capsys.readouterr().err


def test_predictions_called_alike_in_folders_of_their_cases_are_paired(tmp_path, capsys):
    for number in range(2):
        case = write_case(tmp_path / "cohort", f"Case_{number}", seed=number)
        (tmp_path / "out" / case.identifier).mkdir(parents=True)
        shutil.copy(case.label, tmp_path / "out" / case.identifier / "pred.nii.gz")
    assert main(["evaluate", str(tmp_path / "out"), str(tmp_path / "cohort")]) == 0
    assert "Over 2 cases" in capsys.readouterr().out


def test_arguments_that_no_network_takes_are_one_sentence(tmp_path, capsys):
    words = ["train", "--cohort", str(tmp_path), "--out", str(tmp_path)]
    for more, sentence in ((["--arguments", '{"channels": 3}'], "change the arguments"), (["--steps", "0"], "steps is 0; ")):
        with pytest.raises(SystemExit):
            main([*words, *more])
        assert sentence in capsys.readouterr().err


def test_no_command_writes_onto_what_it_reads_or_under_an_image_s_name(tmp_path, capsys):
    case = write_case(tmp_path / "cohort", image=IMAGE, classes=CLASSES)
    before = {path: path.read_bytes() for path in case.files}
    t1, label = case.images["t1"].path, case.label
    files = [word for modality, source in case.images.items() for word in (f"--{modality}", str(source.path))]
    table, cohort, new = tmp_path / "patients.csv", tmp_path / "cohort", tmp_path / "new.csv"
    table.write_text("case,patient\nCase_001,Ann\n")
    for words, sentence in (
        (["predict", *files, "--out", str(t1)], "one of the files that are read"),
        (["predict", *files, "--out", str(tmp_path / "new_flair.nii.gz")], "has the name of a flair image"),
        (["predict", *files, "--out", str(tmp_path / "new.mha")], "a new folder with a dot in its name has to be made first"),
        (["evaluate", str(label), str(label), "--json", str(label)], "one of the files that are read"),
        (["evaluate", str(cohort), str(cohort), "--csv", str(label)], "one of the files that are read"),
        (["evaluate", str(label), str(label), "--csv", str(new), "--json", str(new)], "would hold two tables"),
        (["check", str(tmp_path), "--patients", str(table), "--csv", str(table)], "one of the files that are read"),
        (["check", str(tmp_path), "--csv", str(label)], "one of the files that are read"),
        (["check", str(tmp_path), "--csv", str(tmp_path)], "is a folder; give the name of a file"),
    ):
        assert main(words) == 1
        assert sentence in capsys.readouterr().err
    assert {path: path.read_bytes() for path in case.files} == before
    assert table.read_text().endswith("Ann\n")


@pytest.mark.parametrize(
    "words",
    ["check X", "check . --patients X", "check . --csv X", "predict . --out X", "serve --model-dir X", "phantom --out X"],
)
def test_an_empty_path_is_not_the_current_folder(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["" if word == "X" else word for word in words.split()]) == 1
    assert capsys.readouterr().err.endswith(": a path is empty; give it, or leave the option out; a variable may not be set\n")
    assert not any(tmp_path.iterdir())


def test_a_prepared_file_that_is_empty_or_damaged_is_made_again(tmp_path):
    write_case(tmp_path / "cohort", image=IMAGE, classes=CLASSES)
    cases = discover(tmp_path / "cohort")
    path = prepare_cohort(cases, tmp_path / "out", progress=False).paths["Case_001"]
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (b"", whole[:-10], bytes(flipped)):
        path.write_bytes(damaged)
        assert not is_intact(path)
        assert prepare_cohort(cases, tmp_path / "out", progress=False).made == ("Case_001",)
        assert is_intact(path)


def test_any_exception_of_a_case_becomes_its_fault_line(tmp_path, monkeypatch):
    cases = [write_case(tmp_path, f"Case_{number}", seed=number) for number in range(3)]
    real = preprocess_case

    def fail(case, settings):
        if case.identifier == "Case_1":
            raise MemoryError
        return real(case, settings)

    monkeypatch.setattr("helpers.data.preprocess.preprocess_case", fail)
    result = prepare_cohort(cases, tmp_path / "out", progress=False)
    assert list(result.paths) == ["Case_0", "Case_2"]
    remedy = "work on fewer cases at a time (workers), or on a device with more memory"
    assert result.faults == {"Case_1": f"Case_1: there is not enough memory for it; {remedy}"}
