"""Keep the requests for jobs, models and endpoints, and what became of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from sagemaker_rehearsal.limits import AwsError, invalid

ACCOUNT = "123456789012"
"""The account that moto plays."""

KEY = "rehearsal"
"""Access key, and secret, of every rehearsal."""


@dataclass(frozen=True)
class Kind:
    """One kind of resource.

    Attributes
    ----------
    name : str
        As in ``Create<name>``.
    path : str
        Of its ARN.
    summaries : str
        Key of what ``List<name>s`` answers.
    shown : tuple of str
        Fields of a summary besides name, ARN and creation time.
    missing : str
        Error code if there is none of that name.
    """

    name: str
    path: str
    summaries: str
    shown: tuple[str, ...] = ()
    missing: str = "ResourceNotFound"

    @property
    def key(self) -> str:
        """Field that holds the name."""
        return f"{self.name}Name"

    @property
    def arn_key(self) -> str:
        """Field that holds the ARN."""
        return f"{self.name}Arn"

    @property
    def status_key(self) -> str:
        """Field that holds the status."""
        return f"{self.name}Status"


def _job(name: str, path: str, *shown: str, **more: str) -> Kind:
    return Kind(name, path, f"{name}Summaries", (f"{name}Status", "LastModifiedTime", *shown), **more)


KINDS = {
    kind.name: kind
    for kind in (
        # Not ResourceNotFound, whatever the service model says: https://github.com/aws/aws-sdk/issues/165
        _job("TrainingJob", "training-job", "TrainingEndTime", "SecondaryStatus", missing="ValidationException"),
        _job("ProcessingJob", "processing-job", "ProcessingEndTime", "FailureReason"),
        _job(
            "HyperParameterTuningJob",
            "hyper-parameter-tuning-job",
            *("Strategy", "HyperParameterTuningEndTime", "ResourceLimits"),
            *("TrainingJobStatusCounters", "ObjectiveStatusCounters"),
        ),
        Kind("Model", "model", "Models", missing="ValidationException"),
        Kind("EndpointConfig", "endpoint-config", "EndpointConfigs", missing="ValidationException"),
        Kind("Endpoint", "endpoint", "Endpoints", ("LastModifiedTime", "EndpointStatus"), missing="ValidationException"),
    )
}


@dataclass
class Record:
    """One resource.

    Attributes
    ----------
    kind : Kind
    name : str
    request : mapping
        What made it.
    facts : dict
        What came about since: status, times, reasons, as AWS names them.
    stop : Event
        Set when somebody asks to stop it.
    lock : RLock
        Held while facts change.
    """

    kind: Kind
    name: str
    arn: str
    request: Mapping
    facts: dict = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    created: float = field(default_factory=time.time)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def update(self, **facts: object) -> None:
        """Note facts and the time; a fact that is None is removed."""
        with self.lock:
            now = {**self.facts, **facts, "LastModifiedTime": time.time()}
            self.facts = {name: value for name, value in now.items() if value is not None}

    @property
    def status(self) -> str:
        """Its status; empty for what has none."""
        return self.facts.get(self.kind.status_key, "")

    def describe(self) -> dict:
        """As ``Describe...`` answers: nothing empty in it, on which the SDK stumbles."""
        request = {name: value for name, value in self.request.items() if name != "Tags" and value not in (None, {}, [])}
        return {**request, self.kind.arn_key: self.arn, "CreationTime": self.created, **self.facts}

    def summary(self) -> dict:
        """As in the answer of ``List...``."""
        whole = self.describe()
        wanted = (self.kind.key, self.kind.arn_key, "CreationTime", *self.kind.shown)
        return {name: whole[name] for name in wanted if name in whole}


class Records:
    """All resources of a rehearsal, by kind and name. Safe to use from several threads."""

    def __init__(self, region: str) -> None:
        self.region = region
        self._lock = threading.Lock()
        self._all: dict[tuple[str, str], Record] = {}

    def create(self, kind: str, request: Mapping, **facts: object) -> Record:
        """Add a new one; raises `AwsError` if its name is taken."""
        what = KINDS[kind]
        name = request[what.key]
        arn = f"arn:aws:sagemaker:{self.region}:{ACCOUNT}:{what.path}/{name}"
        record = Record(what, name, arn, dict(request))
        record.update(**facts)
        with self._lock:
            if (kind, name) in self._all:
                code = "ResourceInUse" if what.name.endswith("Job") else what.missing  # the SDK tells them apart
                raise AwsError(code, f'Cannot create already existing {what.path} "{arn}".')
            self._all[kind, name] = record
        return record

    def get(self, kind: str, name: str) -> Record:
        """Find the one of that name; raises `AwsError` if there is none."""
        record = self._all.get((kind, name))
        if record is None:
            what = KINDS[kind]
            words = "Requested resource not found." if what.name.endswith("Job") else f'Could not find {what.path} "{name}".'
            raise AwsError(what.missing, words)
        return record

    def list(self, kind: str) -> list[Record]:
        """All of a kind, in the order of their making."""
        with self._lock:
            return sorted((one for (name, _), one in self._all.items() if name == kind), key=lambda one: one.created)

    def delete(self, kind: str, name: str) -> Record:
        """Forget one; a job only after its end."""
        record = self.get(kind, name)
        if record.status in {"InProgress", "Stopping"}:
            raise invalid(f"{name} is {record.status}; stop it first.")
        with self._lock:
            del self._all[kind, name]
        return record

    def by_arn(self, arn: str) -> Record | None:
        """The one of that ARN."""
        with self._lock:
            return next((one for one in self._all.values() if one.arn == arn), None)
