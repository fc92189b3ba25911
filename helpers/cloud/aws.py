"""List and delete everything that a run made.

Every name that a run makes is the run's own, or begins with it and a hyphen; that is how its things are found again. All
functions take a `boto3.Session`, and so work in a real account and in a rehearsal.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import boto3
import pandas as pd
from botocore.exceptions import ClientError

from brats_cohort.files import DataError

JOBS = ("hyper_parameter_tuning_job", "training_job", "processing_job")
PASSING = ("Validation", "Throttling", "TooManyRequests", "SlowDown", "ConcurrentUpdate", "Aborted", "NotFound")
"""Parts of the codes with which AWS refuses what is changing, or gone already, or asked too often: not for ever."""


@dataclass(frozen=True)
class Found:
    """Something that a run made: what it is and its name; `delete` removes it."""

    kind: str
    name: str
    delete: Callable[[], object]


def list_run(session: boto3.Session, run: str, bucket: str) -> list[Found]:
    """List everything in the account that a run made, in the order in which it can be deleted.

    Jobs are left out: what has ended is a record that costs nothing.
    """
    return [*_scaling(session, run), *_endpoints(session, run), *_logs(session, run), *_objects(session, run, bucket)]


def delete_run(session: boto3.Session, run: str, bucket: str, *, seconds: float = 300.0) -> pd.DataFrame:
    """Delete everything that a run made; returns a table of what was deleted.

    Jobs that still run are stopped first, and waited for before files and logs are deleted: a job uploads its model when it
    ends, even after a stop. Endpoints don't wait for them.

    Raises
    ------
    DataError
        If a job has not ended after `seconds`: only endpoints are deleted then. Also if something could not be deleted in as
        many seconds again, such as an endpoint that is still being made: all else is deleted.
    """
    stop_jobs(session, run)
    deadline = time.monotonic() + seconds
    deleted: dict[tuple[str, str], None] = {}
    while running := _running(session, run):  # boto3 has no waiter for tuning jobs
        for one in [*_scaling(session, run), *_endpoints(session, run)]:  # these cost money until they are gone
            with contextlib.suppress(ClientError):  # what is refused now is tried again
                one.delete()
                deleted[one.kind, one.name] = None
        if time.monotonic() > deadline:
            names = ", ".join(name for _, name, _ in running)
            raise DataError(f"{names} did not stop within {seconds:g} s, so files and logs were kept", "try again later")
        time.sleep(1)
    deadline = time.monotonic() + seconds
    refused: dict[tuple[str, str], str] = {}
    forbidden = False
    while found := list_run(session, run, bucket):  # AWS lists an endpoint until it is gone
        if (deleted or refused) and (forbidden or time.monotonic() > deadline):
            names = "; ".join(f"{one.kind} {one.name} ({refused.get((one.kind, one.name), 'still listed')})" for one in found)
            raise DataError(f"still there, and may cost money: {names}", "delete the run again in some minutes")
        refused = {}
        for one in found:
            try:
                one.delete()
                deleted[one.kind, one.name] = None
            except ClientError as error:
                refused[one.kind, one.name] = error.response["Error"]["Message"]
                forbidden |= not any(part in error.response["Error"]["Code"] for part in PASSING)
        time.sleep(1)
    return pd.DataFrame(list(deleted), columns=["deleted", "name"])


def stop_jobs(session: boto3.Session, run: str) -> None:
    """Ask every job of a run that is in progress to stop."""
    sagemaker = session.client("sagemaker")
    for kind, name, status in _running(session, run):
        if status == "InProgress":
            try:
                getattr(sagemaker, f"stop_{kind}")(**{f"{_word(kind)}Name": name})
            except ClientError as error:  # it may have ended meanwhile
                if error.response["Error"]["Code"] != "ValidationException":
                    raise


def belongs(name: str, run: str) -> bool:
    """Tell whether a name is a run's: ``run-1`` does not own ``run-10``."""
    return name == run or name.startswith((f"{run}-", f"{run}/"))


def _running(session: boto3.Session, run: str) -> list[tuple[str, str, str]]:
    """Kind, name and status of every job of a run that has not ended."""
    sagemaker, found = session.client("sagemaker"), []
    for kind in JOBS:
        for status in ("InProgress", "Stopping"):
            for page in sagemaker.get_paginator(f"list_{kind}s").paginate(NameContains=run, StatusEquals=status):
                names = [one[f"{_word(kind)}Name"] for one in page[f"{_word(kind)}Summaries"]]
                found += [(kind, name, status) for name in names if belongs(name, run)]
    return found


def _word(kind: str) -> str:
    return "".join(part.capitalize() for part in kind.split("_"))


def _endpoints(session: boto3.Session, run: str) -> Iterator[Found]:
    sagemaker = session.client("sagemaker")
    for kind in ("endpoint", "endpoint_config", "model"):
        for page in sagemaker.get_paginator(f"list_{kind}s").paginate(NameContains=run):
            for name in [one[f"{_word(kind)}Name"] for one in page[f"{_word(kind)}s"]]:
                if belongs(name, run):
                    delete = partial(getattr(sagemaker, f"delete_{kind}"), **{f"{_word(kind)}Name": name})
                    yield Found(kind.replace("_config", " configuration"), name, delete)


def _scaling(session: boto3.Session, run: str) -> Iterator[Found]:
    scaling, watch = session.client("application-autoscaling"), session.client("cloudwatch")
    pages = scaling.get_paginator("describe_scalable_targets").paginate(ServiceNamespace="sagemaker")
    for target in (one for page in pages for one in page["ScalableTargets"]):
        if belongs(target["ResourceId"].removeprefix("endpoint/"), run):
            keys = {name: target[name] for name in ("ServiceNamespace", "ResourceId", "ScalableDimension")}
            yield Found("scaling target", target["ResourceId"], partial(scaling.deregister_scalable_target, **keys))
    for page in watch.get_paginator("describe_alarms").paginate(AlarmNamePrefix=run):
        for name in [alarm["AlarmName"] for alarm in page["MetricAlarms"]]:
            if belongs(name, run):
                yield Found("alarm", name, partial(watch.delete_alarms, AlarmNames=[name]))


def _logs(session: boto3.Session, run: str) -> Iterator[Found]:
    """Log streams of the run's jobs, and log groups of its endpoints."""
    logs = session.client("logs")
    for group in ("/aws/sagemaker/TrainingJobs", "/aws/sagemaker/ProcessingJobs"):
        pages = logs.get_paginator("describe_log_streams").paginate(logGroupName=group, logStreamNamePrefix=run)
        try:
            names = [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
        except logs.exceptions.ResourceNotFoundException:
            continue
        for name in names:
            if belongs(name, run):
                yield Found("log stream", name, partial(logs.delete_log_stream, logGroupName=group, logStreamName=name))
    prefix = "/aws/sagemaker/Endpoints/"
    for page in logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=f"{prefix}{run}"):
        for name in [group["logGroupName"] for group in page["logGroups"]]:
            if belongs(name.removeprefix(prefix), run):
                yield Found("log group", name, partial(logs.delete_log_group, logGroupName=name))


def _objects(session: boto3.Session, run: str, bucket: str) -> Iterator[Found]:
    """Objects of the run, with all versions if the bucket keeps them, one entry for each folder of the bucket.

    A bucket that can't be listed is an entry, too, whose deletion says why: its name must not keep the endpoints running.
    """
    s3, folders = session.client("s3"), {}
    try:
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=run):
            for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                if belongs(item["Key"], run):
                    version = {name: item[name] for name in ("Key", "VersionId")}
                    folders.setdefault(item["Key"].partition("/")[0], []).append(version)
    except ClientError as error:
        yield Found("files in bucket", bucket, partial(_refuse, error))
    for folder, versions in folders.items():
        yield Found(f"{len(versions)} objects in S3", folder, partial(_delete_objects, s3, bucket, versions))


def _refuse(error: ClientError) -> None:
    raise error


def _delete_objects(s3, bucket: str, versions: list[dict[str, str]]) -> None:
    for start in range(0, len(versions), 1000):  # AWS takes no more at a time
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": versions[start : start + 1000], "Quiet": True})
        for error in answer.get("Errors", []):  # the call itself succeeds
            raise ClientError({"Error": error}, "DeleteObjects")
