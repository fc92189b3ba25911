"""Run training jobs: real processes with SageMaker's ``/opt/ml`` contract, on spot machines that can be taken away."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sagemaker_rehearsal.containers import Container
from sagemaker_rehearsal.limits import DAY, FAILURE_CHARACTERS, invalid
from sagemaker_rehearsal.logs import Tail, compile_metrics
from sagemaker_rehearsal.objects import Mirror
from sagemaker_rehearsal.records import Record
from sagemaker_rehearsal.world import World

GROUP = "/aws/sagemaker/TrainingJobs"
SYNC = 0.5
"""Seconds between two looks at the checkpoints."""
KILLED = (128 + signal.SIGTERM, 128 + signal.SIGKILL)
PAID = ("Downloading", "Training", "Uploading")  # AWS bills these stages, the wait for a machine it does not


@dataclass
class Host:
    """One machine of an attempt: its folder, container, output and checkpoints."""

    name: str
    root: Path
    container: Container
    tail: Tail
    mirror: Mirror | None


@dataclass
class Course:
    """Output, metrics and times over all attempts."""

    record: Record
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=1000))
    metrics: dict[str, dict] = field(default_factory=dict)
    trained: float = 0.0
    started: float = field(default_factory=time.time)

    def hear(self, line: str) -> None:
        """Take a line of output, and the metrics in it."""
        self.lines.append(line)
        definitions = self.record.request["AlgorithmSpecification"].get("MetricDefinitions")
        for name, pattern in compile_metrics(definitions).items():
            with suppress(ValueError, TypeError):  # what matches need not be a number
                if (found := pattern.search(line)) and math.isfinite(value := float(found[1])):  # CloudWatch takes no others
                    self.metrics[name] = {"MetricName": name, "Value": value, "Timestamp": time.time()}
                    self.record.update(FinalMetricDataList=list(self.metrics.values()))

    def enter(self, status: str, message: str = "") -> None:
        """Go to a secondary status."""
        now = time.time()
        passed = [dict(one) for one in self.record.facts.get("SecondaryStatusTransitions", [])]
        if passed:
            passed[-1].setdefault("EndTime", now)
        passed.append({"Status": status, "StartTime": now, "StatusMessage": message or status})
        self.record.update(SecondaryStatus=status, SecondaryStatusTransitions=passed)


def run_training(world: World, record: Record) -> None:
    """Run a training job from its first to its last attempt, and leave its result in S3 and in the record."""
    course = Course(record)
    course.enter("Starting", "Preparing the instances for training")
    attempt = 0
    with world.folder() as (work, ending):
        while True:
            # AWS counts the download too
            record.update(TrainingStartTime=record.facts.get("TrainingStartTime", time.time()))
            hosts, begun = _begin(world, course, work / f"attempt-{attempt}", ending), time.time()
            outcome = _follow(world, course, hosts)
            course.trained += time.time() - begun
            if outcome != "Interrupted":
                break
            course.enter("Interrupted", "The spot capacity was taken away; training starts again with the last checkpoint")
            shutil.rmtree(work / f"attempt-{attempt}", ignore_errors=True)
            course.enter("Starting", "Preparing the instances for training")
            attempt += 1
            course.lines.clear()
        course.enter("Uploading", "Uploading generated training model")
        _save_results(world, record.request, record, hosts)
        _finish(record, course, outcome, hosts)


def _begin(world: World, course: Course, folder: Path, ending: ExitStack) -> list[Host]:
    """Fetch channels and checkpoints, and start the containers of all machines; none of them outlives `ending`."""
    record, request = course.record, course.record.request
    count = request["ResourceConfig"].get("InstanceCount", 1)
    names = [f"algo-{number + 1}" for number in range(count)]
    course.enter("Downloading", "Downloading input data")
    mirrors = []
    for number, name in enumerate(names):
        root = folder / name / "ml"
        _lay_out(world, request, root, number, names)
        checkpoints = request.get("CheckpointConfig")
        local = root.joinpath((checkpoints or {}).get("LocalPath", "/opt/ml/checkpoints").removeprefix("/opt/ml/"))
        local.mkdir(parents=True, exist_ok=True)
        mirrors.append(Mirror(world.objects, local, checkpoints["S3Uri"]) if checkpoints else None)
        if checkpoints:
            mirrors[-1].down()
    course.enter("Training", "Training image download completed. Training in progress.")
    hosts = []
    for name, mirror in zip(names, mirrors, strict=True):
        root = folder / name / "ml"
        container = Container(world.machine, root, _command(request), environment=_environment(request, record), hosts=names)
        ending.callback(container.kill)
        stream = f"{record.name}/{name}-{int(time.time() * 1000)}"
        tail = Tail(world.logs, GROUP, stream, container=container, heard=course.hear)
        hosts.append(Host(name, root, container, tail, mirror))
    return hosts


def _command(request: Mapping) -> list[str]:
    specification = request["AlgorithmSpecification"]
    return [*(specification.get("ContainerEntrypoint") or ["train"]), *(specification.get("ContainerArguments") or [])]


def _environment(request: Mapping, record: Record) -> dict[str, str]:
    own = {"TRAINING_JOB_NAME": record.name, "TRAINING_JOB_ARN": record.arn}
    return {**own, **(request.get("Environment") or {})}


def _lay_out(world: World, request: Mapping, root: Path, number: int, names: list[str]) -> None:
    """The folders and files that a container finds below ``/opt/ml``."""
    for part in ("input/config", "input/data", "output/data", "model"):
        (root / part).mkdir(parents=True)
    described = {}
    for channel in request.get("InputDataConfig") or []:
        source = channel["DataSource"]["S3DataSource"]
        target = root / "input/data" / channel["ChannelName"]
        if not world.objects.fetch(source, target, host=number, hosts=len(names)) and number == 0:
            raise invalid(f"ClientError: No S3 objects found under S3 URL {source['S3Uri']} given in input data source.")
        described[channel["ChannelName"]] = {
            "TrainingInputMode": channel.get("InputMode", "File"),
            "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
            "RecordWrapperType": "None",
        }
    resources = {
        "current_host": names[number],
        "hosts": names,
        "network_interface_name": "lo",
        "current_instance_type": request["ResourceConfig"].get("InstanceType", "ml.m5.xlarge"),
    }
    written = {
        "hyperparameters": request.get("HyperParameters") or {},
        "inputdataconfig": described,
        "resourceconfig": resources,
    }
    for name, content in written.items():
        (root / "input/config" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def _follow(world: World, course: Course, hosts: list[Host]) -> str:
    """Watch an attempt to its end: "Ended", "Stopped", "Interrupted", "MaxRuntimeExceeded" or "MaxWaitTimeExceeded"."""
    record, request = course.record, course.record.request
    stopping = request.get("StoppingCondition") or {}
    runtime, wait = stopping.get("MaxRuntimeInSeconds", DAY), stopping.get("MaxWaitTimeInSeconds")
    begun, outcome, notice = time.time(), "Ended", True
    next_look = 0.0
    while any(host.container.running for host in hosts):
        if time.time() >= next_look:
            _synchronise(hosts)
            next_look = time.time() + SYNC
        if any(host.container.status for host in hosts):
            break  # one machine has failed: the others wait for it in vain
        wish = world.due(record.name, tuple(course.lines)) if request.get("EnableManagedSpotTraining") else None
        if wish is not None:
            outcome, notice = "Interrupted", wish.notice
        elif record.stop.is_set():
            outcome = "Stopped"
        elif course.trained + time.time() - begun > runtime:
            outcome = "MaxRuntimeExceeded"
        elif wait is not None and time.time() - course.started > wait:
            outcome = "MaxWaitTimeExceeded"
        if outcome != "Ended":
            break
        time.sleep(0.05)
    for host in hosts:
        host.container.terminate() if notice else host.container.kill()
    for host in hosts:
        host.container.stop(world.grace)
        host.tail.join()
    if notice:
        _synchronise(hosts)
    return outcome


def _synchronise(hosts: list[Host]) -> None:
    for host in hosts:
        if host.mirror is not None:
            host.mirror.up()


def _save_results(world: World, request: Mapping, record: Record, hosts: list[Host]) -> None:
    """``model`` and ``output/data`` of all machines, packed unless the job asks for plain files."""
    config = request["OutputDataConfig"]
    base = f"{config['S3OutputPath'].rstrip('/')}/{record.name}/output"
    for name, part in (("model", "model"), ("output", "output/data")):
        folders = [host.root / part for host in hosts]
        if config.get("CompressionType") == "NONE":
            location = f"{base}/{name}/"
            there = sum(world.objects.bring(folder, location) for folder in folders) > 0
        else:
            location = f"{base}/{name}.tar.gz"
            there = world.objects.pack(folders, location)
        if there and name == "model":
            record.update(ModelArtifacts={"S3ModelArtifacts": location})


def _finish(record: Record, course: Course, outcome: str, hosts: list[Host]) -> None:
    failures = [host for host in hosts if host.container.status]
    failures.sort(key=lambda host: host.container.status in KILLED)  # those that failed by themselves first
    failed = failures[0] if failures else None
    status, reason = "Completed", None
    if outcome != "Ended":
        status = "Stopped"
    elif failed is not None:
        status = "Failed"
        note = failed.root / "output/failure"
        said = note.read_text(encoding="utf-8", errors="replace") if note.is_file() else failed.tail.last
        reason = f"AlgorithmError: {said.strip()}, exit code: {failed.container.status}"[:FAILURE_CHARACTERS]
    course.enter(outcome if outcome.startswith("Max") else status, reason or "")
    stages = [one for one in record.facts["SecondaryStatusTransitions"] if one["Status"] in PAID]
    billed = sum(one["EndTime"] - one["StartTime"] for one in stages)
    record.update(
        TrainingJobStatus=status,
        FailureReason=reason,
        TrainingEndTime=time.time(),
        TrainingTimeInSeconds=max(1, round(time.time() - record.facts["TrainingStartTime"])),
        BillableTimeInSeconds=max(1, round(billed)),
    )
