"""Start the serving process of a model: unpack its archive, start ``serve``, and wait until it answers ``/ping``."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import requests

from sagemaker_rehearsal.containers import Container
from sagemaker_rehearsal.limits import invalid
from sagemaker_rehearsal.logs import Tail
from sagemaker_rehearsal.world import World

STARTUP_SECONDS = 480.0
"""How long a container may take until it answers /ping, unless the variant says otherwise."""


@dataclass
class Server:
    """A running serving process, and what is to be done when it ends."""

    container: Container
    port: int
    ending: ExitStack

    def invoke(self, body: bytes, headers: Mapping[str, str], *, seconds: float) -> requests.Response:
        """Send one request and return the answer; raises `requests.RequestException` if none comes in time."""
        sent = {name: value for name, value in headers.items() if value}
        with requests.Session() as session:
            session.trust_env = False
            return session.post(f"http://127.0.0.1:{self.port}/invocations", data=body, headers=sent, timeout=seconds)

    def stop(self, grace: float) -> None:
        """End the process and remove its model."""
        self.container.stop(grace)
        self.ending.close()


def start_server(world: World, model: Mapping, name: str, *, group: str, seconds: float = STARTUP_SECONDS) -> Server:
    """Start the serving process of a model and wait until it answers /ping with 200.

    Raises
    ------
    AwsError
        If it ends before, or does not answer in time.
    """
    described = model.get("PrimaryContainer") or model["Containers"][0]
    with world.folder() as (work, ending), reserve_port() as port:
        root = work / "ml"
        (root / "model").mkdir(parents=True)
        source = described.get("ModelDataSource", {}).get("S3DataSource") or {}
        if location := described.get("ModelDataUrl") or source.get("S3Uri"):
            if source.get("CompressionType") == "None":
                if not world.objects.fetch({"S3Uri": location}, root / "model"):
                    raise invalid(f"Could not find model data at {location}.")
            else:
                world.objects.unpack(location, root / "model")
        environment = {**(described.get("Environment") or {}), "SAGEMAKER_BIND_TO_PORT": str(port)}
        container = Container(world.machine, root, ["serve"], environment=environment, hosts=("localhost",))
        ending.callback(container.kill)
        tail = Tail(world.logs, group, f"{name}/i-{uuid.uuid4().hex[:17]}", container=container)
        _wait_for_ping(container, port, tail, name, time.monotonic() + seconds)
        return Server(container, port, ending.pop_all())


@contextmanager
def reserve_port() -> Iterator[int]:
    """Keep a port of loopback for the server that is about to bind it.

    The port stays bound, but nobody listens. Linux then gives it to no other program, and still to a server that sets
    SO_REUSEADDR, as all usual ones do.
    """
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


def _wait_for_ping(container: Container, port: int, tail: Tail, name: str, deadline: float) -> None:
    while time.monotonic() < deadline:
        if not container.running:
            tail.join()
            raise invalid(f"The container exited with status {container.status} before it answered /ping: {tail.last}")
        try:
            if requests.get(f"http://127.0.0.1:{port}/ping", timeout=2, proxies={"http": ""}).status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise invalid(f"The primary container for {name} did not pass the ping health check. Look at the CloudWatch logs.")
