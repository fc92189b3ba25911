"""Hold what the parts of a rehearsal share: records, machine, clients, and the interruptions that were asked for."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import boto3

from sagemaker_rehearsal.containers import Machine
from sagemaker_rehearsal.objects import Objects
from sagemaker_rehearsal.records import KEY, Records


@dataclass(frozen=True)
class Interruption:
    """A spot machine is to be taken away.

    Attributes
    ----------
    job : str
        Start of the training job's name; empty for whichever comes first.
    after : str
        Regular expression: the machine goes when a line of the job's output matches; empty for at once.
    notice : bool
        Whether SIGTERM announces it; otherwise everything is gone at once, with what was not yet in S3.
    """

    job: str = ""
    after: str = ""
    notice: bool = True


@dataclass
class World:
    """Shared by all parts.

    Attributes
    ----------
    machine : Machine
    records : Records
    grace : float
        Seconds between SIGTERM and SIGKILL; AWS gives 120.
    region, address : str
        Of the rehearsal: the region that it plays, and ``http://127.0.0.1:port``.
    """

    machine: Machine
    records: Records
    grace: float
    region: str
    address: str
    interruptions: list[Interruption] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, service: str):
        """A client of a service of this rehearsal."""
        with self.lock:
            return boto3.client(
                service,
                region_name=self.region,
                endpoint_url=self.address,
                aws_access_key_id=KEY,
                aws_secret_access_key=KEY,
            )

    @cached_property
    def objects(self) -> Objects:
        """S3."""
        return Objects(self.client("s3"))

    @cached_property
    def logs(self):
        """CloudWatch logs."""
        return self.client("logs")

    @contextmanager
    def folder(self) -> Iterator[tuple[Path, ExitStack]]:
        """A new folder for the work of one job, and what is to be done before it is removed, however the job ends."""
        with ExitStack() as ending:
            path = Path(tempfile.mkdtemp(dir=self.machine.folder / "work"))
            ending.callback(shutil.rmtree, path, ignore_errors=True)
            yield path, ending

    def interrupt(self, wish: Mapping) -> None:
        """Note an interruption that is wished for."""
        with self.lock:
            self.interruptions.append(Interruption(**wish))

    def due(self, job: str, lines: Iterable[str]) -> Interruption | None:
        """The interruption whose moment has come for a job, once; `lines` are what it said since it started."""
        with self.lock:
            for wish in self.interruptions:
                if job.startswith(wish.job) and (not wish.after or any(re.search(wish.after, line) for line in lines)):
                    self.interruptions.remove(wish)
                    return wish
        return None
