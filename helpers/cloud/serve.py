"""The process behind an endpoint: ``/ping`` and ``/invocations`` over the functions of `helpers.cloud.handler`.

    python -m helpers.cloud.serve --model-dir DIR --port N

One thread runs the model, so that memory is that of one case. A request waits in a queue of bounded length, its body in a
temporary file; whoever comes when the queue is full gets 503 and ``Retry-After``, and loses nothing by asking again. The
process listens on loopback only, except where ``SERVE_HOST`` says otherwise, as the container's image does.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from helpers.cloud.answers import KINDS, output_type
from helpers.cloud.handler import (
    input_fn,
    model_fn,
    output_fn,
    predict_fn,
)
from helpers.cloud.limits import BadRequest, Limits, limits_from

MEMORY = 1 << 20
"""Bytes of a body that are kept in memory; the rest goes to a temporary file."""
ATTRIBUTES, INFERENCE = "x-amzn-sagemaker-custom-attributes", "x-amzn-sagemaker-inference-id"
RETRY_SECONDS = 2
STOP_SECONDS = 25
"""A container that was told to stop is killed after 30 seconds."""

log = logging.getLogger("helpers.cloud.serve")


class Server:
    """The state of one serving process: its model, the thread that runs it and the requests inside.

    Attributes
    ----------
    model_dir : Path
    limits : Limits
    model : Model or None
        None until it is loaded.
    fault : str
        Why it could not be loaded; empty otherwise.
    """

    def __init__(self, model_dir: Path, limits: Limits) -> None:
        self.model_dir = model_dir
        self.limits = limits
        self.model = None
        self.fault = ""
        self._inside = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def load(self) -> None:
        """Load the model in the worker's thread, so that ``/ping`` answers meanwhile."""
        try:
            self.model = await asyncio.get_running_loop().run_in_executor(self._worker, model_fn, self.model_dir)
        except Exception as error:  # whatever it is, /ping has to say it rather than time out
            log.exception("the model cannot be loaded")
            self.fault = f"the model cannot be loaded: {error}"

    def close(self) -> None:
        """Let the running request end and drop those that wait."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def ping(self) -> Response:
        """200 when requests can be answered, 503 while the model loads, 500 when it never will."""
        if self.fault:
            return _text(500, self.fault)
        return Response(status_code=200) if self.model else _text(503, "the model is being loaded")

    async def invoke(self, request: Request) -> Response:
        """Answer one request, or say in one sentence why not."""
        try:
            if self.fault or not self.model:
                await _receive(request, self.limits)
                return self.ping()
            if self._inside > self.limits.waiting:
                await _receive(request, self.limits)
                return _text(503, "as many requests wait as may; ask again", retry=RETRY_SECONDS)
            return await self._admit(request)
        except BadRequest as error:
            return _text(error.status, str(error))
        except ClientDisconnect:
            return _text(400, "the connection ended before the body did")
        except MemoryError:
            return _text(503, "the memory does not suffice now; ask again or send a smaller case", retry=RETRY_SECONDS)
        except Exception:
            log.exception("a request failed")
            return _text(500, "the model failed on this request; the log of the endpoint says why")

    async def _admit(self, request: Request) -> Response:
        """Store the body, wait for the worker and hand its answer on."""
        self._inside += 1
        try:
            with tempfile.SpooledTemporaryFile(MEMORY) as body:
                await _receive(request, self.limits, body)
                run = asyncio.get_running_loop().run_in_executor
                return await run(self._worker, self._answer, body, dict(request.headers))
        finally:
            self._inside -= 1

    def _answer(self, body: BinaryIO, headers: dict[str, str]) -> Response:
        accept = headers.get("accept")
        output_type(accept, KINDS)
        data = input_fn(body, headers.get("content-type", ""), limits=self.limits)
        prediction = predict_fn(data, self.model)
        content, kind = output_fn(prediction, accept)
        return Response(content, media_type=kind, headers=_passed_on(headers, prediction))


def make_app(model_dir: Path, limits: Limits | None = None) -> FastAPI:
    """The web application; the model is loaded once it has started."""
    server = Server(Path(model_dir), limits or limits_from())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(server.load())
        yield
        server.close()
        await loading

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.state.server = server
    app.add_api_route("/ping", server.ping, methods=["GET"], response_model=None)
    app.add_api_route("/invocations", server.invoke, methods=["POST"], response_model=None)
    return app


def serve(model_dir: Path, *, host: str, port: int, limits: Limits | None = None) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is being answered and return."""
    app = make_app(model_dir, limits)
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", server_header=False, timeout_graceful_shutdown=STOP_SECONDS
    )
    uvicorn.Server(config).run()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, with the defaults of SageMaker's containers."""
    environment = os.environ
    folder = Path(environment.get("SM_MODEL_DIR", "/opt/ml/model"))
    port = int(environment.get("SAGEMAKER_BIND_TO_PORT", "8080"))
    host = environment.get("SERVE_HOST", "127.0.0.1")
    parser.add_argument("--model-dir", type=Path, default=folder, help="folder of best.safetensors and its card best.json")
    parser.add_argument("--port", type=int, default=port, help="where to listen")
    parser.add_argument("--host", default=host, help="address to listen on; any other than loopback is open to the network")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="python -m helpers.cloud.serve", description="Serve a model as SageMaker expects.")
    add_arguments(parser)
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    serve(parsed.model_dir, host=parsed.host, port=parsed.port)
    return 0


async def _receive(request: Request, limits: Limits, body: BinaryIO | None = None) -> None:
    """Read a body to its end, into a file or, without one, into nothing.

    A client that is still sending does not read, so that even a refusal has to wait for the end of the body, within reason.
    Raises `BadRequest` where the body is too large or too slow.
    """
    size = 0
    try:
        async with asyncio.timeout(limits.receive_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > 4 * limits.body:
                    break
                if body and size <= limits.body:
                    body.write(chunk)
    except TimeoutError:
        raise BadRequest(408, f"the body did not arrive within {limits.receive_seconds:g} s; send it again") from None
    if size > limits.body:
        advice = "send int16 volumes, compressed, or use an asynchronous endpoint"
        raise BadRequest(413, f"the body is larger than {limits.body_mb} MB; {advice}")
    if body:
        body.seek(0)


def _passed_on(headers: dict[str, str], prediction: object) -> dict[str, str]:
    """What the caller gave to recognise the answer by, and the volumes, in the one header that SageMaker hands through."""
    volumes = getattr(prediction, "volumes", {})
    parts = [headers.get(ATTRIBUTES, ""), *(f"{name}_ml={volume:g}" for name, volume in volumes.items())]
    attributes = ";".join(part for part in parts if part)
    found = {ATTRIBUTES: attributes if len(attributes) <= 1024 else headers[ATTRIBUTES], INFERENCE: headers.get(INFERENCE, "")}
    return {name: value for name, value in found.items() if value}


def _text(status: int, sentence: str, *, retry: int = 0) -> Response:
    headers = {"retry-after": str(retry)} if retry else {}
    return Response(sentence + "\n", status, headers, "text/plain; charset=utf-8")


if __name__ == "__main__":
    sys.exit(main())
