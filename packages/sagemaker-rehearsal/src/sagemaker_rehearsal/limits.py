"""Check the limits that AWS enforces, and answer as AWS does when one is broken.

Source: the service model in the installed botocore, which has the lengths, ranges, patterns and enumerations of every field;
the rest is from "Amazon SageMaker AI endpoints and quotas" and the API reference, as of November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

import botocore.session
from botocore.model import ServiceModel, Shape

MIB = 2**20
REALTIME_BYTES, REALTIME_SECONDS = 25 * MIB, 60.0
ASYNC_BYTES, ASYNC_SECONDS = 1024 * MIB, 3600.0
INLINE_BYTES = 128_000
"""Of the body of an asynchronous request that names no object in S3."""
FAILURE_CHARACTERS = 1024
DAY = 86_400
LONGEST_SECONDS = {"training": 28 * DAY, "processing": 5 * DAY}
OWN_DISKS = re.compile(r"ml\.(g4dn|g5|g6|g6e|gr6|p3dn|p4d|p4de|p5|trn1)\.")
"""Accelerated types with disks of their own, which AWS encrypts itself."""


class AwsError(Exception):
    """What AWS answers in place of a result: a code, a sentence and a status of HTTP."""

    def __init__(self, code: str, message: str, *, status: int = 400, **fields: object) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.fields = code, message, status, fields


def invalid(message: str) -> AwsError:
    """The answer to a request that cannot be."""
    return AwsError("ValidationException", message)


def check(kind: str, request: Mapping) -> None:
    """Raise `AwsError` for a ``Create<kind>`` that AWS would not take, or that the rehearsal does not know."""
    faults = list(_faults(service_model().operation_model(f"Create{kind}").input_shape, request, ""))
    if faults:
        raise invalid(f"{len(faults)} validation error{'s' * (len(faults) > 1)} detected: {'; '.join(faults)}")
    if kind in CHECKS:
        CHECKS[kind](request)


@cache
def service_model() -> ServiceModel:
    """What the installed botocore knows of SageMaker."""
    return botocore.session.get_session().get_service_model("sagemaker")


def _faults(shape: Shape, value: object, place: str) -> Iterator[str]:
    """In AWS's words, every limit of the service model that a value breaks, or one in it; `place` is the path to it."""
    if constraint := _broken(shape, value):
        yield f"Value '{str(value)[:100]}' at '{place}' failed to satisfy constraint: Member must {constraint}"
    elif shape.type_name == "structure":
        for name, inner in value.items():
            if name in shape.members:
                yield from _faults(shape.members[name], inner, f"{place}.{name[0].lower()}{name[1:]}".lstrip("."))
    elif shape.type_name == "list":
        for number, inner in enumerate(value, start=1):
            yield from _faults(shape.member, inner, f"{place}.{number}.member")
    elif shape.type_name == "map":
        for name, inner in value.items():
            yield from _faults(shape.key, name, f"{place}.key")
            yield from _faults(shape.value, inner, f"{place}.{name}.member")


def _broken(shape: Shape, value: object) -> str:
    """The limit that a value itself breaks, as AWS words it; empty if it breaks none."""
    size, what = (len(value), "length") if isinstance(value, (str, list, dict)) else (value, "value")
    limits = shape.metadata
    if "min" in limits and size < limits["min"]:
        return f"have {what} greater than or equal to {limits['min']}"
    if "max" in limits and size > limits["max"]:
        return f"have {what} less than or equal to {limits['max']}"
    if shape.type_name == "string" and shape.enum and value not in shape.enum:
        return f"satisfy enum value set: [{', '.join(shape.enum)}]"
    if "pattern" in limits:
        try:
            fits = re.fullmatch(limits["pattern"], value)
        except re.error:  # written for Java, as those of tags are
            fits = True
        if not fits:
            return f"satisfy regular expression pattern: {limits['pattern']}"
    return ""


def _check_training(request: Mapping) -> None:
    specification = request["AlgorithmSpecification"]
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
        _check_data_type((channel.get("DataSource") or {}).get("S3DataSource"), f"Channel {channel['ChannelName']}")
    if (place := (request.get("CheckpointConfig") or {}).get("LocalPath")) and not _inside(place, "/opt/ml/"):
        raise invalid(f"The rehearsal knows checkpoints below /opt/ml/ only, not in {place!r}; give another LocalPath.")
    _check_disks(request.get("ResourceConfig") or {})
    stopping = request.get("StoppingCondition") or {}
    longest, wait = stopping.get("MaxRuntimeInSeconds", DAY), stopping.get("MaxWaitTimeInSeconds")
    _check_runtime(longest, "training")
    spot = request.get("EnableManagedSpotTraining")
    if spot and wait is None:
        raise invalid("MaxWaitTimeInSeconds is required when EnableManagedSpotTraining is true.")
    if spot and wait < longest:
        raise invalid("Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds")
    if not spot and wait is not None:
        raise invalid("MaxWaitTimeInSeconds must not be specified when EnableManagedSpotTraining is false.")


def _check_data_type(source: Mapping | None, what: str) -> None:
    if source is None:
        raise invalid(f"{what} does not come from S3, which is all that the rehearsal knows.")
    if source["S3DataType"] not in {"S3Prefix", "ManifestFile"}:
        raise invalid(f"{what}: the rehearsal knows the data types S3Prefix and ManifestFile, not {source['S3DataType']}.")


def _inside(place: str, folder: str) -> bool:
    """Whether a path of a container lies below a folder: any other would be a folder of this machine."""
    return place.startswith(folder) and ".." not in place.split("/")


def _check_disks(machines: Mapping) -> None:
    if machines.get("VolumeKmsKeyId") and OWN_DISKS.match(machines.get("InstanceType", "")):
        raise invalid(f"You can't request a VolumeKmsKeyId with {machines['InstanceType']}, which has local storage.")


def _check_runtime(seconds: float, kind: str) -> None:
    if seconds > LONGEST_SECONDS[kind]:
        raise invalid(f"MaxRuntimeInSeconds must be at most {LONGEST_SECONDS[kind]} for a {kind} job.")


def _check_processing(request: Mapping) -> None:
    _check_runtime((request.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds", DAY), "processing")
    _check_disks((request.get("ProcessingResources") or {}).get("ClusterConfig") or {})
    places = []
    for item in request.get("ProcessingInputs") or []:
        _check_data_type(item.get("S3Input"), f"Input {item['InputName']}")
        if item["S3Input"].get("S3InputMode") == "Pipe":
            raise invalid("The rehearsal knows the input mode File, not Pipe.")
        places.append(item["S3Input"])
    for item in (request.get("ProcessingOutputConfig") or {}).get("Outputs") or []:
        if "S3Output" not in item:
            raise invalid(f"Output {item['OutputName']} does not go to S3, which is all that the rehearsal knows.")
        places.append(item["S3Output"])
    for place in places:
        if not _inside(place.get("LocalPath", ""), "/opt/ml/processing/"):
            raise invalid(f"LocalPath {place.get('LocalPath', '')!r} must begin with /opt/ml/processing/ and stay there.")
    inputs = [item["S3Input"]["LocalPath"] for item in request.get("ProcessingInputs") or []]
    if len(set(inputs)) < len(inputs):
        raise invalid("Two processing inputs have the same LocalPath.")


def _check_tuning(request: Mapping) -> None:
    config, definition = request["HyperParameterTuningJobConfig"], request.get("TrainingJobDefinition")
    if config["ResourceLimits"]["MaxParallelTrainingJobs"] > 100:
        raise AwsError("ResourceLimitExceeded", "At most 100 training jobs of a tuning job run at a time.")
    if not definition:
        raise invalid("The rehearsal runs tuning jobs with one TrainingJobDefinition.")
    _check_training(definition)
    if definition.get("HyperParameterTuningResourceConfig"):
        raise invalid("The rehearsal knows ResourceConfig, not HyperParameterTuningResourceConfig; try it in AWS.")
    known = {metric["Name"] for metric in definition["AlgorithmSpecification"].get("MetricDefinitions") or []}
    objective = config.get("HyperParameterTuningJobObjective")
    if objective and objective["MetricName"] not in known:
        words = "A metric is required for this hyperparameter tuning job objective. Provide a metric in the metric definitions."
        raise invalid(words)
    ranges = config.get("ParameterRanges") or {}
    numbers = [*(ranges.get("ContinuousParameterRanges") or []), *(ranges.get("IntegerParameterRanges") or [])]
    if ranges.get("AutoParameters"):
        raise invalid("The rehearsal does not know AutoParameters; give ranges, or try it in AWS.")
    if not any(ranges.values()):
        raise invalid("A tuning job needs at least one range in its ParameterRanges.")
    if config["Strategy"] == "Grid" and numbers:
        raise invalid("Grid search takes categorical ranges only.")
    for item in numbers:
        low, high, scale = float(item["MinValue"]), float(item["MaxValue"]), item.get("ScalingType")
        if low > high:
            raise invalid(f"The range of {item['Name']} begins at {low:g} and ends at {high:g}.")
        if (scale == "Logarithmic" and low <= 0) or (scale == "ReverseLogarithmic" and not 0 <= low <= high < 1):
            within = "must be greater than 0" if scale == "Logarithmic" else "must lie in 0 <= x < 1"
            raise invalid(f"The values of {item['Name']} {within} for {scale} scaling.")


def _check_variants(request: Mapping) -> None:
    for variant in request["ProductionVariants"]:
        if not variant.get("InstanceType"):
            raise invalid(f"Variant {variant['VariantName']} needs an InstanceType; the rehearsal has no serverless endpoints.")
        if request.get("AsyncInferenceConfig") and len(request["ProductionVariants"]) > 1:
            raise invalid("An asynchronous endpoint has one production variant.")


def _check_model(request: Mapping) -> None:
    containers = [*filter(None, [request.get("PrimaryContainer")]), *(request.get("Containers") or [])]
    if not containers:
        raise invalid("A model needs a PrimaryContainer or Containers.")
    if len(containers) > 1:
        raise invalid("The rehearsal knows models of one container, not inference pipelines; try it in AWS.")


CHECKS = {
    "TrainingJob": _check_training,
    "ProcessingJob": _check_processing,
    "HyperParameterTuningJob": _check_tuning,
    "Model": _check_model,
    "EndpointConfig": _check_variants,
}
"""What the service model does not say."""
