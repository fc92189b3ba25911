"""``python -m helpers rehearse``: a local AWS (`sagemaker_rehearsal`) whose endpoints serve the models of this package."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import tyro

from sagemaker_rehearsal.command import rehearse

SERVE = f"{shlex.quote(sys.executable)} -m helpers serve"


def run(
    command: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[-- COMMAND ...]")] = (),
    /,
    *,
    region: str = "us-east-1",
    serve: str = SERVE,
    grace: float = 120.0,
    public: bool = False,
) -> int:
    """Rehearse a command, or stay until Ctrl-C.

    Parameters
    ----------
    command
        Run this inside and end with it; without it, print the variables to set and stay.
    region
        Region that it plays.
    serve
        Shell command with which the image serves a model.
    grace
        Seconds between SIGTERM and SIGKILL; AWS gives 120.
    public
        Do without a private /opt/ml, even if the system offers one.
    """
    return rehearse(command, region=region, serve=serve, grace=grace, private=not public)
