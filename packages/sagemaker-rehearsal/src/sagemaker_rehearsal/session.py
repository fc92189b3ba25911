"""Start and stop a rehearsal, and give programs the variables through which they find it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from sagemaker_rehearsal.containers import PRIVATE, namespaces_work

PREFIX = "sagemaker-rehearsal-"
PATIENCE = 60.0
"""Seconds in which a rehearsal must have started."""
AS_USER = ("unshare", "--user", "--map-root-user", *PRIVATE[1:])
PREPARE = """
set -e
folder="$1"; shift
if [ ! -d /opt/ml ]; then
    mkdir -p "$folder/opt/ml"
    for entry in /opt/* /opt/.[!.]*; do
        if [ -d "$entry" ]; then mkdir "$folder$entry"; mount --rbind "$entry" "$folder$entry"
        elif [ -e "$entry" ]; then : > "$folder$entry"; mount --bind "$entry" "$folder$entry"; fi
    done
    mount --rbind "$folder/opt" /opt
fi || true
exec "$@"
"""
"""Makes /opt/ml in a namespace of its own, where the machine has none: nothing is written to the machine's /opt."""


class RehearsalError(RuntimeError):
    """A rehearsal that cannot start."""


class Rehearsal:
    """A local AWS that runs. Use it as a context manager, or call `stop` at the end; it also ends with this process.

    Attributes
    ----------
    environment : dict from str to str
        Variables that lead a program here, to be set before it makes its first AWS client.
    address : str
        Where AWS calls are answered, on loopback.
    isolation : str
        One sentence: how far the containers of jobs are apart from this machine.
    """

    def __init__(self, folder: Path, janitor: subprocess.Popen, ready: dict) -> None:
        self._folder, self._janitor = folder, janitor
        self._before: dict[str, str] | None = None
        self.address: str = ready["address"]
        self.isolation = (
            "each job has its own /opt/ml and its own processes"
            if ready["private"]
            else "this system gives no private /opt/ml: jobs find their folders through SM_* variables only, and a program "
            "that names /opt/ml itself, outside the scripts of the SDK, does not find it"
        )
        config = folder / "sagemaker.yaml"
        config.write_text("SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n")
        self.environment = {
            **_aws_files(folder),
            **ready["environment"],
            "SAGEMAKER_VALIDATE_ROLE": "false",  # there is nothing to ask: moto does not simulate policies
            "SAGEMAKER_USER_CONFIG_OVERRIDE": str(config),
            "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": str(config),
        }

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def within(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return an environment in which programs find the rehearsal, and nothing of the AWS account of this machine."""
        return without_aws(environment) | self.environment

    def apply(self) -> Rehearsal:
        """Set the variables in this process and hide those of a real account; `stop` puts back what was there.

        Clients of AWS that were made before stay with the account for which they were made.
        """
        if self._before is None:
            self._before = dict(os.environ)
            _replace_environment(self.within(os.environ))
        return self

    def interrupt(self, job: str = "", *, after: str = "", notice: bool = True) -> None:
        """Take the spot machines of a training job away, once; it starts again on new ones.

        Parameters
        ----------
        job : str
            Start of its name; empty for whichever managed spot job comes first.
        after : str
            Regular expression: wait for a line of its output that matches. Empty for at once.
        notice : bool
            Whether SIGTERM announces it, as a rule of AWS; without it everything since the last checkpoint in S3 is lost.

        Raises
        ------
        re.error
            If `after` is no regular expression.
        """
        re.compile(after)
        body = json.dumps({"job": job, "after": after, "notice": notice}).encode()
        request = urllib.request.Request(
            f"{self.address}/rehearsal/interrupt", data=body, headers={"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(request, timeout=10).close()

    def stop(self) -> None:
        """End all its processes, remove its files, and put the variables back."""
        if self._before is not None:
            changed = {name for name in self._before.keys() | self.environment.keys() if _is_aws(name)}
            before = {name: value for name, value in self._before.items() if name in changed}
            _replace_environment({name: value for name, value in os.environ.items() if name not in changed} | before)
            self._before = None
        self._janitor.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._janitor.wait(timeout=15)
        shutil.rmtree(self._folder, ignore_errors=True)


def start_rehearsal(region: str = "us-east-1", *, serve: str = "", grace: float = 120.0, private: bool = True) -> Rehearsal:
    """Start a local AWS and wait until it answers.

    Credentials, profiles and settings of a real account stay where they are; neither the rehearsal nor its jobs see them.

    Parameters
    ----------
    region : str
        That it plays.
    serve : str
        Shell command with which the image serves a model, such as ``python -m my_project.serve``. It finds the model in
        ``$SM_MODEL_DIR`` and answers ``/ping`` and ``/invocations`` on ``$SAGEMAKER_BIND_TO_PORT``. Endpoints need it.
    grace : float
        Seconds between SIGTERM and SIGKILL for a job that is to end; AWS gives 120.
    private : bool
        Whether to give each container its own ``/opt/ml`` if the system allows that.

    Raises
    ------
    RehearsalError
        If something that is needed is not installed, or it does not start.
    """
    for folder in _abandoned():
        shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    options = json.dumps({"region": region, "serve": serve, "grace": grace, "private": private})
    server = [sys.executable, "-m", "sagemaker_rehearsal.server", str(folder), options]
    first = next((words for words in (PRIVATE, AS_USER) if private and namespaces_work(words)), None)
    command = [*first, "sh", "-c", PREPARE, "rehearsal", str(folder), *server] if first else server
    janitor = subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__).with_name("janitor.py")), str(folder), str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=without_aws(os.environ) | _aws_files(folder) | {"PYTHONPATH": _python_path()},
        start_new_session=True,
    )
    deadline = time.monotonic() + PATIENCE
    try:
        while not (folder / "ready.json").is_file():
            if janitor.poll() is not None or time.monotonic() > deadline:
                log = folder / "server.log"
                said = log.read_text(errors="replace").strip().splitlines()[-1:] if log.is_file() else []
                raise RehearsalError(f"the rehearsal did not start ({' '.join(said) or 'it ended at once'}); try again")
            time.sleep(0.02)
    except BaseException:  # Ctrl-C, too
        janitor.terminate()
        janitor.wait()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Rehearsal(folder, janitor, json.loads((folder / "ready.json").read_text(encoding="utf-8")))


def without_aws(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without proxies and without every variable through which an AWS account is set up."""
    return {name: value for name, value in environment.items() if not _is_aws(name)}


def _is_aws(name: str) -> bool:
    return name.startswith(("AWS_", "BOTO_", "SAGEMAKER_")) or name.lower().endswith("_proxy")


def _aws_files(folder: Path) -> dict[str, str]:
    """Variables that name an empty file in place of ``~/.aws/config`` and ``~/.aws/credentials``."""
    empty = folder / "empty"
    empty.touch()
    return {"AWS_CONFIG_FILE": str(empty), "AWS_SHARED_CREDENTIALS_FILE": str(empty)}


def _replace_environment(environment: Mapping[str, str]) -> None:
    """Give this process an environment, and have boto3 forget the session that it made in another."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    if "boto3" in sys.modules:
        sys.modules["boto3"].DEFAULT_SESSION = None


def _python_path() -> str:
    """This package in reach, and what the caller has in reach."""
    own = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join(dict.fromkeys([*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), own]))


def _abandoned() -> Iterator[Path]:
    """Folders of rehearsals whose janitor was killed: nobody holds the lock any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        lock = folder / "lock"
        with contextlib.suppress(OSError), lock.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
