"""Batch transform: every object below a prefix through a model that is started for it, one answer beside the other."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import requests

from helpers.cloud.rehearsal import limits
from helpers.cloud.rehearsal.hosting import Server, start_server
from helpers.cloud.rehearsal.limits import AwsError, invalid
from helpers.cloud.rehearsal.objects import split_uri
from helpers.cloud.rehearsal.records import Record
from helpers.cloud.rehearsal.world import World

GROUP = "/aws/sagemaker/TransformJobs"


def run_transform(world: World, record: Record) -> None:
    """Run a transform job; the answer to ``<prefix>/a.npz`` becomes ``<output>/a.npz.out``."""
    request = record.request
    source = request["TransformInput"]["DataSource"]["S3DataSource"]
    bucket, _ = split_uri(source["S3Uri"])
    if source.get("S3DataType") == "ManifestFile":
        found = world.objects.manifest(source["S3Uri"])
    else:
        found = [(f"s3://{bucket}/{key}", name) for key, name in world.objects.list(source["S3Uri"])]
    if not found:
        raise invalid(f"ClientError: No S3 objects found under {source['S3Uri']}.")
    model = world.records.get("Model", request["ModelName"]).request
    record.update(TransformStartTime=time.time())
    server = start_server(world, model, record.name, group=GROUP)
    reason = None
    try:
        with ThreadPoolExecutor(request.get("MaxConcurrentTransforms") or 1) as pool:
            for done in [pool.submit(_one, world, record, server, *item) for item in found]:
                done.result()
    except AwsError as error:
        reason = error.message
    finally:
        server.container.stop(world.grace)
    status = "Stopped" if record.stop.is_set() else "Failed" if reason else "Completed"
    record.update(TransformJobStatus=status, FailureReason=reason, TransformEndTime=time.time())


def _one(world: World, record: Record, server: Server, location: str, name: str) -> None:
    """One object through the model."""
    if record.stop.is_set():
        return
    request = record.request
    body = world.objects.read(location)
    most = request.get("MaxPayloadInMB", limits.BATCH_DEFAULT_MIB)
    if most and len(body) > most * limits.MIB:
        raise invalid(f"ClientError: {location} has {len(body)} bytes, more than MaxPayloadInMB of {most}.")
    client = request.get("ModelClientConfig") or {}
    seconds = client.get("InvocationsTimeoutInSeconds", 600)
    headers = {
        "Content-Type": request["TransformInput"].get("ContentType", ""),
        "Accept": request["TransformOutput"].get("Accept", ""),
    }
    said = ""
    for _ in range(1 + client.get("InvocationsMaxRetries", 3)):
        try:
            answer = server.invoke(body, headers, seconds=min(seconds, limits.BATCH_SECONDS))
        except requests.RequestException as error:
            said = f"no answer ({type(error).__name__})"
            continue
        if answer.status_code == 200:
            target = request["TransformOutput"]["S3OutputPath"].rstrip("/")
            world.objects.write(f"{target}/{name}.out", answer.content)
            return
        said = f"status {answer.status_code}: {answer.text[:500]}"
        if answer.status_code < 500:
            break  # a client error stays one
    raise AwsError("AlgorithmError", f"AlgorithmError: {location}: {said}")
