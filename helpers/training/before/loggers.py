"""Curves for other programs: TensorBoard always, Weights & Biases or MLflow when chosen. None of them needs a key.

The table of a training, ``history.csv``, is written by `helpers.training.before.recorder.Recorder`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from helpers.workspace import DataError

LOGGERS: tuple[str, ...] = ("none", "wandb", "mlflow")
PROJECT = "brain-tumour-segmentation"


def make_loggers(name: str, out: Path, *, settings: Mapping[str, Any], first: int = 0) -> list[Logger]:
    """TensorBoard below ``<out>/tensorboard``, and the logger called `name`.

    Parameters
    ----------
    name : str
        "none"; "wandb", which stays on this machine unless WANDB_MODE or WANDB_API_KEY says otherwise; or "mlflow", which
        writes to ``<out>/mlflow.db`` unless MLFLOW_TRACKING_URI names a server.
    out : Path
    settings : mapping
        Kept beside the curves.
    first : int
        Steps made before: what TensorBoard holds of later ones was undone by an interruption and is hidden.
    """
    out.mkdir(parents=True, exist_ok=True)
    options = {"purge_step": first + 1, "flush_secs": 20, "default_hp_metric": False}
    loggers: list[Logger] = [TensorBoardLogger(out, name="", version="tensorboard", **options)]
    try:
        loggers += {"none": list, "wandb": lambda: [_wandb(out)], "mlflow": lambda: [_mlflow(out)]}[name]()
    except ModuleNotFoundError as error:
        raise DataError(f"logger {name} needs a package that is not installed", f"pip install {name}") from error
    for logger in loggers[1:]:
        logger.log_hyperparams({key: str(value) for key, value in settings.items()})
    return loggers


def close_loggers(loggers: Sequence[Logger], status: str) -> None:
    """Write out what the loggers hold; `status` is "success" or "failed"."""
    for logger in loggers:
        logger.finalize(status)
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=int(status != "success"))  # else the next training would go on in its run


def _wandb(out: Path) -> Logger:
    mode = os.environ.get("WANDB_MODE", "" if os.environ.get("WANDB_API_KEY") else "offline")
    return WandbLogger(project=PROJECT, save_dir=out, offline=mode == "offline")


def _mlflow(out: Path) -> Logger:
    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(out / 'mlflow.db').absolute()}"
    return MLFlowLogger(PROJECT, tracking_uri=store, artifact_location=(out / "mlflow").absolute().as_uri())
