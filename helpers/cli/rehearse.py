"""``python -m helpers rehearse``: a local AWS (`sagemaker_rehearsal`) whose endpoints serve the models of this package."""

from __future__ import annotations

import argparse
import shlex
import sys

from sagemaker_rehearsal import command

__all__ = ["add_arguments", "run"]

run = command.run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    command.add_arguments(parser, serve=f"{shlex.quote(sys.executable)} -m helpers.serve.app")
