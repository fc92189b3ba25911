"""Run tuning jobs: training jobs with hyperparameters drawn at random or from a grid, several at a time."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from sagemaker_rehearsal.records import Record

ENDED = {"Completed", "Failed", "Stopped"}
OBJECTIVE = "_tuning_objective_metric"
"""Hyperparameter that SageMaker adds to every training job of a tuning job."""


class Trials:
    """Training jobs by tuning job.

    Parameters
    ----------
    start : callable
        ``start(kind, request)`` makes and starts a job and returns its record.
    """

    def __init__(self, start: Callable[[str, Mapping], Record]) -> None:
        self.start = start
        self._tried: dict[tuple[str, float], list[tuple[Record, dict[str, str]]]] = {}

    def _of(self, tuning: Record) -> list[tuple[Record, dict[str, str]]]:
        """Its training jobs; another tuning job may have had its name."""
        return self._tried.setdefault((tuning.name, tuning.created), [])

    def add(self, tuning: Record, request: Mapping, drawn: dict[str, str]) -> Record:
        """Start one more training job of a tuning job."""
        record = self.start("TrainingJob", request)
        record.update(TuningJobArn=tuning.arn)
        self._of(tuning).append((record, drawn))
        return record

    def jobs(self, tuning: Record) -> list[Record]:
        """Records of its training jobs."""
        return [record for record, _ in self._of(tuning)]

    def summaries(self, tuning: Record) -> list[dict]:
        """As ``ListTrainingJobsForHyperParameterTuningJob`` answers."""
        return [_summary(tuning, record, drawn) for record, drawn in self._of(tuning)]


def begin_tuning(trials: Trials, tuning: Record) -> None:
    """Note what AWS tells of a tuning job before its first training job."""
    config = tuning.request["HyperParameterTuningJobConfig"]
    tuning.update(Strategy=config["Strategy"], ResourceLimits=config["ResourceLimits"])
    _count(trials, tuning)


def run_tuning(trials: Trials, tuning: Record) -> None:
    """Run all training jobs of a tuning job, and note counts and the best one as they start and end."""
    config = tuning.request["HyperParameterTuningJobConfig"]
    limits = config["ResourceLimits"]
    draws = draw_hyperparameters(config, limits.get("MaxNumberOfTrainingJobs", 500))

    def one(numbered: tuple[int, dict[str, str]]) -> None:
        if tuning.stop.is_set():
            return
        number, drawn = numbered
        record = trials.add(tuning, _request(tuning, number, drawn), drawn)
        _count(trials, tuning)
        while record.status not in ENDED:
            if tuning.stop.is_set():
                record.stop.set()
            time.sleep(0.05)
        _count(trials, tuning)

    with ThreadPoolExecutor(limits["MaxParallelTrainingJobs"]) as pool:
        list(pool.map(one, enumerate(draws, start=1)))
    _count(trials, tuning)
    failed = all(job.status == "Failed" for job in trials.jobs(tuning)) and not tuning.stop.is_set()
    tuning.update(
        HyperParameterTuningJobStatus="Stopped" if tuning.stop.is_set() else "Failed" if failed else "Completed",
        FailureReason="All training jobs failed. Please take a look at the training jobs failures." if failed else None,
        HyperParameterTuningEndTime=time.time(),
    )


def draw_hyperparameters(config: Mapping, count: int) -> Iterator[dict[str, str]]:
    """Up to `count` sets of hyperparameters, as text; the same for the same ``RandomSeed``.

    "Grid" goes through the categories; "Random", and the cleverer strategies in its place, draw from every range as its
    scale says.
    """
    ranges = config["ParameterRanges"]
    if config["Strategy"] == "Grid":
        names = [item["Name"] for item in ranges["CategoricalParameterRanges"]]
        grid = itertools.product(*(item["Values"] for item in ranges["CategoricalParameterRanges"]))
        yield from (dict(zip(names, values, strict=True)) for values in itertools.islice(grid, count))
        return
    chance = random.Random(config.get("RandomSeed", 0))
    for _ in range(count):
        drawn = {item["Name"]: repr(_between(item, chance)) for item in ranges.get("ContinuousParameterRanges") or []}
        drawn |= {item["Name"]: str(round(_between(item, chance))) for item in ranges.get("IntegerParameterRanges") or []}
        drawn |= {item["Name"]: chance.choice(item["Values"]) for item in ranges.get("CategoricalParameterRanges") or []}
        yield drawn


def _between(item: Mapping, chance: random.Random) -> float:
    low, high, scale = float(item["MinValue"]), float(item["MaxValue"]), item.get("ScalingType", "Auto")
    if scale == "Logarithmic":
        return math.exp(chance.uniform(math.log(low), math.log(high)))
    if scale == "ReverseLogarithmic":
        return 1 - math.exp(chance.uniform(math.log(1 - high), math.log(1 - low)))
    return chance.uniform(low, high)


def _request(tuning: Record, number: int, drawn: Mapping[str, str]) -> dict:
    """The training job that SageMaker makes of a definition and drawn values."""
    definition = tuning.request["TrainingJobDefinition"]
    objective = tuning.request["HyperParameterTuningJobConfig"].get("HyperParameterTuningJobObjective")
    fixed = definition.get("StaticHyperParameters") or {}
    stamp = f"{random.getrandbits(32):08x}"
    shared = (
        "RoleArn",
        "AlgorithmSpecification",
        "InputDataConfig",
        "OutputDataConfig",
        "ResourceConfig",
        "StoppingCondition",
        "CheckpointConfig",
        "EnableManagedSpotTraining",
        "Environment",
    )
    return {
        "TrainingJobName": f"{tuning.name}-{number:03d}-{stamp}",
        "HyperParameters": {**fixed, **drawn, **({OBJECTIVE: objective["MetricName"]} if objective else {})},
        **{name: definition[name] for name in shared if definition.get(name) is not None},
    }


def _summary(tuning: Record, record: Record, drawn: Mapping[str, str]) -> dict:
    whole = record.describe()
    kept = ("TrainingJobName", "TrainingJobArn", "CreationTime", "TrainingStartTime", "TrainingEndTime", "TrainingJobStatus")
    summary = {name: whole[name] for name in (*kept, "FailureReason") if name in whole}
    summary |= {"TunedHyperParameters": dict(drawn), "TuningJobName": tuning.name}
    objective = tuning.request["HyperParameterTuningJobConfig"].get("HyperParameterTuningJobObjective") or {}
    found = [one for one in whole.get("FinalMetricDataList", []) if one["MetricName"] == objective.get("MetricName")]
    if found:
        best = {"MetricName": objective["MetricName"], "Type": objective["Type"], "Value": found[0]["Value"]}
        summary["FinalHyperParameterTuningJobObjectiveMetric"] = best
    if record.status in ENDED:
        summary["ObjectiveStatus"] = "Succeeded" if found else "Failed"
    return summary


def _count(trials: Trials, tuning: Record) -> None:
    """Bring counts and the best job up to date."""
    summaries = trials.summaries(tuning)
    statuses = [summary["TrainingJobStatus"] for summary in summaries]
    objectives = [summary.get("ObjectiveStatus", "Pending") for summary in summaries]
    scored = [summary for summary in summaries if "FinalHyperParameterTuningJobObjectiveMetric" in summary]
    objective = tuning.request["HyperParameterTuningJobConfig"].get("HyperParameterTuningJobObjective") or {}
    sign = -1 if objective.get("Type") == "Minimize" else 1
    best = max(scored, key=lambda one: sign * one["FinalHyperParameterTuningJobObjectiveMetric"]["Value"], default=None)
    tuning.update(
        TrainingJobStatusCounters={
            "Completed": statuses.count("Completed"),
            "InProgress": sum(status not in ENDED for status in statuses),
            "RetryableError": 0,
            "NonRetryableError": statuses.count("Failed"),
            "Stopped": statuses.count("Stopped"),
        },
        ObjectiveStatusCounters={name: objectives.count(name) for name in ("Succeeded", "Pending", "Failed")},
        BestTrainingJob=best,
    )
