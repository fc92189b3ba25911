"""IAM policies of least privilege, and the question whether they allow the calls that a program makes.

The policies lie as JSON in ``cloud/policies`` with placeholders for account, region, bucket, role and the prefix of every name.
`record_calls` writes down what a program asks of AWS; `needs` says which actions on which resources that takes; `allowed` looks
them up. The rules are those of AWS's policy evaluation for one identity policy, as far as these files use them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import Any

from helpers.workspace import REPOSITORY

FOLDER = REPOSITORY / "cloud" / "policies"
PLACEHOLDER = re.compile(r"<([A-Z]+)>")
SERVICES = {"sagemaker-runtime": "sagemaker", "sagemaker-metrics": "sagemaker", "monitoring": "cloudwatch", "email": "ses"}
"""Prefix of the actions, where it is not the name of the service."""
S3_ACTIONS = {
    "HeadBucket": "ListBucket",
    "ListBuckets": "ListAllMyBuckets",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "HeadObject": "GetObject",
    "CopyObject": "PutObject",
    "DeleteObjects": "DeleteObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "PutBucketEncryption": "PutEncryptionConfiguration",
    "GetBucketEncryption": "GetEncryptionConfiguration",
}
"""Actions that S3's calls need, where they have another name."""
KINDS = {
    "EndpointConfigName": "endpoint-config",
    "EndpointName": "endpoint",
    "HyperParameterTuningJobName": "hyper-parameter-tuning-job",
    "ModelName": "model",
    "ProcessingJobName": "processing-job",
    "TrainingJobName": "training-job",
}
"""Parameters of SageMaker's calls that name a resource, and its kind in an ARN."""
NAMED_BY = {"CreateEndpoint": ("EndpointName", "EndpointConfigName")}
NAMED_BY |= {"CreateEndpointConfig": ("EndpointConfigName",)}


@dataclass(frozen=True)
class Call:
    """One call of AWS: the service as boto3 names it, the operation, and its parameters."""

    service: str
    operation: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """What the placeholders of the policies stand for."""

    account: str
    region: str
    bucket: str
    role: str
    prefix: str


def load_policy(name: str, place: Place, *, folder: Path = FOLDER) -> dict[str, Any]:
    """A policy of ``cloud/policies`` with its placeholders filled in, ready for IAM.

    Parameters
    ----------
    name : str
        "execution-role", "execution-role-trust", "caller" or "image-builder".
    place : Place
    folder : Path
    """
    text = (folder / f"{name}.json").read_text(encoding="utf-8")
    return json.loads(PLACEHOLDER.sub(lambda found: getattr(place, found[1].lower()), text))


def allowed(policy: Mapping[str, Any], action: str, resource: str = "*", *, context: Mapping[str, str] | None = None) -> bool:
    """Whether a policy allows an action on a resource.

    Parameters
    ----------
    policy : mapping
        Without placeholders.
    action : str
        Such as "s3:GetObject".
    resource : str
        ARN; "*" for actions that have none.
    context : mapping from str to str, optional
        Values of condition keys, such as "iam:PassedToService".
    """
    applying = [
        statement["Effect"]
        for statement in policy["Statement"]
        if _matches(statement["Action"], action, fold=True)
        and _matches(statement["Resource"], resource)
        and _conditions_hold(statement.get("Condition", {}), context or {})
    ]
    return "Allow" in applying and "Deny" not in applying


def needs(call: Call, place: Place) -> list[tuple[str, str, dict[str, str]]]:
    """What a call needs: action, resource and context each, in the words of IAM."""
    prefix = SERVICES.get(call.service, call.service)
    name = S3_ACTIONS.get(call.operation, call.operation) if prefix == "s3" else call.operation
    if name == "DeleteObject" and any("VersionId" in item for item in call.parameters.get("Delete", {}).get("Objects", [])):
        name = "DeleteObjectVersion"
    context = {"application-autoscaling:service-namespace": call.parameters.get("ServiceNamespace", "")}
    context = context if prefix == "application-autoscaling" else {}
    found = [(f"{prefix}:{name}", resource, context) for resource in _resources(prefix, call, place)]
    passed = {"iam:PassedToService": "sagemaker.amazonaws.com"}
    return found + [("iam:PassRole", role, passed) for role in _roles(call.parameters)]


def refused(calls: list[Call], policy: Mapping[str, Any], place: Place) -> list[str]:
    """Every need of these calls that a policy does not allow, once, as "action resource"."""
    wanted = [need for call in calls for need in needs(call, place)]
    return sorted(
        {
            f"{action} {resource}"
            for action, resource, context in wanted
            if not allowed(policy, action, resource, context=context)
        }
    )


@contextmanager
def record_calls(*, into: Path | None = None) -> Iterator[list[Call]]:
    """Write down every call of the boto3 clients that are created within the block, those of other libraries included.

    With a path, each call is also appended to that file at once, for `read_calls` in another process.
    """
    import boto3
    from botocore import handlers

    calls: list[Call] = []

    def note(params: Mapping[str, Any], model: Any, **_: Any) -> None:
        calls.append(Call(model.service_model.service_name, model.name, dict(params)))
        if into:
            with into.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(vars(calls[-1]), default=lambda value: type(value).__name__) + "\n")

    hook = ("before-parameter-build", note)
    before, boto3.DEFAULT_SESSION = boto3.DEFAULT_SESSION, None
    handlers.BUILTIN_HANDLERS.append(hook)
    try:
        yield calls
    finally:
        handlers.BUILTIN_HANDLERS.remove(hook)
        boto3.DEFAULT_SESSION = before


def read_calls(path: Path) -> list[Call]:
    """The calls that `record_calls` wrote to a file."""
    return [Call(**json.loads(line)) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def place_of(calls: list[Call], *, account: str, region: str) -> Place:
    """Bucket, role and prefix of the names, as a run used them."""
    names = [
        str(call.parameters[field]).lower()
        for call in calls
        for field in KINDS
        if call.operation.startswith("Create") and field in call.parameters
    ]
    buckets = [call.parameters["Bucket"] for call in calls if "Bucket" in call.parameters]
    roles = [role for call in calls for role in _roles(call.parameters)]
    prefix = "".join(letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))
    return Place(account, region, next(iter(buckets), ""), next(iter(roles), ""), prefix.rstrip("-"))


def _resources(prefix: str, call: Call, place: Place) -> list[str]:
    given = call.parameters
    here = f"{place.region}:{place.account}"
    if prefix == "s3" and "Bucket" in given:
        if call.operation == "DeleteObjects":
            return [f"arn:aws:s3:::{given['Bucket']}/{item['Key']}" for item in given["Delete"]["Objects"]]
        return [f"arn:aws:s3:::{given['Bucket']}" + (f"/{given['Key']}" if "Key" in given else "")]
    if prefix == "sagemaker" and (call.operation == "AddTags" or not _lists(call.operation)):
        fields = NAMED_BY.get(call.operation) or [field for field in KINDS if field in given][:1]
        named = [f"arn:aws:sagemaker:{here}:{KINDS[field]}/{given[field].lower()}" for field in fields if field in given]
        return named or [given.get("ResourceArn", "*")]
    if prefix == "logs" and "logGroupName" in given:
        return [f"arn:aws:logs:{here}:log-group:{given['logGroupName']}:log-stream:{given.get('logStreamName', '')}"]
    if prefix == "cloudwatch" and ("AlarmName" in given or call.operation == "DeleteAlarms"):
        return [f"arn:aws:cloudwatch:{here}:alarm:{name}" for name in given.get("AlarmNames", [given.get("AlarmName")])]
    return [given.get("PolicySourceArn", "*")]


def _lists(operation: str) -> bool:
    """Whether SageMaker's action has no resource: listings, except that of the jobs of one tuning job."""
    return operation.startswith("List") and operation != "ListTrainingJobsForHyperParameterTuningJob"


def _roles(value: Any) -> list[str]:
    """ARNs of the roles that are handed over anywhere in the parameters of a call."""
    if isinstance(value, Mapping):
        own = [text for name, text in value.items() if name in ("RoleArn", "ExecutionRoleArn") and isinstance(text, str)]
        return own + [role for inner in value.values() for role in _roles(inner)]
    return [role for inner in value for role in _roles(inner)] if isinstance(value, list) else []


def _matches(patterns: str | list[str], value: str, *, fold: bool = False) -> bool:
    patterns = [patterns] if isinstance(patterns, str) else patterns
    fitted = [pattern.replace("[", "[[]") for pattern in patterns]
    return any(fnmatchcase(value.lower() if fold else value, pattern.lower() if fold else pattern) for pattern in fitted)


def _conditions_hold(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    for operator, wanted in conditions.items():
        kind = operator.removesuffix("IfExists")
        if kind not in ("StringEquals", "StringLike"):
            raise ValueError(f"the condition operator {operator} is not known here; add it before using it in a policy")
        for key, values in wanted.items():
            if key not in context:
                if kind == operator:
                    return False
                continue
            values = [values] if isinstance(values, str) else values
            if not (context[key] in values if kind == "StringEquals" else _matches(values, context[key])):
                return False
    return True
