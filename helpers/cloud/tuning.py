"""Tuning on SageMaker: training jobs over learning rate, dropout and width, their table and the best of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from helpers.cloud.account import Account, mask
from helpers.cloud.jobs import METRICS
from helpers.workspace import DataError

OBJECTIVE = "validation:dice"
ENDED = {"Completed", "Failed", "Stopped"}


@dataclass(frozen=True)
class TuningSettings:
    """What is searched.

    Attributes
    ----------
    jobs, parallel : int
        Training jobs in all and at a time. Many at a time leave the strategy little to learn from.
    learning_rate, dropout : tuple of 2 float
        Ranges; the learning rate on a logarithmic scale.
    widths : tuple of int
        Channels of the first level.
    strategy : str
        "Bayesian" or "Random".
    seed : int
    """

    jobs: int = 8
    parallel: int = 2
    learning_rate: tuple[float, float] = (3e-4, 3e-2)
    dropout: tuple[float, float] = (0.0, 0.3)
    widths: tuple[int, ...] = (8, 16, 32)
    strategy: str = "Bayesian"
    seed: int = 2021


def start_tuning(account: Account, name: str, trainer, cohort: str, *, settings: TuningSettings) -> str:
    """Start a tuning job; returns its name.

    Parameters
    ----------
    account : Account
    name : str
        At most 32 characters, of which SageMaker makes the names of the training jobs.
    trainer : sagemaker.train.ModelTrainer
        As `helpers.cloud.jobs.make_trainer` makes it. Its hyperparameters must not name what is searched.
    cohort : str
        Location in S3.
    settings : TuningSettings
    """
    from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter
    from sagemaker.train.tuner import HyperparameterTuner

    ranges = {
        "learning-rate": ContinuousParameter(*settings.learning_rate, scaling_type="Logarithmic"),
        "dropout": ContinuousParameter(*settings.dropout),
        "width": CategoricalParameter([str(width) for width in settings.widths]),
    }
    tuner = HyperparameterTuner(
        model_trainer=trainer,
        objective_metric_name=OBJECTIVE,
        hyperparameter_ranges=ranges,
        metric_definitions=[{"Name": metric, "Regex": regex} for metric, regex in METRICS.items()],
        strategy=settings.strategy,
        objective_type="Maximize",
        max_jobs=settings.jobs,
        max_parallel_jobs=settings.parallel,
        random_seed=settings.seed,
    )
    tuner.tune(inputs={"training": cohort}, job_name=name, wait=False)
    return name


def wait_for_tuning(account: Account, name: str) -> Mapping:
    """Wait for a tuning job; raises `DataError` with the reason of its first failure where no job succeeded."""
    sagemaker = account.client("sagemaker")
    while True:
        job = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        if job["HyperParameterTuningJobStatus"] in ENDED:
            break
        time.sleep(0.5 if account.rehearsal else 30)
    if "BestTrainingJob" not in job:
        reasons = [one.get("FailureReason", "") for one in _trials(sagemaker, name)]
        raise DataError(
            f"tuning job {name} found nothing: {mask(next(filter(None, reasons), 'no job gave the metric'))}",
            "look at the logs of its jobs",
        )
    return job


def tuning_table(account: Account, name: str) -> pd.DataFrame:
    """One row a training job: what was drawn, the best validation Dice, seconds and status; the best first."""
    rows = []
    for one in _trials(account.client("sagemaker"), name):
        score = one.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value")
        begun, ended = one.get("TrainingStartTime"), one.get("TrainingEndTime")
        seconds = (ended - begun).total_seconds() if begun and ended else None
        numbers = {name: float(text) for name, text in one["TunedHyperParameters"].items()}
        status = one["TrainingJobStatus"]
        rows.append({**numbers, "validation Dice": score, "seconds": seconds, "status": status, "job": one["TrainingJobName"]})
    table = pd.DataFrame(rows).sort_values("validation Dice", ascending=False, ignore_index=True)
    return table[["learning-rate", "dropout", "width", "validation Dice", "seconds", "status", "job"]]


def _trials(sagemaker, name: str) -> list[Mapping]:
    pages = sagemaker.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    return [one for page in pages.paginate(HyperParameterTuningJobName=name) for one in page["TrainingJobSummaries"]]
