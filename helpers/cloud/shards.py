"""Preparing a cohort on several machines: one processing job a shard of cases, so that a lost one is redone alone.

Every shard runs ``python -m helpers preprocess`` on the cases that its manifest lists. Sharding by S3 key, which SageMaker
offers, would tear the files of a case apart.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.cloud.account import Account, mask, training_image
from helpers.cloud.storage import files_of, put_text, upload_changed
from helpers.data.cases import Case
from helpers.workspace import DataError

INPUT, OUTPUT, CODE = (f"/opt/ml/processing/{name}" for name in ("cohort", "prepared", "code"))
SCRIPT = """#!/bin/sh
set -e
cd "$(dirname "$0")"
python3 -m pip install --quiet -r requirements.txt
exec python3 -m helpers preprocess "$@"
"""
ENDED = {"Completed", "Failed", "Stopped"}


@dataclass(frozen=True)
class Shard:
    """Cases that one machine prepares: the shard's number and the location of its manifest in S3."""

    number: int
    cases: tuple[str, ...]
    manifest: str


def upload_cohort(account: Account, run: str, cases: Sequence[Case], *, folder: Path) -> tuple[str, object]:
    """Bring the files of cases to S3, those that have changed; returns the cohort's location and what travelled."""
    files = {path.relative_to(folder).as_posix(): path for case in cases for path in case.files}
    uri = account.uri(run, "cohort")
    return uri, upload_changed(account.client("s3"), files, uri)


def make_shards(account: Account, run: str, cases: Sequence[Case], *, folder: Path, count: int) -> list[Shard]:
    """Deal cases out to `count` machines and write a manifest for each.

    Raises
    ------
    DataError
        If there are fewer cases than machines.
    """
    if not 1 <= count <= len(cases):
        raise DataError(f"{len(cases)} cases cannot be dealt out to {count} machines", f"ask for 1 to {len(cases)}")
    shards = []
    for number in range(count):
        own = cases[number::count]
        names = [path.relative_to(folder).as_posix() for case in own for path in case.files]
        content = json.dumps([{"prefix": account.uri(run, "cohort/")}, *names])
        place = put_text(account.client("s3"), account.uri(run, "shards", f"{number:03}.json"), content)
        shards.append(Shard(number, tuple(case.identifier for case in own), place))
    return shards


def upload_source(account: Account, run: str, source: Path) -> str:
    """Bring staged source code to S3 with the script that a shard runs; returns its location."""
    script = source / "preprocess.sh"
    script.write_text(SCRIPT, encoding="utf-8")
    uri = account.uri(run, "code")
    upload_changed(account.client("s3"), files_of(source), uri)
    return uri


def start_shard(
    account: Account,
    run: str,
    shard: Shard,
    *,
    code: str,
    options: Sequence[str] = (),
    instance_type: str = "ml.m5.xlarge",
    attempt: int = 0,
) -> str:
    """Start the processing job of a shard; returns its name.

    Parameters
    ----------
    code : str
        What `upload_source` returned.
    options : sequence of str
        Of ``python -m helpers preprocess``, such as ``("--spacing", "2")``.
    """
    name = f"{run}-shard-{shard.number:03}-{attempt}"
    inputs = [("code", code, CODE, "S3Prefix"), ("cohort", shard.manifest, INPUT, "ManifestFile")]
    output = {"S3Uri": account.uri(run, "prepared"), "LocalPath": OUTPUT, "S3UploadMode": "EndOfJob"}
    account.client("sagemaker").create_processing_job(
        ProcessingJobName=name,
        RoleArn=account.role,
        AppSpecification={
            "ImageUri": training_image(account, "ml.g5.xlarge"),
            "ContainerEntrypoint": ["sh", f"{CODE}/preprocess.sh"],
            "ContainerArguments": [INPUT, "--out", OUTPUT, *options],
        },
        ProcessingResources={"ClusterConfig": {"InstanceCount": 1, "InstanceType": instance_type, "VolumeSizeInGB": 30}},
        ProcessingInputs=[
            {
                "InputName": label,
                "S3Input": {
                    "S3Uri": uri,
                    "LocalPath": place,
                    "S3DataType": kind,
                    "S3InputMode": "File",
                    "S3DataDistributionType": "FullyReplicated",
                },
            }
            for label, uri, place, kind in inputs
        ],
        ProcessingOutputConfig={"Outputs": [{"OutputName": "prepared", "S3Output": output}]},
        StoppingCondition={"MaxRuntimeInSeconds": 4 * 3600},
    )
    return name


def wait_for_shards(
    account: Account,
    shards: Sequence[Shard],
    start: Callable[[Shard, int], str],
    *,
    attempts: int = 2,
    report: Callable[[str], None] = lambda line: None,
) -> dict[int, str]:
    """Run all shards at the same time, and those that fail once more, alone.

    Parameters
    ----------
    start : callable
        ``start(shard, attempt)`` starts a job and returns its name, as `start_shard` does.
    attempts : int
        How often a shard is tried in all.

    Returns
    -------
    dict from int to str
        Name of the job that succeeded, by the number of its shard.

    Raises
    ------
    DataError
        If a shard fails every time: with its cases and the reason.
    """
    sagemaker = account.client("sagemaker")
    running = {shard.number: (shard, 0, start(shard, 0)) for shard in shards}
    done: dict[int, str] = {}
    while running:
        for number, (shard, attempt, name) in list(running.items()):
            job = sagemaker.describe_processing_job(ProcessingJobName=name)
            if job["ProcessingJobStatus"] not in ENDED:
                continue
            del running[number]
            if job["ProcessingJobStatus"] == "Completed":
                done[number] = name
                report(f"shard {number}: {len(shard.cases)} cases prepared")
                continue
            reason = mask(job.get("FailureReason", "it was stopped"))
            if attempt + 1 >= attempts:
                raise DataError(
                    f"shard {number} ({', '.join(shard.cases)}) failed {attempts} times: {reason}", "look at the endpoint's log"
                )
            report(f"shard {number}: lost ({reason}); once more, alone")
            running[number] = (shard, attempt + 1, start(shard, attempt + 1))
        time.sleep(0.2 if account.rehearsal else 10)
    return dict(sorted(done.items()))
