"""Run processing jobs: inputs from S3, one container a machine, outputs back to S3 at the end or as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from sagemaker_rehearsal.containers import Container
from sagemaker_rehearsal.limits import DAY, FAILURE_CHARACTERS, invalid
from sagemaker_rehearsal.logs import Tail
from sagemaker_rehearsal.objects import Mirror
from sagemaker_rehearsal.records import Record
from sagemaker_rehearsal.world import World

GROUP = "/aws/sagemaker/ProcessingJobs"


def run_processing(world: World, record: Record) -> None:
    """Run a processing job, and leave its outputs in S3 and its end in the record.

    Outputs with the mode ``EndOfJob`` go up only if every machine succeeded; with ``Continuous`` as they are written.
    """
    request = record.request
    count = request["ProcessingResources"]["ClusterConfig"]["InstanceCount"]
    names = [f"algo-{number + 1}" for number in range(count)]
    application = request["AppSpecification"]
    command = [*(application.get("ContainerEntrypoint") or []), *(application.get("ContainerArguments") or [])]
    if not command:
        raise invalid("The image of a rehearsal has no program of its own: give a ContainerEntrypoint.")
    environment = {"PROCESSING_JOB_NAME": record.name, **(request.get("Environment") or {})}
    record.update(ProcessingStartTime=time.time())
    started = []
    with world.folder() as (work, ending):
        for number, name in enumerate(names):
            root = work / name / "ml"
            mirrors = _lay_out(world, request, root, number, names)
            container = Container(world.machine, root, command, environment=environment, hosts=names)
            ending.callback(container.kill)
            stream = f"{record.name}/{name}-{int(time.time() * 1000)}"
            started.append((container, Tail(world.logs, GROUP, stream, container=container), mirrors))
        limit = (request.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds", DAY)
        outcome = _follow(world, record, started, limit)
        failed = [(container, tail) for container, tail, _ in started if container.status]
        if outcome == "Ended" and not failed:
            for _, _, mirrors in started:
                for mirror, _ in mirrors:
                    mirror.up()
        message = _exit_message(started)
    status = {"Ended": "Failed" if failed else "Completed", "Stopped": "Stopped"}.get(outcome, "Failed")
    reason = None
    if status == "Failed":
        said = f"AlgorithmError: {failed[0][1].last}, exit code: {failed[0][0].status}" if outcome == "Ended" else outcome
        reason = said[:FAILURE_CHARACTERS]
    record.update(ProcessingJobStatus=status, FailureReason=reason, ExitMessage=message, ProcessingEndTime=time.time())


def _follow(world: World, record: Record, started: list, limit: float) -> str:
    begun, outcome = time.time(), "Ended"
    while any(container.running for container, _, _ in started) and outcome == "Ended":
        for _, _, mirrors in started:
            for mirror, continuous in mirrors:
                if continuous:
                    mirror.up()
        if record.stop.is_set():
            outcome = "Stopped"
        elif time.time() - begun > limit:
            outcome = f"ClientError: Job exceeded MaxRuntimeInSeconds of {limit}"
        time.sleep(0.1)
    for container, tail, _ in started:
        container.stop(world.grace)
        tail.join()
    return outcome


def _lay_out(world: World, request: Mapping, root: Path, number: int, names: list[str]) -> list[tuple[Mirror, bool]]:
    """Fetch the inputs, make the folders of the outputs; the mirrors of those, and whether they go up as they come."""
    (root / "config").mkdir(parents=True)
    resources = {"current_host": names[number], "hosts": names, "network_interface_name": "lo"}
    (root / "config/resourceconfig.json").write_text(json.dumps(resources), encoding="utf-8")
    for item in request.get("ProcessingInputs") or []:
        source = item["S3Input"]
        if not world.objects.fetch(source, _local(root, source), host=number, hosts=len(names)) and number == 0:
            raise invalid(f"ClientError: No S3 objects found under S3 URL {source['S3Uri']} given in input data source.")
    mirrors = []
    for item in (request.get("ProcessingOutputConfig") or {}).get("Outputs") or []:
        target = item["S3Output"]
        folder = _local(root, target)
        folder.mkdir(parents=True, exist_ok=True)
        mirrors.append((Mirror(world.objects, folder, target["S3Uri"]), target["S3UploadMode"] == "Continuous"))
    return mirrors


def _local(root: Path, place: Mapping) -> Path:
    return root / place["LocalPath"].removeprefix("/opt/ml/")


def _exit_message(started: list) -> str | None:
    for container, _, _ in started:
        path = container.root / "output/message"
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")[:FAILURE_CHARACTERS]
    return None
