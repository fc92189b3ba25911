"""``python -m helpers rehearse``: a local AWS, for a command or until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import threading

from helpers.cloud.rehearsal import RehearsalSettings, start_rehearsal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    defaults = RehearsalSettings()
    parser.add_argument("--region", default=defaults.region, help="region that it plays")
    parser.add_argument(
        "--grace", type=float, default=defaults.grace, help="seconds between SIGTERM and SIGKILL; AWS gives 120"
    )
    parser.add_argument(
        "--public", action="store_true", help="do without a private /opt/ml even where the system would give one"
    )
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="run this inside and end with it; without it, print the variables to set and stay until Ctrl-C",
    )


def run(arguments: argparse.Namespace) -> int:
    """Rehearse a command and return its status, or stay until interrupted."""
    settings = RehearsalSettings(arguments.region, grace=arguments.grace, private=not arguments.public)
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    with start_rehearsal(settings) as rehearsal:
        if command:
            return subprocess.run(command, env={**os.environ, **rehearsal.environment}, check=False).returncode
        for name, value in rehearsal.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        print(f"# A local AWS: {rehearsal.isolation}. It ends, with all that is in it, at Ctrl-C.", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()
    return 0
