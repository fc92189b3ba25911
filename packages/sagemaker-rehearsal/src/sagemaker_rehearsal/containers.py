"""Run the container of a job as a process with an ``/opt/ml`` of its own.

If the system allows it (Linux, as root or with user namespaces), it has a private mount and process namespace: ``/opt/ml`` is
its folder, the machines of the job find each other by name, and everything it started ends with its first process.
Otherwise the folder replaces ``/opt/ml`` in variables, arguments and the scripts of the SDK, and files with a fixed path
outside them are not found.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INSIDE = "/opt/ml"
PRIVATE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")
MOUNTS = 'mount --bind "$1" /opt/ml && { mount --bind "$2" /etc/hosts || true; } && shift 2 && exec "$@"'
OF_THE_SDK = ("input/data/sm_drivers", "input/data/sagemaker_remote_function_bootstrap", "processing/input/entrypoint")
"""Where ModelTrainer, @remote and FrameworkProcessor bring their scripts."""
KEPT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONHASHSEED")
"""Variables of the machine that a container sees; all others, and secrets in them, stay out."""


@dataclass(frozen=True)
class Machine:
    """What all containers share.

    Attributes
    ----------
    folder : Path
        The rehearsal's own.
    programs : Path
        Folder with the commands of the image: ``train`` and ``serve``.
    environment : mapping
        Variables of every container: address and keys of the rehearsal.
    private : bool
        Whether namespaces are there.
    """

    folder: Path
    programs: Path
    environment: Mapping[str, str]
    private: bool


class Container:
    """One started process with its folder.

    Parameters
    ----------
    machine : Machine
    root : Path
        Used as ``/opt/ml``; made if it is missing.
    command : sequence of str
    environment : mapping
        Variables of the job.
    hosts : sequence of str
        Names that mean this machine.
    """

    def __init__(
        self,
        machine: Machine,
        root: Path,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        hosts: Sequence[str] = ("algo-1",),
    ) -> None:
        self.machine, self.root = machine, root
        root.mkdir(parents=True, exist_ok=True)
        self._home = home = Path(tempfile.mkdtemp(dir=machine.folder))  # short, because paths of sockets are limited
        variables = {
            **{name: os.environ[name] for name in KEPT if name in os.environ},
            "PATH": os.pathsep.join([str(machine.programs), str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "HOME": str(home),
            "TMPDIR": str(home),
            "PYTHONUNBUFFERED": "1",
            "SM_MODEL_DIR": f"{INSIDE}/model",
            "PYTHONPATH": str(machine.programs / "python"),
            "PIP_DRY_RUN": "1",  # for a pip that was reached past the stand-in
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **machine.environment,
            **environment,
        }
        if machine.private:
            names = root.parent / "hosts"
            names.write_text(Path("/etc/hosts").read_text() + f"\n127.0.0.1 {' '.join(hosts)}\n")
            command = [*PRIVATE, "sh", "-c", MOUNTS, "container", str(root), str(names), *command]
        else:
            variables = {name: self.translate(value) for name, value in variables.items()}
            command = [self.translate(word) for word in command]
            for folder in OF_THE_SDK:
                _rewrite_scripts(root / folder, self.translate)
        self.process = subprocess.Popen(
            command,
            env=variables,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._note = machine.folder / "groups" / str(self.process.pid)
        self._note.touch()

    def translate(self, text: str) -> str:
        """A path as the container sees it."""
        return text if self.machine.private else text.replace(INSIDE, str(self.root))

    @property
    def running(self) -> bool:
        """Tell whether its first process is alive."""
        return self.process.poll() is None

    @property
    def status(self) -> int | None:
        """Exit status of its first process; None while it runs, 128 + n where signal n ended it."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def terminate(self) -> None:
        """SIGTERM to the first process, as the container runtime does; without namespaces to all of them."""
        if not self.running:
            return
        if self.machine.private:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it may end while it is being asked to
                for child in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
                    os.kill(int(child), signal.SIGTERM)
        else:
            _kill_group(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to everything in it, once: its number may later be another's."""
        if not self._note.exists():
            return
        _kill_group(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._note.unlink(missing_ok=True)
        shutil.rmtree(self._home, ignore_errors=True)

    def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL for what is left after `grace` seconds."""
        self.terminate()
        deadline = time.monotonic() + grace
        while self.running and time.monotonic() < deadline:
            time.sleep(0.05)
        self.kill()


def write_programs(folder: Path, serve: str) -> Path:
    """Write the commands that the image brings: ``serve``, ``train``, and a pip that only looks.

    Parameters
    ----------
    folder : Path
    serve : str
        Shell command of the serving process; empty if there is none.
    """
    pip = folder / "python/pip"
    pip.mkdir(parents=True)
    (pip / "__init__.py").touch()
    shutil.copyfile(Path(__file__).with_name("pip_stand_in.py"), pip / "__main__.py")
    missing = "echo 'this rehearsal has no serving program; name one: start_rehearsal(serve=...)'; exit 1"
    python, reach = shlex.quote(sys.executable), os.environ.get("PYTHONPATH", "")
    programs = {
        "serve": (reach, f"exec {serve}" if serve else missing),
        "train": (reach, f"exec {python} -m sagemaker_rehearsal.toolkit"),
        **dict.fromkeys(("pip", "pip3"), (str(pip.parent), f'exec {python} -m pip "$@"')),
    }
    for name, (modules, line) in programs.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(modules)}\n{line}\n")
        path.chmod(0o755)
    return folder


def namespaces_work(command: Sequence[str]) -> bool:
    """Tell whether a process can be started with `command` before it."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def _kill_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _rewrite_scripts(folder: Path, translate) -> None:
    for path in folder.rglob("*"):
        if path.suffix in {".py", ".sh", ".json"}:
            path.write_text(translate(path.read_text(encoding="utf-8")), encoding="utf-8")
            path.chmod(0o755)
