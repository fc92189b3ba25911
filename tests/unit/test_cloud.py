"""What goes to the cloud, what is shown of it, and how a job's options come to the training."""

import argparse
import json
import re
import tarfile

import pytest

from helpers.cli.train import add_arguments, settings_of
from helpers.cloud.account import mask, open_account
from helpers.cloud.entry import train_words
from helpers.cloud.jobs import METRICS, pack_model
from helpers.cloud.source import (
    closure,
    pinned_requirements,
    source_files,
    stage_source,
)
from helpers.workspace import DataError


def test_only_python_and_json_of_the_package_leave_the_machine(tmp_path):
    repository = tmp_path / "repository"
    kept = ("helpers/a.py", "helpers/data/b.json")
    package = "packages/glioma-phantom/src/glioma_phantom/a.py"
    secret = (
        ".env",
        "helpers/.env",
        "helpers/.secrets/c.py",
        "helpers/case_t1.nii.gz",
        "helpers/key.pem",
        "helpers/__pycache__/a.py",
        "notebooks/01.ipynb",
        "helpers/01.ipynb",
        "data/case.json",
        "outputs/metrics.json",
        "tests/test_a.py",
        "packages/glioma-phantom/tests/test_b.py",
    )
    for name in (*kept, package, *secret):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("x")
    (repository / "requirements.lock").write_text("numpy==2.4.6\n")
    staged = stage_source(tmp_path / "staged", repository=repository)
    found = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}
    assert found == {*kept, "glioma_phantom/a.py", "train.py", "requirements.txt"}


def test_the_staged_package_has_what_a_job_runs():
    names = {path.as_posix() for path in source_files()}
    assert {
        "helpers/cli/__init__.py",
        "helpers/cloud/entry.py",
        "helpers/data/preprocess.py",
        "helpers/training/before/train.py",
    } <= names
    assert {"glioma_phantom/generator.py", "slice_viewer/slices.py"} <= names
    assert not [name for name in names if "rehearsal" in name or not name.endswith((".py", ".json"))]


def test_requirements_are_pinned_with_all_that_they_need_and_leave_torch_to_the_image(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("nibabel==5.4.2\nnumpy==2.4.6\ntorch==2.13.0\n")
    lines = pinned_requirements(lock, ["nibabel"]).splitlines()
    assert {"nibabel==5.4.2", "numpy==2.4.6"} <= set(lines) and all("==" in line for line in lines)
    assert "torch" not in closure(["monai"]) and "numpy" in closure(["monai"])
    with pytest.raises(DataError, match="does not exist"):
        pinned_requirements(tmp_path / "none.lock")


def options(words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return settings_of(parser.parse_args(["--cohort", "c", "--out", "o", *words]))


def test_hyperparameters_become_options_of_the_training():
    words = ["--steps", "7", "--width", "8", "--dropout", "0.1", "--arguments", '{"num_res_units": 1}']
    words += ["--_tuning_objective_metric", "validation:dice", "--sagemaker_program", "train.py"]
    settings = options(train_words(words))
    assert settings.steps == 7
    assert settings.arguments == {"channels": [8, 16, 32, 64], "dropout": 0.1, "num_res_units": 1}
    assert train_words(["--learning-rate", "1e-3"]) == ["--learning-rate", "1e-3"]
    for wrong in (["--steps"], ["steps", "7"]):
        with pytest.raises(DataError, match="--name value"):
            train_words(wrong)


def test_nothing_that_identifies_an_account_is_shown():
    shown = mask(
        "arn:aws:iam::123456789012:role/x by someone@clinic.example with " + "AKIA" + "ABCDEFGHIJKLMNOP, 20261121065440 of 0.25"
    )
    assert shown == "arn:aws:iam::...:role/x by ... with ..., 20261121065440 of 0.25"


def test_the_choice_of_the_place_is_checked():
    with pytest.raises(DataError, match="yes, no"):
        open_account("maybe")
    with pytest.raises(DataError, match="ROLE"):
        open_account("no")


def test_metrics_are_found_in_what_the_training_says():
    line = "step    80 of 400     12 s  train loss 0.812  validation Dice TC 0.300  WT 0.600  ET 0.100  mean 0.333  best so far"
    assert {name: re.search(regex, line)[1] for name, regex in METRICS.items()} == {
        "train:loss": "0.812",
        "validation:dice": "0.333",
    }


def test_a_packed_model_has_weights_and_card_under_their_usual_names(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"w")
    (tmp_path / "other.json").write_text(json.dumps({}))
    with tarfile.open(pack_model(tmp_path / "other.safetensors", tmp_path / "out/model.tar.gz")) as archive:
        assert archive.getnames() == ["best.safetensors", "best.json"]
