"""Check the limits that AWS enforces, and answer as AWS does when one is broken.

Source: "Amazon SageMaker AI endpoints and quotas" and the API reference, as of November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MIB = 2**20
REALTIME_BYTES, REALTIME_SECONDS = 25 * MIB, 60.0
ASYNC_BYTES, ASYNC_SECONDS = 1024 * MIB, 3600.0
FAILURE_CHARACTERS = 1024
DAY = 86_400
LONGEST_SECONDS = {"training": 28 * DAY, "processing": 5 * DAY}
NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
TUNING_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,31}")


class AwsError(Exception):
    """What AWS answers in place of a result: a code, a sentence and a status of HTTP."""

    def __init__(self, code: str, message: str, *, status: int = 400, **fields: object) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.fields = code, message, status, fields


def invalid(message: str) -> AwsError:
    """The answer to a request that cannot be."""
    return AwsError("ValidationException", message)


def check_name(name: str, pattern: re.Pattern[str] = NAME) -> None:
    """Names are letters, digits and inner hyphens: 63 at most, 32 for a tuning job."""
    if not pattern.fullmatch(name):
        raise invalid(f"Value '{name}' failed to satisfy constraint: Member must satisfy regular expression pattern")


def check_training(request: Mapping) -> None:
    """Raise `AwsError` for a training job that AWS would not take."""
    hyperparameters = request.get("HyperParameters") or {}
    if len(hyperparameters) > 100 or any(len(str(value)) > 2500 for value in hyperparameters.values()):
        raise invalid("At most 100 hyperparameters of at most 2500 characters are allowed.")
    _check_environment(request, 100, 512)
    specification = request["AlgorithmSpecification"]
    if len(specification.get("MetricDefinitions") or []) > 40:
        raise invalid("At most 40 metric definitions are allowed.")
    for definition in specification.get("MetricDefinitions") or []:
        try:
            groups = re.compile(definition["Regex"]).groups
        except re.error as error:
            raise invalid(f"The regex of metric {definition['Name']} is not valid: {error}.") from error
        if not groups:
            raise invalid(f"The regex of metric {definition['Name']} needs a group around the number.")
    if not specification.get("TrainingImage"):
        raise invalid("You must specify a training image.")
    for channel in request.get("InputDataConfig") or []:
        if (channel.get("InputMode") or specification.get("TrainingInputMode")) == "Pipe":
            raise invalid("The rehearsal knows the input modes File and FastFile, not Pipe.")
    stopping = request.get("StoppingCondition") or {}
    longest, wait = stopping.get("MaxRuntimeInSeconds", DAY), stopping.get("MaxWaitTimeInSeconds")
    check_runtime(longest, "training")
    spot = request.get("EnableManagedSpotTraining")
    if spot and wait is None:
        raise invalid("MaxWaitTimeInSeconds is required when EnableManagedSpotTraining is true.")
    if spot and wait < longest:
        raise invalid("Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds")
    if not spot and wait is not None:
        raise invalid("MaxWaitTimeInSeconds must not be specified when EnableManagedSpotTraining is false.")


def check_runtime(seconds: float, kind: str) -> None:
    """Raise `AwsError` where a job may run for longer than AWS allows."""
    if not 1 <= seconds <= LONGEST_SECONDS[kind]:
        raise invalid(f"MaxRuntimeInSeconds must lie between 1 and {LONGEST_SECONDS[kind]} for a {kind} job.")


def check_processing(request: Mapping) -> None:
    """Raise `AwsError` for a processing job that AWS would not take."""
    _check_environment(request, 100, 256)
    check_runtime((request.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds", DAY), "processing")
    inputs = [item["S3Input"] for item in request.get("ProcessingInputs") or []]
    outputs = [item["S3Output"] for item in (request.get("ProcessingOutputConfig") or {}).get("Outputs") or []]
    for item in inputs + outputs:
        if not item["LocalPath"].startswith("/opt/ml/processing"):
            raise invalid(f"LocalPath {item['LocalPath']} must start with /opt/ml/processing")
    if len(inputs) + len(outputs) > 20:
        raise invalid("At most 10 inputs and 10 outputs are allowed.")


def check_tuning(request: Mapping) -> None:
    """Raise `AwsError` for a tuning job that AWS would not take."""
    limits = request["HyperParameterTuningJobConfig"]["ResourceLimits"]
    if limits["MaxParallelTrainingJobs"] > 100:
        raise AwsError("ResourceLimitExceeded", "At most 100 training jobs of a tuning job run at a time.")
    if not request.get("TrainingJobDefinition"):
        raise invalid("The rehearsal runs tuning jobs with one TrainingJobDefinition.")


def check_variants(request: Mapping) -> None:
    """Raise `AwsError` for an endpoint configuration that AWS would not take."""
    for variant in request["ProductionVariants"]:
        if not variant.get("InstanceType"):
            raise invalid(f"Variant {variant['VariantName']} needs an InstanceType; the rehearsal has no serverless endpoints.")
        if request.get("AsyncInferenceConfig") and len(request["ProductionVariants"]) > 1:
            raise invalid("An asynchronous endpoint has one production variant.")


def _check_environment(request: Mapping, count: int, length: int) -> None:
    environment = request.get("Environment") or {}
    if len(environment) > count or any(len(value) > length for value in environment.values()):
        raise invalid(f"At most {count} environment variables of at most {length} characters are allowed.")
