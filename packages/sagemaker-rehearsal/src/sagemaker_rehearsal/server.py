"""The process of a rehearsal: moto and the data plane behind one address on loopback.

Started by `sagemaker_rehearsal.session` as ``python -m sagemaker_rehearsal.server FOLDER SETTINGS``. When it is ready
it writes ``ready.json`` into the folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import requests
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from sagemaker_rehearsal.containers import INSIDE, PRIVATE, Machine, namespaces_work, write_programs
from sagemaker_rehearsal.control import ControlPlane
from sagemaker_rehearsal.limits import AwsError
from sagemaker_rehearsal.proxy import Authority, serve_proxy
from sagemaker_rehearsal.records import KEY, Records
from sagemaker_rehearsal.world import World

TARGET = "SageMaker."
SCOPE = "/sagemaker/aws4_request"
INTERRUPT = "/rehearsal/interrupt"
FILTER = "Logs_20140328.FilterLogEvents"


class Application:
    """Everything that comes over HTTP: the calls of the data plane here, all others to moto."""

    def __init__(self, world: World) -> None:
        self.world, self.control = world, ControlPlane(world)
        self.moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        """Answer one request (WSGI)."""
        operation = environ.get("HTTP_X_AMZ_TARGET", "").removeprefix(TARGET)
        signed = environ.get("HTTP_AUTHORIZATION", "")
        path = environ.get("PATH_INFO", "")
        if operation in self.control.operations and SCOPE in signed:
            answer = self._answer(lambda: self._operate(operation, Request(environ)))
        elif path.startswith("/endpoints/") and SCOPE in signed:
            answer = self._answer(lambda: self._invoke(path, Request(environ)))
        elif path == INTERRUPT and not signed:
            self.world.interrupt(Request(environ).get_json())
            answer = Response(status=204)
        else:
            asked = self._name_streams(environ) if environ.get("HTTP_X_AMZ_TARGET") == FILTER else environ
            return self.moto(asked, start_response)
        return answer(environ, start_response)

    def _name_streams(self, environ: dict) -> dict:
        """The same request with the names of the log streams that it asks for by prefix: moto would take those of all jobs."""
        asked = Request(environ).get_json(force=True)
        group, prefix = asked.get("logGroupName"), asked.pop("logStreamNamePrefix", None)
        if group and prefix:
            asked["logStreamNames"] = [prefix]  # no names would mean all streams
            with contextlib.suppress(self.world.logs.exceptions.ResourceNotFoundException):  # moto says so, too
                pages = self.world.logs.get_paginator("describe_log_streams")
                pages = pages.paginate(logGroupName=group, logStreamNamePrefix=prefix)
                asked["logStreamNames"] += [one["logStreamName"] for page in pages for one in page["logStreams"]]
        body = json.dumps(asked).encode()
        return environ | {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}

    def _operate(self, operation: str, request: Request) -> Response:
        result = self.control.operations[operation](request.get_json(force=True) or {})
        return Response(json.dumps(result), content_type="application/x-amz-json-1.1")

    def _invoke(self, path: str, request: Request) -> Response:
        _, _, name, kind = path.split("/")
        if kind not in {"invocations", "async-invocations"}:
            raise AwsError("ValidationError", f"The rehearsal does not know {kind}; use InvokeEndpoint, or try it in AWS.")
        if kind == "async-invocations":
            identifier, output, failure = self.control.endpoints.invoke_later(name, request.get_data(), request.headers)
            places = {"X-Amzn-SageMaker-OutputLocation": output}
            if failure:
                places["X-Amzn-SageMaker-FailureLocation"] = failure
            body = json.dumps({"InferenceId": identifier})
            return Response(body, status=202, headers=places, content_type="application/json")
        answer, variant = self.control.endpoints.invoke(name, request.get_data(), request.headers)
        headers = {"X-Amzn-Invoked-Production-Variant": variant}
        if attributes := answer.headers.get("X-Amzn-SageMaker-Custom-Attributes"):
            headers["X-Amzn-SageMaker-Custom-Attributes"] = attributes
        kind = answer.headers.get("Content-Type", "application/octet-stream")
        return Response(answer.content, headers=headers, content_type=kind)

    def _answer(self, work: Callable[[], Response]) -> Response:
        """The result, or the error as AWS words it."""
        try:
            return work()
        except Exception as fault:
            words = f"The rehearsal cannot answer this request: {type(fault).__name__}: {fault}"
            error = fault if isinstance(fault, AwsError) else AwsError("InternalFailure", words, status=500)
            body = {"__type": error.code, "message": error.message, "Message": error.message, **error.fields}
            headers = {"x-amzn-errortype": error.code}
            return Response(json.dumps(body), status=error.status, headers=headers, content_type="application/x-amz-json-1.1")


def _leave(*_: object) -> None:
    os._exit(0)


def main(folder: Path, settings: dict) -> None:
    """Serve until the process is killed."""
    signal.signal(signal.SIGTERM, _leave)
    for part in ("groups", "work"):
        (folder / part).mkdir()
    records = Records(settings["region"])
    programs = write_programs(folder / "bin", settings["serve"])
    private = settings["private"] and Path(INSIDE).is_dir() and namespaces_work(PRIVATE)
    environment = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_REGION": settings["region"],
        "AWS_DEFAULT_REGION": settings["region"],
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    machine = Machine(folder, programs, environment, private)
    world = World(machine, records, settings["grace"], settings["region"], "")
    http = make_server("127.0.0.1", 0, Application(world), threaded=True, request_handler=MotoRequestHandler)
    world.address = environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{http.port}"
    authority = Authority(folder / "certificates")
    proxy = f"http://127.0.0.1:{serve_proxy(authority, http.port)}"
    environment |= {"AWS_CA_BUNDLE": str(authority.path), "HTTPS_PROXY": proxy, "https_proxy": proxy}
    environment |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    threading.Thread(target=http.serve_forever, daemon=True).start()
    requests.get(f"{world.address}/moto-api/data.json", timeout=60, proxies={"http": ""}).raise_for_status()
    ready = {"address": world.address, "private": private, "environment": environment}
    (folder / "ready.part").write_text(json.dumps(ready), encoding="utf-8")
    (folder / "ready.part").rename(folder / "ready.json")
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
