"""Endpoints: asynchronous as the main road, real time as the demonstration, batch transform for a cohort."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.cloud.account import Account, mask
from helpers.cloud.storage import exists, read_object, split_uri
from helpers.data.cases import Case
from helpers.workspace import DataError

TAR = "application/x-tar"
VARIANT = "AllTraffic"
BODY_MB = {"real-time": 25, "asynchronous": 1024}
BACKLOG = 2.0
"""Requests a machine may have waiting before another one starts."""
REST_SECONDS = 600


@dataclass(frozen=True)
class EndpointSettings:
    """What serves.

    Attributes
    ----------
    image : str
        Image with the ``serve`` command, as docker/ builds it.
    instance_type : str
    most : int
        Machines of an asynchronous endpoint under load; without requests it has none.
    accelerator_ami : str
        Version of the host's GPU driver; empty for instances without a GPU.
    """

    image: str
    instance_type: str = "ml.g5.xlarge"
    most: int = 2
    accelerator_ami: str = "al2023-ami-sagemaker-inference-gpu-4-1"


def create_model(account: Account, name: str, archive: str, *, kind: str, settings: EndpointSettings) -> str:
    """Register a ``model.tar.gz`` in S3 with the image that serves it; returns its name."""
    account.client("sagemaker").create_model(
        ModelName=name,
        ExecutionRoleArn=account.role,
        PrimaryContainer={
            "Image": settings.image,
            "ModelDataUrl": archive,
            "Environment": {"SERVE_BODY_MB": str(BODY_MB[kind])},
        },
    )
    return name


def deploy(account: Account, name: str, archive: str, *, kind: str, settings: EndpointSettings) -> str:
    """Start an endpoint without waiting for it; returns its name, which its model and configuration share.

    Parameters
    ----------
    kind : str
        "real-time" (25 MB and 60 s) or "asynchronous" (1 GB and 60 minutes, results in S3, no machine while nobody asks).
    """
    create_model(account, name, archive, kind=kind, settings=settings)
    variant = {
        "VariantName": VARIANT,
        "ModelName": name,
        "InstanceType": settings.instance_type,
        "InitialInstanceCount": 1,
        "ContainerStartupHealthCheckTimeoutInSeconds": 600,
    }
    if settings.accelerator_ami:
        variant["InferenceAmiVersion"] = settings.accelerator_ami
    more = {}
    if kind == "asynchronous":
        places = {"S3OutputPath": account.uri(name, "answers"), "S3FailurePath": account.uri(name, "failures")}
        more["AsyncInferenceConfig"] = {
            "OutputConfig": places,
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 1},
        }
    sagemaker = account.client("sagemaker")
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant], **more)
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    return name


def wait_for_endpoint(account: Account, name: str) -> None:
    """Wait until an endpoint answers; raises `DataError` with the reason where it does not come up."""
    sagemaker = account.client("sagemaker")
    while (endpoint := sagemaker.describe_endpoint(EndpointName=name))["EndpointStatus"] in {"Creating", "Updating"}:
        time.sleep(0.2 if account.rehearsal else 15)
    if endpoint["EndpointStatus"] != "InService":
        raise DataError(
            f"endpoint {name} is {endpoint['EndpointStatus']}: {mask(endpoint.get('FailureReason', ''))}", "look at its log"
        )


def scale_to_zero(account: Account, name: str, *, settings: EndpointSettings) -> None:
    """Let an asynchronous endpoint have no machine while nothing waits, and one as soon as something does.

    Two rules: machines follow the backlog for each of them; and, because without a machine there is no such number, an alarm
    on "something waits and nobody is there" starts the first.
    """
    scaling, watch = account.client("application-autoscaling"), account.client("cloudwatch")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    dimensions = [{"Name": "EndpointName", "Value": name}]
    scaling.register_scalable_target(**target, MinCapacity=0, MaxCapacity=settings.most)
    scaling.put_scaling_policy(
        **target,
        PolicyName=f"{name}-backlog",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": BACKLOG,
            "CustomizedMetricSpecification": {
                "MetricName": "ApproximateBacklogSizePerInstance",
                "Namespace": "AWS/SageMaker",
                "Dimensions": dimensions,
                "Statistic": "Average",
            },
            "ScaleInCooldown": REST_SECONDS,
            "ScaleOutCooldown": 60,
        },
    )
    first = scaling.put_scaling_policy(
        **target,
        PolicyName=f"{name}-first",
        PolicyType="StepScaling",
        StepScalingPolicyConfiguration={
            "AdjustmentType": "ChangeInCapacity",
            "MetricAggregationType": "Average",
            "Cooldown": REST_SECONDS,
            "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
        },
    )
    watch.put_metric_alarm(
        AlarmName=f"{name}-waiting",
        Namespace="AWS/SageMaker",
        MetricName="HasBacklogWithoutCapacity",
        Dimensions=dimensions,
        Statistic="Average",
        Period=60,
        EvaluationPeriods=2,
        Threshold=1.0,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        TreatMissingData="missing",
        AlarmActions=[first["PolicyARN"]],
    )


def pack_case(case: Case) -> bytes:
    """The image files of a case, without its label map, as the body of a request: a tar of what is compressed already."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in case.channels:
            archive.add(path, arcname=path.name)
    return buffer.getvalue()


def invoke(account: Account, name: str, body: bytes, *, accept: str = "application/x-nifti") -> bytes:
    """Answer of a real-time endpoint.

    Raises
    ------
    DataError
        If the request is refused or the model fails: with the sentence of the endpoint.
    """
    runtime = account.client("sagemaker-runtime")
    try:
        answer = runtime.invoke_endpoint(EndpointName=name, Body=body, ContentType=TAR, Accept=accept)
    except runtime.exceptions.ClientError as error:
        said = error.response.get("OriginalMessage") or error.response["Error"]["Message"]
        raise DataError(f"endpoint {name}: {mask(said).strip()}", "look at its log") from error
    return answer["Body"].read()


def send(account: Account, name: str, place: str, *, accept: str = "application/x-nifti", kind: str = TAR) -> Mapping[str, str]:
    """Ask an asynchronous endpoint for the answer to an object in S3; where answer and failure will be."""
    answer = account.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=name, InputLocation=place, ContentType=kind, Accept=accept
    )
    return {"answer": answer["OutputLocation"], "failure": answer["FailureLocation"]}


def collect(account: Account, places: Mapping[str, str], *, seconds: float = 3600.0) -> bytes:
    """Wait for the answer of an asynchronous endpoint.

    Raises
    ------
    DataError
        If the failure file is there instead, with what it says, or neither comes in time.
    """
    s3, deadline = account.client("s3"), time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = exists(s3, (places["answer"], places["failure"]))
        if found == places["answer"]:
            return read_object(s3, found)
        if found:
            raise DataError(
                f"the request failed: {mask(read_object(s3, found).decode(errors='replace')).strip()}",
                "look at the endpoint's log",
            )
        time.sleep(0.2 if account.rehearsal else 5)
    raise DataError(f"no answer came within {seconds:g} s", "look at the log of the endpoint")


def upload_body(account: Account, run: str, name: str, body: bytes) -> str:
    """Put the body of a request into the bucket; returns its location."""
    place = account.uri(run, "requests", name)
    bucket, key = split_uri(place)
    account.client("s3").put_object(Bucket=bucket, Key=key, Body=body)
    return place


def transform(account: Account, name: str, model: str, bodies: str, *, instance_type: str, accept: str) -> str:
    """Start a batch transform of every request body below `bodies`; returns the location of the answers."""
    answers = account.uri(name, "answers")
    account.client("sagemaker").create_transform_job(
        TransformJobName=name,
        ModelName=model,
        MaxPayloadInMB=100,
        TransformInput={
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": bodies}},
            "ContentType": TAR,
            "SplitType": "None",
        },
        TransformOutput={"S3OutputPath": answers, "Accept": accept},
        TransformResources={"InstanceType": instance_type, "InstanceCount": 1},
    )
    return answers


def upload_archive(account: Account, run: str, archive: Path) -> str:
    """Bring a ``model.tar.gz`` to S3; returns its location."""
    place = account.uri(run, "models", archive.name)
    account.client("s3").upload_file(str(archive), *split_uri(place))
    return place
