"""Weights & Biases and MLflow take the curves of a training on this machine alone: no key, no account, no network."""

import sqlite3

import pytest

from helpers.training.settings import TrainSettings
from helpers.training.train import train
from tests.slow.trainings import prepared_cases

SMALL = {"arguments": {"channels": (4, 8)}, "patch": (16, 16, 16), "steps": 2, "validate_every": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb_own"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return prepared_cases(tmp_path_factory.mktemp("cases"), 2)


def test_mlflow_writes_to_a_file_of_its_own(paths, tmp_path):
    result = train(TrainSettings(**SMALL, logger="mlflow"), paths[:1], paths[1:], out=tmp_path / "out")
    with sqlite3.connect(tmp_path / "out" / "mlflow.db") as store:
        found = store.execute("select step, value from metrics where key = 'train_loss' order by step").fetchall()
        settings = dict(store.execute("select key, value from params").fetchall())
    assert found == [(step, pytest.approx(loss)) for step, loss in result.history[["step", "train_loss"]].to_numpy()]
    assert settings["steps"] == "2" and settings["network"] == "unet"


def test_weights_and_biases_stays_offline_without_a_key(paths, tmp_path):
    train(TrainSettings(**SMALL, logger="wandb"), paths[:1], paths[1:], out=tmp_path / "out")
    (run,) = (tmp_path / "out" / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
