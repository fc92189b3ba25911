"""The command line: a rehearsal for one command, or until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence

from sagemaker_rehearsal.session import Rehearsal, RehearsalError, start_rehearsal


def add_arguments(parser: argparse.ArgumentParser, *, serve: str = "") -> None:
    """Declare the arguments; `serve` is the default of ``--serve``."""
    parser.add_argument("--region", default="us-east-1", help="region that it plays")
    parser.add_argument("--serve", default=serve, help="shell command with which the image serves a model")
    parser.add_argument("--grace", type=float, default=120.0, help="seconds between SIGTERM and SIGKILL; AWS gives 120")
    parser.add_argument("--public", action="store_true", help="no private /opt/ml, even if the system offers one")
    words = "run this inside and end with it; without it, print the variables to set and stay until Ctrl-C"
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help=words)


def run(arguments: argparse.Namespace) -> int:
    """Rehearse a command and return its status, or stay until interrupted."""
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    options = {"serve": arguments.serve, "grace": arguments.grace, "private": not arguments.public}
    try:
        with start_rehearsal(arguments.region, **options) as rehearsal:
            if command:
                return subprocess.run(command, env=rehearsal.within(os.environ), check=False).returncode
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
    add_arguments(parser)
    return run(parser.parse_args(arguments))


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
