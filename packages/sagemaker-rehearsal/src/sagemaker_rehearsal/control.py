"""Answer the calls of SageMaker's control plane: keep requests, and start jobs and endpoints.

moto answers for S3, IAM, STS, CloudWatch, autoscaling and the rest of SageMaker. The calls about jobs, models and endpoints
are answered here, because in moto a job is over as soon as it is made.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from botocore import xform_name
from moto.sagemaker.responses import SageMakerResponse

from sagemaker_rehearsal import limits
from sagemaker_rehearsal.endpoints import Endpoints
from sagemaker_rehearsal.limits import AwsError
from sagemaker_rehearsal.processing import run_processing
from sagemaker_rehearsal.records import KINDS, Kind, Record
from sagemaker_rehearsal.training import run_training
from sagemaker_rehearsal.tuning import Trials, begin_tuning, run_tuning
from sagemaker_rehearsal.world import World

JOBS = ("TrainingJob", "ProcessingJob", "HyperParameterTuningJob")
PAGE = 10
"""How many resources a listing names at a time, unless ``MaxResults`` says otherwise."""
NOT_REHEARSED = (
    "CreateAutoMLJobV2",
    "CreateCompilationJob",
    "CreateInferenceComponent",
    "CreateTransformJob",
    "Search",
    "StartPipelineExecution",
    "UpdateEndpoint",
    "UpdateEndpointWeightsAndCapacities",
)
"""What moto would answer as if it had been done, or, as Search, without the jobs of the rehearsal."""


class ControlPlane:
    """Answers the calls of ``X-Amz-Target: SageMaker.*`` that it has an operation for."""

    def __init__(self, world: World) -> None:
        self.world, self.records = world, world.records
        self.endpoints = Endpoints(world)
        self.trials = Trials(self.start)
        self.operations: dict[str, Callable[[dict], dict]] = {
            **{name: partial(_refuse, name) for name in (*NOT_REHEARSED, *_unknown_to_moto())},
            "ListTrainingJobsForHyperParameterTuningJob": self._list_trials,
            "AddTags": self._add_tags,
            "DeleteTags": self._delete_tags,
            "ListTags": self._list_tags,
        }
        for kind in KINDS.values():
            self.operations |= self._operations(kind)

    def _operations(self, kind: Kind) -> dict[str, Callable[[dict], dict]]:
        plural = f"List{kind.name}s"
        operations = {
            f"Create{kind.name}": lambda request: {kind.arn_key: self.start(kind.name, request).arn},
            f"Describe{kind.name}": lambda request: self.records.get(kind.name, request[kind.key]).describe(),
            plural: lambda request: _page(kind.summaries, [one.summary() for one in self._wanted(kind, request)], request),
            f"Delete{kind.name}": lambda request: self._delete(kind, request),
        }
        if kind.name in JOBS:
            operations[f"Stop{kind.name}"] = lambda request: self._stop(kind, request)
        return operations

    def start(self, kind: str, request: Mapping) -> Record:
        """Check a request, make its record, and start what it asks for."""
        limits.check(kind, request)
        if kind == "EndpointConfig":
            for variant in request["ProductionVariants"]:
                self.records.get("Model", variant["ModelName"])
        if kind == "Endpoint":
            self.records.get("EndpointConfig", request["EndpointConfigName"])
        if kind not in (*JOBS, "Endpoint"):
            return self.records.create(kind, request)
        first = "Creating" if kind == "Endpoint" else "InProgress"
        record = self.records.create(kind, request, **{f"{kind}Status": first})
        if kind == "HyperParameterTuningJob":
            begin_tuning(self.trials, record)
        work = {
            "TrainingJob": lambda: run_training(self.world, record),
            "ProcessingJob": lambda: run_processing(self.world, record),
            "HyperParameterTuningJob": lambda: run_tuning(self.trials, record),
            "Endpoint": lambda: self.endpoints.start(record),
        }[kind]
        threading.Thread(target=_guarded, args=(work, record), daemon=True, name=record.name).start()
        return record

    def _wanted(self, kind: Kind, request: Mapping) -> list[Record]:
        found = self.records.list(kind.name)
        if text := request.get("NameContains"):
            found = [one for one in found if text in one.name]
        if status := request.get("StatusEquals"):
            found = [one for one in found if one.status == status]
        for field in ("CreationTime", "LastModifiedTime"):
            if since := request.get(f"{field}After"):
                found = [one for one in found if one.describe()[field] > since]
            if until := request.get(f"{field}Before"):
                found = [one for one in found if one.describe()[field] < until]
        by = request.get("SortBy", "Name" if kind.name == "HyperParameterTuningJob" else "CreationTime")
        if by in {"Name", "Status"}:
            found.sort(key=lambda one: one.name if by == "Name" else one.status)
        if request.get("SortOrder", "Ascending" if kind.name in JOBS else "Descending") == "Descending":
            found.reverse()
        return found

    def _list_trials(self, request: Mapping) -> dict:
        found = self.trials.summaries(self.records.get("HyperParameterTuningJob", request["HyperParameterTuningJobName"]))
        if status := request.get("StatusEquals"):
            found = [one for one in found if one["TrainingJobStatus"] == status]
        by, objective = request.get("SortBy", "Name"), "FinalHyperParameterTuningJobObjectiveMetric"
        if by == "FinalObjectiveMetricValue":
            found = [one for one in found if objective in one]
        found.sort(
            key={
                "Name": lambda one: one["TrainingJobName"],
                "CreationTime": lambda one: one["CreationTime"],
                "Status": lambda one: one["TrainingJobStatus"],
                "FinalObjectiveMetricValue": lambda one: one[objective]["Value"],
            }[by],
            reverse=request.get("SortOrder") == "Descending",
        )
        return _page("TrainingJobSummaries", found, request)

    def _stop(self, kind: Kind, request: Mapping) -> dict:
        record = self.records.get(kind.name, request[kind.key])
        with record.lock:  # it may end meanwhile
            if record.status not in {"InProgress", "Stopping"}:
                raise limits.invalid(f"The request was rejected because the {kind.path} is in status {record.status}.")
            record.update(**{kind.status_key: "Stopping"})
        record.stop.set()
        return {}

    def _delete(self, kind: Kind, request: Mapping) -> dict:
        record = self.records.get(kind.name, request[kind.key])
        if kind.name != "Endpoint":
            self.records.delete(kind.name, record.name)
            return {}
        with record.lock:  # two may ask at once
            if record.status in {"Creating", "Deleting"}:
                raise limits.invalid(f'Cannot update in-progress endpoint "{record.name}".')
            record.update(EndpointStatus="Deleting")
        threading.Thread(target=self._remove_endpoint, args=(record,), daemon=True, name=record.name).start()
        return {}

    def _remove_endpoint(self, record: Record) -> None:
        """End what serves an endpoint, which may take long; it is listed until then."""
        try:
            self.endpoints.stop(record)
        finally:
            self.records.delete("Endpoint", record.name)

    def _add_tags(self, request: Mapping) -> dict:
        record = self._tagged(request)
        added = {tag["Key"]: tag for tag in [*(record.request.get("Tags") or []), *request["Tags"]]}
        record.request = {**record.request, "Tags": list(added.values())}
        return {"Tags": record.request["Tags"]}

    def _delete_tags(self, request: Mapping) -> dict:
        record = self._tagged(request)
        kept = [tag for tag in record.request.get("Tags") or [] if tag["Key"] not in request["TagKeys"]]
        record.request = {**record.request, "Tags": kept}
        return {}

    def _list_tags(self, request: Mapping) -> dict:
        return {"Tags": self._tagged(request).request.get("Tags") or []}

    def _tagged(self, request: Mapping) -> Record:
        record = self.records.by_arn(request["ResourceArn"])
        if record is None:
            raise AwsError("ResourceNotFound", "Requested resource not found.")
        return record


def _page(key: str, found: list[dict], request: Mapping) -> dict:
    """The part of a listing that a request asks for; the token is the number of those before the next part."""
    first = int(request.get("NextToken") or 0)
    end = first + request.get("MaxResults", PAGE)
    return {key: found[first:end], **({"NextToken": str(end)} if end < len(found) else {})}


def _unknown_to_moto() -> Iterator[str]:
    """The calls at which moto breaks down with a page of HTML."""
    for name in limits.service_model().operation_names:
        if not hasattr(SageMakerResponse, xform_name(name)):
            yield name


def _refuse(operation: str, request: Mapping) -> dict:
    raise limits.invalid(f"The rehearsal does not know {operation}; try it in AWS.")


def _guarded(work: Callable[[], None], record: Record) -> None:
    """Do the work of a job; whatever goes wrong ends in the status of its record."""
    try:
        work()
    except Exception as error:
        reason = error.message if isinstance(error, AwsError) else f"InternalServerError: {type(error).__name__}: {error}"
        more = {"SecondaryStatus": "Failed"} if record.kind.name == "TrainingJob" else {}
        end = {"TrainingJob": "TrainingEndTime", "ProcessingJob": "ProcessingEndTime"}
        if record.kind.name in end:
            more[end[record.kind.name]] = time.time()
        record.update(FailureReason=reason[: limits.FAILURE_CHARACTERS], **{record.kind.status_key: "Failed"}, **more)
