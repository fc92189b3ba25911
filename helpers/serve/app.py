"""The process behind an endpoint: ``/ping`` and ``/invocations`` over the functions of `helpers.serve.handler`.

One thread runs the model, so that memory is that of one case. A request waits in a queue of bounded length, its body in a
temporary file; when the queue is full, the next request gets 503 and ``Retry-After``, and loses nothing by asking again.

If ``SAGEMAKER_PROGRAM`` names a program in the ``code`` folder of the model, the four functions are taken from there, as AWS's
own containers do. Such a program runs with all the rights of this process: name only your own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from brats_cohort.files import DataError, out_of_memory
from helpers.serve import handler
from helpers.serve.decode import MB, BadRequest, Limits, limits_from

MEMORY = 1 << 20
"""Bytes of a body that are kept in memory; the rest goes to a temporary file."""
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
"""The one header that SageMaker hands through: volumes and the number of warnings, beside a label map too."""
RECEIVE_SECONDS = 60
"""In which a body must have arrived."""
RETRY_SECONDS = 2
STOP_SECONDS = 25
"""A container that was told to stop is killed after 30 seconds."""

log = logging.getLogger("helpers.serve")


class Server:
    """The state of one serving process: its model, the thread that runs it and the requests inside."""

    def __init__(self, model_dir: Path, limits: Limits) -> None:
        self.model_dir, self.limits = model_dir, limits
        self.functions, self.model, self.loaded, self.fault = handler, None, False, ""
        self._inside = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def load(self) -> None:
        """Load the model in the worker's thread, so that ``/ping`` answers meanwhile."""
        try:
            run = asyncio.get_running_loop().run_in_executor
            self.functions = await run(self._worker, functions_of, self.model_dir)
            self.model = await run(self._worker, self.functions.model_fn, str(self.model_dir))  # as AWS passes it
            self.loaded = True  # a model of another program may be anything, None and an array among them
        except Exception as error:  # whatever it is, /ping has to say it rather than time out
            log.exception("the model cannot be loaded")
            self.fault = f"the model cannot be loaded: {error}"

    def close(self) -> None:
        """Let the running request end and drop those that wait."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def ping(self) -> Response:
        """Answer 200 when requests can be answered, 503 while the model loads, 500 if it or the GPU has failed for good."""
        if self.fault:
            return _text(500, self.fault)
        return Response(status_code=200) if self.loaded else _text(503, "the model is being loaded")

    async def invoke(self, request: Request) -> Response:
        """Answer one request, or say in one sentence why not."""
        ready = self.loaded and not self.fault
        full = self._inside > self.limits.waiting
        try:
            if not ready or full:
                await _receive(request, self.limits)
                return _text(503, "the queue is full; ask again", retry=True) if ready else self.ping()
            self._inside += 1
            try:
                with tempfile.SpooledTemporaryFile(MEMORY) as body:
                    await _receive(request, self.limits, body)
                    run = asyncio.get_running_loop().run_in_executor
                    return await run(self._worker, self._answer, body, dict(request.headers))
            finally:
                self._inside -= 1
        except BadRequest as error:
            return _text(error.status, str(error))
        except ClientDisconnect:
            return _text(400, "the connection ended before the body did")
        except Exception as error:
            if out_of_memory(error):
                return _text(503, "there is not enough memory at the moment; ask again or send a smaller case", retry=True)
            log.exception("a request failed")
            if "CUDA error" in str(error):  # no later call of this process can use the GPU: let /ping say so
                self.fault = "the GPU has failed; the process has to be started again"
            return _text(500, "the model failed on this request; the log of the endpoint says why")

    def _answer(self, body: BinaryIO, headers: dict[str, str]) -> Response:
        begun, accept, kind = time.monotonic(), headers.get("accept"), headers.get("content-type", "")
        if self.functions is handler:
            handler.answer_type(accept)  # a wrong wish is refused before the work
            data = handler.decode(body, kind, self.limits)
        else:
            data = self.functions.input_fn(body.read(), kind)
        prediction = self.functions.predict_fn(data, self.model)
        answer = self.functions.output_fn(prediction, accept)
        named = accept if accept and not set("*,") & set(accept) else "application/octet-stream"
        content, kind = answer if isinstance(answer, tuple) else (answer, named)  # AWS's containers take either
        summary = prediction.summary if isinstance(prediction, handler.Answer) else ""
        log.info("answered with %d bytes of %s after %.1f s", len(content), kind, time.monotonic() - begun)
        return Response(content, media_type=kind, headers={ATTRIBUTES: summary} if summary else None)


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


def functions_of(model_dir: Path) -> ModuleType:
    """Find the four functions: those of ``SAGEMAKER_PROGRAM`` in the model's ``code`` folder, or `helpers.serve.handler`."""
    program = os.environ.get("SAGEMAKER_PROGRAM", "")
    if not program:
        return handler
    path = Path(model_dir) / "code" / program
    if not path.is_file():
        raise DataError(f"SAGEMAKER_PROGRAM is {program}, but the model has no code/{program}", "pack it into model.tar.gz")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look themselves up there
    sys.path.insert(0, str(path.parent))  # it may import its neighbours
    spec.loader.exec_module(module)
    return module


def listen(host: str, port: int) -> socket.socket:
    """Bind an address, and so own it, before the model is loaded; port 0 takes a free one."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{host}:{port} cannot be listened on ({reason})", "choose another --port") from error


def serve(model_dir: Path, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is being answered and return."""
    app = make_app(model_dir)
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=STOP_SECONDS)
    uvicorn.Server(config).run(sockets=[listener])


async def _receive(request: Request, limits: Limits, body: BinaryIO | None = None) -> None:
    """Read a body to its end, into a file or, without one, into nothing.

    A client that is still sending does not read, so that even a refusal has to wait for the end of the body, within reason.
    Raises `BadRequest` where the body is too large or too slow.
    """
    size = 0
    try:
        async with asyncio.timeout(RECEIVE_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > 4 * limits.body_mb * MB:
                    break
                if body and size <= limits.body_mb * MB:
                    body.write(chunk)
    except TimeoutError:
        raise BadRequest(408, f"the body did not arrive within {RECEIVE_SECONDS} s; send it again") from None
    if size > limits.body_mb * MB:
        advice = "send int16 volumes, compressed, or use an asynchronous endpoint"
        raise BadRequest(413, f"the body is larger than {limits.body_mb} MB; {advice}")
    if body:
        body.seek(0)


def _text(status: int, sentence: str, *, retry: bool = False) -> Response:
    headers = {"retry-after": str(RETRY_SECONDS)} if retry else {}
    return Response(sentence + "\n", status, headers, "text/plain; charset=utf-8")
