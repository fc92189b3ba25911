"""After a run: everything it made, by listing; its deletion; and endpoints that somebody has forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd

from helpers.cloud.account import Account
from helpers.cloud.storage import delete_objects, list_objects


@dataclass(frozen=True)
class Found:
    """Something that a run made: what it is and its name; `delete` removes it."""

    kind: str
    name: str
    delete: Callable[[], object]


def list_run(account: Account, run: str) -> list[Found]:
    """Everything in the account whose name begins with that of a run, in the order in which it can be deleted."""
    sagemaker = account.client("sagemaker")
    kinds = (
        ("endpoint", "list_endpoints", "Endpoints", "EndpointName", sagemaker.delete_endpoint),
        (
            "endpoint configuration",
            "list_endpoint_configs",
            "EndpointConfigs",
            "EndpointConfigName",
            sagemaker.delete_endpoint_config,
        ),
        ("model", "list_models", "Models", "ModelName", sagemaker.delete_model),
    )
    found = list(_scaling(account, run))
    for kind, operation, key, field, delete in kinds:
        for page in sagemaker.get_paginator(operation).paginate(NameContains=run):
            names = [one[field] for one in page[key] if one[field].startswith(run)]
            found += [Found(kind, name, _bind(delete, **{field: name})) for name in names]
    found += list(_logs(account, run))
    s3 = account.client("s3")
    for prefix in _prefixes(account, run):
        place = account.uri(prefix)
        count = sum(1 for _ in list_objects(s3, place))
        found.append(Found(f"{count} objects in S3", prefix, _bind(delete_objects, s3, place)))
    return found


def delete_run(account: Account, run: str) -> pd.DataFrame:
    """Delete everything that a run made, stopping first what still runs; a table of what was deleted."""
    stop_jobs(account, run)
    rows = []
    for one in list_run(account, run):
        one.delete()
        rows.append({"deleted": one.kind, "name": one.name})
    return pd.DataFrame(rows, columns=["deleted", "name"])


def stop_jobs(account: Account, run: str) -> list[str]:
    """Stop every job of a run that is in progress; their names. What has ended is a record, which costs nothing."""
    sagemaker = account.client("sagemaker")
    stopped = []
    for kind in ("hyper_parameter_tuning_job", "training_job", "processing_job", "transform_job"):
        word = "".join(part.capitalize() for part in kind.split("_"))
        for page in sagemaker.get_paginator(f"list_{kind}s").paginate(NameContains=run, StatusEquals="InProgress"):
            for one in page[f"{word}Summaries"]:
                getattr(sagemaker, f"stop_{kind}")(**{f"{word}Name": one[f"{word}Name"]})
                stopped.append(one[f"{word}Name"])
    return stopped


def forgotten_endpoints(account: Account, *, hours: float = 2.0) -> pd.DataFrame:
    """Endpoints of the whole account, of this run or any other, that have been up for longer than `hours`.

    Columns are endpoint, status, hours and machines: a machine costs by the second, asked or not.
    """
    sagemaker, now = account.client("sagemaker"), datetime.now(UTC)
    rows = []
    for page in sagemaker.get_paginator("list_endpoints").paginate():
        for one in page["Endpoints"]:
            age = (now - one["CreationTime"]).total_seconds() / 3600
            if age < hours:
                continue
            described = sagemaker.describe_endpoint(EndpointName=one["EndpointName"])
            machines = sum(each.get("CurrentInstanceCount", 0) for each in described.get("ProductionVariants", []))
            rows.append((one["EndpointName"], one["EndpointStatus"], round(age, 1), machines))
    return pd.DataFrame(rows, columns=["endpoint", "status", "hours", "machines"])


def _scaling(account: Account, run: str) -> Iterator[Found]:
    scaling, watch = account.client("application-autoscaling"), account.client("cloudwatch")
    pages = scaling.get_paginator("describe_scalable_targets").paginate(ServiceNamespace="sagemaker")
    for target in (one for page in pages for one in page["ScalableTargets"]):
        if target["ResourceId"].startswith(f"endpoint/{run}"):
            keys = {name: target[name] for name in ("ServiceNamespace", "ResourceId", "ScalableDimension")}
            yield Found("scaling", target["ResourceId"], _bind(scaling.deregister_scalable_target, **keys))
    for page in watch.get_paginator("describe_alarms").paginate(AlarmNamePrefix=run):
        for alarm in page["MetricAlarms"]:
            yield Found("alarm", alarm["AlarmName"], _bind(watch.delete_alarms, AlarmNames=[alarm["AlarmName"]]))


def _logs(account: Account, run: str) -> Iterator[Found]:
    """Log streams of the run's jobs, and log groups of its endpoints."""
    logs = account.client("logs")
    for kind in ("TrainingJobs", "ProcessingJobs", "TransformJobs"):
        group = f"/aws/sagemaker/{kind}"
        try:
            pages = list(logs.get_paginator("describe_log_streams").paginate(logGroupName=group, logStreamNamePrefix=run))
        except logs.exceptions.ResourceNotFoundException:
            continue
        for name in [stream["logStreamName"] for page in pages for stream in page["logStreams"]]:
            yield Found("log", name, _bind(logs.delete_log_stream, logGroupName=group, logStreamName=name))
    prefix = f"/aws/sagemaker/Endpoints/{run}"
    for page in logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=prefix):
        for group in page["logGroups"]:
            yield Found("log", group["logGroupName"], _bind(logs.delete_log_group, logGroupName=group["logGroupName"]))


def _prefixes(account: Account, run: str) -> list[str]:
    """Folders of the bucket whose names begin with the run's."""
    pages = account.client("s3").get_paginator("list_objects_v2").paginate(Bucket=account.bucket, Prefix=run, Delimiter="/")
    return [each["Prefix"].rstrip("/") for page in pages for each in page.get("CommonPrefixes", [])]


def _bind(function: Callable, *arguments: object, **named: object) -> Callable[[], object]:
    return lambda: function(*arguments, **named)
