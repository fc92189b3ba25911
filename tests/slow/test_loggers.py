"""Weights & Biases and MLflow take the curves of a training on this machine alone: no key, no account, no network."""

import json
import sqlite3

import pytest

from helpers.training.before.loggers import close_loggers, make_loggers

ROWS = [{"train_loss": 0.5, "learning_rate": 0.1}, {"train_loss": 0.25, "learning_rate": 0.05}]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb_own"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")


def log(name, out):
    loggers = make_loggers(name, out, settings={"steps": 2, "network": "unet"})
    for step, row in enumerate(ROWS, 1):
        for logger in loggers:
            logger.log_metrics(row, step)
    close_loggers(loggers, "success")


def test_mlflow_writes_to_a_file_of_its_own(tmp_path):
    log("mlflow", tmp_path / "out")
    with sqlite3.connect(tmp_path / "out" / "mlflow.db") as store:
        found = store.execute("select step, value from metrics where key = 'train_loss' order by step").fetchall()
        settings = dict(store.execute("select key, value from params").fetchall())
    assert found == [(1, 0.5), (2, 0.25)]
    assert settings == {"steps": "2", "network": "unet"}


def test_weights_and_biases_stays_offline_without_a_key(tmp_path):
    log("wandb", tmp_path / "out")
    (run,) = (tmp_path / "out" / "wandb").glob("offline-run-*")
    kept = run / "files" / "wandb-summary.json"
    assert list(run.glob("*.wandb"))
    assert not kept.exists() or json.loads(kept.read_text())["train_loss"] == 0.25
