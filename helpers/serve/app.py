"""The process behind an endpoint: ``/ping`` and ``/invocations`` over the functions of `helpers.serve.handler`.

    python -m helpers.serve.app --model-dir DIR --port N

One thread runs the model, so that memory is that of one case. A request waits in a queue of bounded length, its body in a
temporary file; when the queue is full, the next request gets 503 and ``Retry-After``, and loses nothing by asking again. The
process listens on loopback only, unless ``SERVE_HOST`` says otherwise, as the container's image does.

If ``SAGEMAKER_PROGRAM`` names a program in the ``code`` folder of the model, the four functions are taken from there, as AWS's
own containers do. Such a program runs with all the rights of this process: name only your own.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from helpers.serve import handler
from helpers.serve.decode import MB, BadRequest, Limits, limits_from
from helpers.workspace import DataError

MEMORY = 1 << 20
"""Bytes of a body that are kept in memory; the rest goes to a temporary file."""
ATTRIBUTES, INFERENCE = "x-amzn-sagemaker-custom-attributes", "x-amzn-sagemaker-inference-id"
RETRY_SECONDS = 2
STOP_SECONDS = 25
"""A container that was told to stop is killed after 30 seconds."""

MODEL_DIR = Path(os.environ.get("SM_MODEL_DIR", "/opt/ml/model"))
PORT = int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"))
HOST = os.environ.get("SERVE_HOST", "127.0.0.1")
"""Defaults of the command line: what SageMaker tells a container."""

log = logging.getLogger("helpers.serve")


class Server:
    """The state of one serving process: its model, the thread that runs it and the requests inside.

    Attributes
    ----------
    model_dir : Path
    limits : Limits
    functions : module
        With ``model_fn``, ``input_fn``, ``predict_fn`` and ``output_fn``.
    model : object or None
        What ``model_fn`` returned; None until then.
    fault : str
        Why it could not be loaded; empty otherwise.
    """

    def __init__(self, model_dir: Path, limits: Limits) -> None:
        self.model_dir = model_dir
        self.limits = limits
        self.functions: ModuleType = handler
        self.model = None
        self.fault = ""
        self._inside = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def load(self) -> None:
        """Load the model in the worker's thread, so that ``/ping`` answers meanwhile."""
        try:
            self.functions = functions_of(self.model_dir)
            load: Callable[[Path], object] = self.functions.model_fn
            self.model = await asyncio.get_running_loop().run_in_executor(self._worker, load, self.model_dir)
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
                return _text(503, "the queue is full; ask again", retry=RETRY_SECONDS)
            return await self._admit(request)
        except BadRequest as error:
            return _text(error.status, str(error))
        except ClientDisconnect:
            return _text(400, "the connection ended before the body did")
        except MemoryError:
            return _text(503, "there is not enough memory at the moment; ask again or send a smaller case", retry=RETRY_SECONDS)
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
        accept, kind = headers.get("accept"), headers.get("content-type", "")
        if self.functions is handler:
            handler.answer_type(accept)  # a wrong wish is refused before the work
            data = handler.decode(body, kind, self.limits)
        else:
            data = self.functions.input_fn(body.read(), kind)
        prediction = self.functions.predict_fn(data, self.model)
        content, kind = self.functions.output_fn(prediction, accept)
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


def functions_of(model_dir: Path) -> ModuleType:
    """Find the four functions: those of ``SAGEMAKER_PROGRAM`` in the model's ``code`` folder, or `helpers.serve.handler`."""
    program = os.environ.get("SAGEMAKER_PROGRAM", "")
    if not program:
        return handler
    path = Path(model_dir) / "code" / program
    if not path.is_file():
        raise DataError(f"SAGEMAKER_PROGRAM is {program}, but the model has no code/{program}", "pack it into model.tar.gz")
    spec = importlib.util.spec_from_file_location("inference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listen(host: str, port: int) -> socket.socket:
    """Bind an address, and so own it, before the model is loaded; port 0 takes a free one."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise DataError(f"{host}:{port} cannot be listened on ({error.strerror})", "choose another --port") from error


def serve(model_dir: Path, listener: socket.socket, *, limits: Limits | None = None) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is being answered and return."""
    app = make_app(model_dir, limits)
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=STOP_SECONDS)
    uvicorn.Server(config).run(sockets=[listener])


def run(model_dir: Path, host: str, port: int) -> int:
    """Serve until interrupted; the first line of output names the address."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listener = listen(host, port)
    print(f"http://{host}:{listener.getsockname()[1]}/invocations; stop with Ctrl-C", flush=True)
    serve(model_dir, listener)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="python -m helpers.serve.app", description="Serve a model as SageMaker expects.")
    parser.add_argument("--model-dir", type=Path, default=MODEL_DIR, help="folder of best.safetensors and best.json")
    parser.add_argument("--port", type=int, default=PORT, help="where to listen; 0 takes a free port")
    parser.add_argument("--host", default=HOST, help="address to listen on; any but loopback is open to the network")
    given = parser.parse_args(arguments)
    try:
        return run(given.model_dir, given.host, given.port)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1


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
                if size > 4 * limits.body_mb * MB:
                    break
                if body and size <= limits.body_mb * MB:
                    body.write(chunk)
    except TimeoutError:
        raise BadRequest(408, f"the body did not arrive within {limits.receive_seconds:g} s; send it again") from None
    if size > limits.body_mb * MB:
        advice = "send int16 volumes, compressed, or use an asynchronous endpoint"
        raise BadRequest(413, f"the body is larger than {limits.body_mb} MB; {advice}")
    if body:
        body.seek(0)


def _passed_on(headers: dict[str, str], prediction: object) -> dict[str, str]:
    """What the caller gave to recognise the answer by, and the volumes, in the one header that SageMaker hands through."""
    volumes = getattr(prediction, "volumes", {})
    parts = [headers.get(ATTRIBUTES, ""), *(f"{name}_ml={volume:g}" for name, volume in volumes.items())]
    if isinstance(prediction, handler.Answer) and prediction.request.warnings:
        parts.append(f"warnings={len(prediction.request.warnings)}")
    attributes = ";".join(part for part in parts if part)
    found = {ATTRIBUTES: attributes if len(attributes) <= 1024 else headers[ATTRIBUTES], INFERENCE: headers.get(INFERENCE, "")}
    return {name: value for name, value in found.items() if value}


def _text(status: int, sentence: str, *, retry: int = 0) -> Response:
    headers = {"retry-after": str(retry)} if retry else {}
    return Response(sentence + "\n", status, headers, "text/plain; charset=utf-8")


if __name__ == "__main__":
    sys.exit(main())
