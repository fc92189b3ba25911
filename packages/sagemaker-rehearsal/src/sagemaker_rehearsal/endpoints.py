"""Endpoints: the serving process of a model, asked in real time or through S3."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import requests

from sagemaker_rehearsal import limits
from sagemaker_rehearsal.hosting import STARTUP_SECONDS, Server, start_server
from sagemaker_rehearsal.limits import AwsError, invalid
from sagemaker_rehearsal.records import Record
from sagemaker_rehearsal.world import World

ACCEPT = "X-Amzn-SageMaker-Accept"
PASSED_ON = ("X-Amzn-SageMaker-Custom-Attributes", "X-Amzn-SageMaker-Inference-Id", "X-Amzn-SageMaker-Session-Id")


@dataclass
class Variant:
    """Serving processes behind one production variant, asked in turn."""

    config: Mapping
    servers: list[Server]
    turn: int = 0

    def next(self) -> Server:
        """The process that is to have the next request."""
        self.turn += 1
        return self.servers[self.turn % len(self.servers)]


@dataclass
class Live:
    """What serves an endpoint: its configuration, variants, and the queue of asynchronous requests."""

    config: Mapping
    variants: list[Variant]
    queue: ThreadPoolExecutor | None = None

    def stop(self, grace: float) -> None:
        """End all of it."""
        if self.queue:
            self.queue.shutdown(wait=False, cancel_futures=True)
        for variant in self.variants:
            for server in variant.servers:
                server.stop(grace)


class Endpoints:
    """All endpoints that serve."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._live: dict[str, Live] = {}

    def start(self, record: Record) -> None:
        """Bring an endpoint to ``InService``."""
        live = self._build(record, record.request["EndpointConfigName"])
        self._live[record.name] = live
        self._show(record, live)

    def stop(self, record: Record) -> None:
        """End the processes of an endpoint."""
        if live := self._live.pop(record.name, None):
            live.stop(self.world.grace)

    def _build(self, record: Record, config: str) -> Live:
        request = self.world.records.get("EndpointConfig", config).request
        variants = []
        group = f"/aws/sagemaker/Endpoints/{record.name}"
        with ExitStack() as failed:
            for variant in request["ProductionVariants"]:
                model = self.world.records.get("Model", variant["ModelName"]).request
                seconds = variant.get("ContainerStartupHealthCheckTimeoutInSeconds", STARTUP_SECONDS)
                variants.append(Variant(variant, []))
                for _ in range(variant.get("InitialInstanceCount", 1)):
                    server = start_server(self.world, model, variant["VariantName"], group=group, seconds=seconds)
                    failed.callback(server.stop, self.world.grace)
                    variants[-1].servers.append(server)
            failed.pop_all()  # all of them serve
        queue = None
        if wanted := request.get("AsyncInferenceConfig"):
            each = (wanted.get("ClientConfig") or {}).get("MaxConcurrentInvocationsPerInstance", 1)
            queue = ThreadPoolExecutor(each * len(variants[0].servers))
        return Live(request, variants, queue)

    def _show(self, record: Record, live: Live) -> None:
        shown = []
        for variant in live.variants:
            one = {
                "VariantName": variant.config["VariantName"],
                "CurrentWeight": variant.config.get("InitialVariantWeight", 1.0),
            }
            one |= dict.fromkeys(("CurrentInstanceCount", "DesiredInstanceCount"), len(variant.servers))
            shown.append(one)
        more = {"AsyncInferenceConfig": wanted} if (wanted := live.config.get("AsyncInferenceConfig")) else {}
        record.update(EndpointStatus="InService", ProductionVariants=shown, **more)

    def _find(self, name: str) -> Live:
        if name not in self._live:
            raise AwsError("ValidationError", f"Endpoint {name} not found, or not in service.")
        return self._live[name]

    def invoke(self, name: str, body: bytes, headers: Mapping[str, str]) -> tuple[requests.Response, str]:
        """Answer of an endpoint to a request in real time, and the variant that gave it.

        Raises
        ------
        AwsError
            ``ValidationError`` where the request breaks a limit, ``ModelError`` where the container does not answer with 200.
        """
        live = self._find(name)
        if live.queue is not None:
            raise AwsError("ValidationError", f"Endpoint {name} is asynchronous; use InvokeEndpointAsync.")
        variant = _choose(live, headers.get("X-Amzn-SageMaker-Target-Variant"))
        limit = limits.REALTIME_BYTES
        if len(body) > limit:
            raise AwsError(
                "ValidationError", f"Request body of {len(body)} bytes exceeds the limit of {limit} bytes.", status=413
            )
        passed = {key: headers.get(key, "") for key in PASSED_ON}
        passed |= {"Content-Type": headers.get("Content-Type", ""), "Accept": headers.get(ACCEPT) or headers.get("Accept", "")}
        try:
            answer = variant.next().invoke(body, passed, seconds=limits.REALTIME_SECONDS)
        except requests.RequestException as error:
            late = isinstance(error, requests.Timeout)
            words = (
                f"Your invocation {'timed out' if late else 'broke off'} while waiting for a response from container primary."
            )
            raise _model_error(name, 0, words) from error
        if answer.status_code != 200:
            raise _model_error(name, answer.status_code, answer.text)
        if len(answer.content) > limit:
            raise _model_error(name, 0, f"The response of {len(answer.content)} bytes exceeds the limit of {limit} bytes.")
        return answer, variant.config["VariantName"]

    def invoke_later(self, name: str, body: bytes, headers: Mapping[str, str]) -> tuple[str, str, str]:
        """Queue an asynchronous request; inference id, and where the answer or else the failure will be.

        The input is the body of the request or an object in S3. Without an ``S3FailurePath`` the failure is nowhere, and its
        place is empty.
        """
        live = self._find(name)
        if live.queue is None:
            raise AwsError("ValidationError", f"Endpoint {name} is not asynchronous; use InvokeEndpoint.")
        source, identifier = headers.get("X-Amzn-SageMaker-InputLocation", ""), str(uuid.uuid4())
        if bool(source) == bool(body):
            raise AwsError("ValidationError", "Body and InputLocation are mutually exclusive; provide exactly one of them.")
        if len(body) > limits.INLINE_BYTES:
            raise AwsError("ValidationError", f"Body of {len(body)} bytes exceeds the limit of {limits.INLINE_BYTES} bytes.")
        config = live.config["AsyncInferenceConfig"]["OutputConfig"]
        base = config.get("S3OutputPath") or source.rpartition("/")[0]
        if not base:
            raise AwsError("ValidationError", "The endpoint has no S3OutputPath, and the request no InputLocation to go by.")
        inside = headers.get("X-Amzn-SageMaker-S3OutputPathExtension", "").strip("/")
        named = headers.get("X-Amzn-SageMaker-Filename") or f"{identifier}.out"
        output = "/".join(filter(None, (base.rstrip("/"), inside, named)))
        failures = config.get("S3FailurePath")
        failure = f"{failures.rstrip('/')}/{identifier}-error.out" if failures else ""
        seconds = float(headers.get("X-Amzn-SageMaker-InvocationTimeoutSeconds") or 15 * 60)
        if not 0 < seconds <= limits.ASYNC_SECONDS:
            raise AwsError("ValidationError", "InvocationTimeoutSeconds must lie between 1 and 3600.")
        sent = {
            "Content-Type": headers.get("X-Amzn-SageMaker-Content-Type", ""),
            "Accept": headers.get(ACCEPT, ""),
            "X-Amzn-SageMaker-Custom-Attributes": headers.get("X-Amzn-SageMaker-Custom-Attributes", ""),
        }
        live.queue.submit(self._answer, live, body or source, sent, output, failure, seconds)
        return headers.get("X-Amzn-SageMaker-Inference-Id") or identifier, output, failure

    def _answer(self, live: Live, source: str | bytes, headers: Mapping, output: str, failure: str, seconds: float) -> None:
        """One asynchronous request from its body or object in S3 to the object with the answer or the reason of its failure."""
        try:
            body = source if isinstance(source, bytes) else self.world.objects.read(source)
            if len(body) > limits.ASYNC_BYTES:
                raise invalid(f"Input of {len(body)} bytes exceeds the limit of {limits.ASYNC_BYTES} bytes.")
            answer = live.variants[0].next().invoke(body, headers, seconds=seconds)
            if answer.status_code != 200:
                raise invalid(_words(answer.status_code, answer.text))
        except (AwsError, requests.RequestException) as error:
            said = error.message if isinstance(error, AwsError) else f"The container did not answer: {error}"
            if failure:
                self.world.objects.write(failure, said.encode())
        else:
            kind = answer.headers.get("Content-Type", "application/octet-stream")
            self.world.objects.write(output, answer.content, ContentType=kind)


def _choose(live: Live, target: str | None) -> Variant:
    """The variant asked for, or one by chance as the weights say."""
    if target:
        found = [one for one in live.variants if one.config["VariantName"] == target]
        if not found:
            raise AwsError("ValidationError", f"There is no variant {target}.")
        return found[0]
    return random.choices(live.variants, [one.config.get("InitialVariantWeight", 1.0) for one in live.variants])[0]


def _words(status: int, said: str) -> str:
    fault = "client" if 400 <= status < 500 else "server"
    return f'Received {fault} error ({status}) from primary with message "{said[:1000]}".'


def _model_error(name: str, status: int, said: str) -> AwsError:
    logs = f"/aws/sagemaker/Endpoints/{name}"
    words = f"{_words(status, said)} See {logs} in CloudWatch for more information."
    return AwsError("ModelError", words, status=424, OriginalStatusCode=status, OriginalMessage=said[:2000], LogStreamArn=logs)
