"""The command line: a rehearsal for one command, or until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence

from sagemaker_rehearsal.session import Rehearsal, RehearsalError, start_rehearsal


def rehearse(command: Sequence[str], *, region: str, serve: str, grace: float, private: bool) -> int:
    """Rehearse a command and return its status; without one, stay until Ctrl-C. Options as of `start_rehearsal`."""
    try:
        if command and not shutil.which(command[0]):
            raise RehearsalError(f"there is no program {command[0]} that can be run; check its name, path and permissions")
        with start_rehearsal(region, serve=serve, grace=grace, private=private) as rehearsal:
            if command:
                program = subprocess.Popen(command, env=rehearsal.within(os.environ))
                while True:
                    with contextlib.suppress(KeyboardInterrupt):  # the program has it, too, and ends when it has cleaned up
                        return code if (code := program.wait()) >= 0 else 128 - code
            return _stay(rehearsal)
    except (RehearsalError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m sagemaker_rehearsal``."""
    parser = argparse.ArgumentParser(
        prog="python -m sagemaker_rehearsal",
        description="Run a local AWS that starts real SageMaker jobs and endpoints on this machine.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--region", default="us-east-1", help="region that it plays")
    parser.add_argument("--serve", default="", help="shell command with which the image serves a model")
    parser.add_argument("--grace", type=float, default=120.0, help="seconds between SIGTERM and SIGKILL; AWS gives 120")
    parser.add_argument("--public", action="store_true", help="no private /opt/ml, even if the system offers one")
    words = "run this inside and end with it; without it, print the variables to set and stay until Ctrl-C"
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help=words)
    given = parser.parse_args(arguments)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    return rehearse(command, region=given.region, serve=given.serve, grace=given.grace, private=not given.public)


def _stay(rehearsal: Rehearsal) -> int:
    hidden = sorted(name for name in os.environ if name.startswith("AWS_") and name not in rehearsal.environment)
    if hidden:
        print("unset", *hidden)
    for name, value in rehearsal.environment.items():
        print(f"export {name}={shlex.quote(value)}")
    print(f"# A local AWS: {rehearsal.isolation}. It ends, with all that is in it, at Ctrl-C.", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print()
    return 0
