"""Send the output of a container to CloudWatch logs, and find metrics in it by regular expression."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from sagemaker_rehearsal.containers import Container

PAUSE = 0.2
"""Seconds between two deliveries of lines."""
PATIENCE = 5.0
"""Seconds for the last lines: without namespaces, what a container left behind may hold its output open."""


def compile_metrics(definitions: Sequence[Mapping]) -> dict[str, re.Pattern[str]]:
    """Pattern by metric, from ``MetricDefinitions``."""
    return {item["Name"]: re.compile(item["Regex"]) for item in definitions or []}


class Tail:
    """Follows a container's output in a thread until it ends.

    Parameters
    ----------
    client : boto3 client
        Of CloudWatch logs.
    group, stream : str
    container : Container
    heard : callable, optional
        Called with every line.
    """

    def __init__(
        self, client, group: str, stream: str, *, container: Container, heard: Callable[[str], None] | None = None
    ) -> None:
        self.client, self.group, self.stream, self.heard = client, group, stream, heard
        self.last = ""
        self._waiting: list[dict] = []
        self._over = False
        for create, name in ((client.create_log_group, {}), (client.create_log_stream, {"logStreamName": stream})):
            try:
                create(logGroupName=group, **name)
            except client.exceptions.ResourceAlreadyExistsException:
                continue
        self._container = container
        self._read = threading.Thread(target=self._follow, daemon=True)
        self._send = threading.Thread(target=self._deliver, daemon=True)
        self._read.start()
        self._send.start()

    def join(self) -> None:
        """Wait until the last line of a container that has ended is delivered."""
        self._read.join(PATIENCE)
        self._over = True
        self._send.join()

    def _follow(self) -> None:
        for raw in self._container.process.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            self._waiting.append({"timestamp": int(time.time() * 1000), "message": line or " "})
            self.last = line or self.last
            if self.heard:
                self.heard(line)

    def _deliver(self) -> None:
        while (self._read.is_alive() and not self._over) or self._waiting:
            batch, self._waiting[:1000] = self._waiting[:1000], []
            if batch:
                self.client.put_log_events(logGroupName=self.group, logStreamName=self.stream, logEvents=batch)
            else:
                self._read.join(PAUSE)
