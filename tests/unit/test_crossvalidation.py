"""Cross-validation: nobody is scored by a model that knew them, finished folds are kept, the ensemble is scored."""

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from brats_cohort.files import DataError
from brats_cohort.nifti import read_label_values, write_volume
from brats_cohort.regions import BRATS2021, from_classes
from brats_cohort.splits import SplitManifest, load_splits
from brats_cohort.testing import LPS, case_arrays, write_case
from helpers.cli import main
from helpers.cli.crossvalidate import (
    ENHANCING_ML,
    TUMOUR_ML,
    check_folds,
    choose_postprocessing,
    predict_out_of_fold,
    report_folds,
    train_folds,
)
from helpers.data.preprocess import PreprocessSettings, prepare_cohort
from helpers.evaluation.postprocess import PostProcessing
from helpers.evaluation.predict import predict_prepared
from helpers.models.checkpoints import (
    ModelCard,
    load_card,
    load_checkpoint,
    load_ensemble,
    save_checkpoint,
)
from helpers.models.networks import Ensemble, build_network
from helpers.training.settings import TrainSettings

NAMES = tuple(f"Case_{number:03d}" for number in range(5))
MANIFEST = SplitManifest("brats2021", 0, NAMES[4:], (NAMES[:2], NAMES[2:4]), {name: f"patient of {name}" for name in NAMES})
SETTINGS = TrainSettings(
    arguments={"channels": [4, 8]}, patch=(16, 16, 16), steps=2, validate_every=2, device="cpu", minimum_enhancing_ml=0.0
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    cases = {name: write_case(folder, name, seed=seed) for seed, name in enumerate(NAMES)}
    outside = [cases[name] for name in NAMES[:4]]
    return cases, prepare_cohort(outside, folder / "prepared", PreprocessSettings(spacing=2.0), progress=False).paths


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    return out, train_folds(SETTINGS, MANIFEST, cohort[1], out=out, folds=(0, 1))


def test_every_case_is_predicted_by_the_model_that_did_not_train_on_it(cohort, trained, tmp_path):
    cases, checkpoints = cohort[0], trained[1]
    cards = check_folds(checkpoints, MANIFEST)
    assert [card.training_cases for card in cards] == [NAMES[2:4], NAMES[:2]]
    result = predict_out_of_fold(checkpoints, MANIFEST, cases, folder=tmp_path, device="cpu")
    used = result.scores.drop_duplicates("case").set_index("case")["checkpoint"]
    assert sorted(used.index) == list(NAMES[:4])
    assert [used[name] for name in NAMES[:4]] == [cards[fold].weights_sha256 for fold in (0, 0, 1, 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.nii.gz" for name in NAMES[:4]]


def test_models_that_know_what_they_are_to_be_scored_on_are_refused(trained, tmp_path):
    _, checkpoints = trained
    with pytest.raises(DataError, match="was trained on case Case_000"):
        check_folds(checkpoints[::-1], MANIFEST)
    with pytest.raises(DataError, match="2 folds, but 1"):
        check_folds(checkpoints[:1], MANIFEST)
    with pytest.raises(DataError, match="another split"):
        check_folds(checkpoints, replace(MANIFEST, seed=1))
    network, card = load_checkpoint(checkpoints[0])
    for known, words in (((), "does not say"), (("Case_003", "Case_004"), "trained on case Case_004")):
        save_checkpoint(tmp_path / "best.safetensors", network, replace(card, training_cases=known))
        with pytest.raises(DataError, match=words):
            check_folds([tmp_path / "best.safetensors", checkpoints[1]], MANIFEST)


def test_another_session_of_a_training_patient_is_refused_too(trained, tmp_path):
    manifest = replace(MANIFEST, patients={**MANIFEST.patients, "Case_000": "patient of Case_002"})
    paths = []
    for fold, path in enumerate(trained[1]):
        network, card = load_checkpoint(path)
        paths.append(tmp_path / f"{fold}.safetensors")
        save_checkpoint(paths[-1], network, replace(card, split_hash=manifest.sha256))
    with pytest.raises(DataError, match="was trained on case Case_000"):
        check_folds(paths, manifest)


def test_finished_folds_are_kept_and_lost_weights_come_back(cohort, trained, capsys):
    out, checkpoints = trained
    weights = [path.read_bytes() for path in checkpoints]
    checkpoints[1].unlink()
    assert train_folds(SETTINGS, MANIFEST, cohort[1], out=out, folds=(0, 1)) == checkpoints
    assert [path.read_bytes() for path in checkpoints] == weights
    assert "step " not in capsys.readouterr().out, "no step may be made again"
    with pytest.raises(DataError, match="steps 2 there, 3 here"):
        train_folds(replace(SETTINGS, steps=3, validate_every=3), MANIFEST, cohort[1], out=out, folds=[1])


def test_an_ensemble_is_the_mean_of_its_members_probabilities(trained):
    _, checkpoints = trained
    image = np.random.default_rng(0).normal(size=(4, 16, 18, 16)).astype(np.float32)
    members = [predict_prepared(*load_checkpoint(path), image) for path in checkpoints]
    network, card = load_ensemble(checkpoints)
    np.testing.assert_allclose(predict_prepared(network, card, image), np.mean(members, axis=0), atol=1e-5)
    flipped = [predict_prepared(*load_checkpoint(path), image, tta=True) for path in checkpoints]
    np.testing.assert_allclose(predict_prepared(network, card, image, tta=True), np.mean(flipped, axis=0), atol=1e-5)
    assert card.training_cases == NAMES[:4]
    assert card.weights_sha256 == load_ensemble(checkpoints[::-1])[1].weights_sha256
    assert card.weights_sha256 not in {load_card(path).weights_sha256 for path in checkpoints}
    assert load_ensemble(checkpoints[:1])[1] == load_card(checkpoints[0])


def test_a_card_of_an_earlier_version_is_read_unless_it_has_weights_in_an_ensemble(trained, tmp_path):
    network, card = load_checkpoint(trained[1][0])
    save_checkpoint(tmp_path / "best.safetensors", network, card)
    content = json.loads((tmp_path / "best.json").read_text())
    (tmp_path / "best.json").write_text(json.dumps(content | {"ensemble_weights": []}))
    assert load_card(tmp_path / "best.safetensors") == card
    (tmp_path / "best.json").write_text(json.dumps(content | {"ensemble_weights": [1.0, 3.0, 2.0]}))
    with pytest.raises(DataError, match="it has weights in an ensemble"):
        load_card(tmp_path / "best.safetensors")
    with pytest.raises(DataError, match="more than networks and their arguments"):
        build_network("ensemble", members=[{"network": "unet", "arguments": {}, "ensemble_weights": [1.0, 1.0, 0.0]}])


def test_members_that_do_not_belong_together_are_refused(trained, tmp_path):
    _, checkpoints = trained
    network = build_network("unet", channels=(4, 6))
    card = ModelCard("unet", {"channels": [4, 6]}, asdict(PreprocessSettings()), (16, 16, 16))
    save_checkpoint(tmp_path / "other.safetensors", network, card)
    with pytest.raises(DataError, match=r"differs from .* in preprocessing"):
        load_ensemble([checkpoints[0], tmp_path / "other.safetensors"])
    with pytest.raises(DataError, match="same weights twice"):
        load_ensemble([checkpoints[0], checkpoints[0]])
    with pytest.raises(DataError, match="at least one"):
        load_ensemble([])


def test_the_command_that_does_the_same_can_be_copied(cohort, trained, tmp_path, capsys):
    folder = tmp_path / "my scans"
    report_folds(trained[1], MANIFEST, cohort[0], folder=folder, device="cpu", test=False)
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[2:4] == ["--checkpoint", f"{folder}/ensemble/*.safetensors"]


def test_folds_with_the_same_weights_are_named(cohort, trained, tmp_path):
    _, checkpoints = trained
    options = {"folder": tmp_path, "device": "cpu", "test": False}
    with pytest.raises(DataError, match="folds 0 and 1 ended with the same weights, so"):
        report_folds([checkpoints[0]] * 2, MANIFEST, cohort[0], **options)


@pytest.mark.parametrize("axes", [(), (0,)])
def test_the_tables_say_whether_images_were_mirrored(cohort, trained, tmp_path, capsys, axes):
    paths = [tmp_path / f"{fold}.safetensors" for fold in range(2)]
    for path, source in zip(paths, trained[1], strict=True):
        network, card = load_checkpoint(source)
        save_checkpoint(path, network, replace(card, tta_axes=axes))
    report_folds(paths, MANIFEST, cohort[0], folder=tmp_path, device="cpu", test=True)
    said = capsys.readouterr().out
    assert ("no TTA, before" in said, "with no TTA" in said) == ((True, True) if not axes else (False, False))


def test_saturated_members_stay_finite():
    network = build_network("unet", channels=(4, 8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1e3)
        logits = Ensemble([network, network])(torch.ones(1, 4, 16, 16, 16))
    assert torch.isfinite(logits).all()


def test_the_clean_up_that_helps_on_validation_data_is_chosen_and_the_smaller_one_where_equal(tmp_path):
    image, classes = case_arrays()
    case = write_case(tmp_path / "cohort", image=image, classes=classes)
    specks = classes.copy()
    specks[1:4, 1:4, 1:4] = 2  # 27 voxels of 1 mm far from the tumour
    path = write_volume(tmp_path / "specks.nii.gz", from_classes(specks, BRATS2021), LPS)
    chosen, table = choose_postprocessing({"Case_001": path}, {"Case_001": case})
    assert chosen == PostProcessing(tumour_ml=0.1, enhancing_ml=0.0)
    assert len(table) == len(TUMOUR_ML) * len(ENHANCING_ML)
    assert table.set_index(["tumour_ml", "enhancing_ml"]).loc[(0.1, 0.0), "dice"] == pytest.approx(1.0)


def test_a_patient_with_many_sessions_has_one_vote_on_the_post_processing(tmp_path):
    image, classes = case_arrays()
    trace = np.where(classes == 3, 2, classes).astype(np.uint8)
    trace[12:16, 12:16, 8:12] = 3  # 64 voxels of enhancement
    without = np.where(trace == 3, 1, trace).astype(np.uint8)
    cases, files = {}, {}
    for number, truth in enumerate((trace, without, without)):  # two sessions of one patient do not enhance
        name = f"Case_{number:03}"
        case = write_case(tmp_path / name, name, image=image, classes=truth)
        cases[name] = replace(case, patient="first" if number == 0 else "second")
        files[name] = write_volume(tmp_path / f"{name}.nii.gz", from_classes(trace, BRATS2021), LPS)
    chosen, table = choose_postprocessing(files, cases)
    dice = table.set_index(["tumour_ml", "enhancing_ml"])["dice"]
    assert dice[0.0, 0.0] == pytest.approx(dice[0.0, 0.1], abs=1e-9), "one patient for, one against"
    assert chosen.enhancing_ml == 0.0


def test_a_training_with_other_settings_is_refused_without_an_option_that_is_not_there(cohort, trained):
    with pytest.raises(DataError, match=r"of another training \(.*or start afresh \(train --resume never\)$"):
        train_folds(replace(SETTINGS, batch=4), MANIFEST, cohort[1], out=trained[0], folds=(0,))


def test_the_command_from_files_to_the_score_of_the_ensemble(tmp_path, capsys):
    for seed in range(4):
        write_case(tmp_path / "cohort", f"Case_{seed:03d}", seed=seed)
    words = ["crossvalidate", "--cohort", str(tmp_path / "cohort"), "--out", str(tmp_path / "out"), "--patch", "16"]
    words += ["--arguments", json.dumps({"channels": [4, 8]}), "--steps", "2", "--validate-every", "2", "--device", "cpu"]
    assert main([*words, "--only", "0"]) == 0
    assert main(words) == 0
    assert "Test part, 1 cases, the ensemble" in capsys.readouterr().out
    out = tmp_path / "out" / "crossvalidation" / "unet"
    manifest, tested = load_splits(tmp_path / "out" / "splits.json"), pd.read_csv(out / "test.csv")
    assert set(tested["case"]) == set(manifest.test)
    scored = pd.read_csv(out / "out_of_fold.csv")
    assert set(scored["case"]) == {name for fold in manifest.folds for name in fold}
    assert set(json.loads((out / "postprocessing.json").read_text())) >= {"tumour_ml", "enhancing_ml"}
    case, members = manifest.test[0], [str(path) for path in sorted((out / "ensemble").glob("*.safetensors"))]
    assert tested["checkpoint"].unique().tolist() == [load_ensemble([*map(Path, members)])[1].weights_sha256]
    folder, again = tmp_path / "cohort" / case, tmp_path / "again.nii.gz"
    assert main(["predict", str(folder), "--tta", "--device", "cpu", "--out", str(again), "--checkpoint", *members]) == 0
    assert np.array_equal(read_label_values(again)[0], read_label_values(out / "test" / f"{case}.nii.gz")[0])


def test_a_faulty_case_of_the_test_part_is_named_before_anything_is_trained(tmp_path, capsys):
    cases = {f"Case_{seed:03d}": write_case(tmp_path / "cohort", f"Case_{seed:03d}", seed=seed) for seed in range(4)}
    words = ["--cohort", str(tmp_path / "cohort"), "--out", str(tmp_path / "out"), "--patch", "16", "--device", "cpu"]
    words += ["--arguments", json.dumps({"channels": [4, 8]}), "--steps", "2", "--validate-every", "2"]
    assert main(["train", *words]) == 0
    name = load_splits(tmp_path / "out" / "splits.json").test[0]
    cases[name].images["t2"].path.write_bytes(b"broken")
    assert main(["crossvalidate", *words]) == 1
    assert f"case {name} of the test part is faulty; mend it" in capsys.readouterr().err
    assert not (tmp_path / "out" / "crossvalidation").exists()
