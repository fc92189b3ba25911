"""Entry point of a training job: hyperparameters become options of ``python -m helpers train``.

SageMaker hands hyperparameters over as ``--name value``; the cohort and the folder of the model come through its environment.
Two names are short for arguments of the U-Net, so that a tuning job can draw them: ``width``, the channels of the first level,
and ``dropout``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from helpers.workspace import DataError

LEVELS = 4
"""Of the U-Net; the channels double from one to the next."""
OWN = ("_", "sagemaker_")
"""Beginnings of the names that SageMaker adds for itself."""


def train_words(words: Sequence[str]) -> list[str]:
    """Options of ``train`` from the options of a job.

    Raises
    ------
    DataError
        If they are not pairs of ``--name`` and value.
    """
    names, values = list(words[::2]), list(words[1::2])
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        raise DataError(f"the hyperparameters are {' '.join(words)!r}", "give them as --name value")
    given = {name[2:]: value for name, value in zip(names, values, strict=True) if not name[2:].startswith(OWN)}
    width, dropout = given.pop("width", None), given.pop("dropout", None)
    arguments = json.loads(given.pop("arguments", "{}"))
    if width is not None:
        arguments["channels"] = [int(width) * 2**level for level in range(LEVELS)]
    if dropout is not None:
        arguments["dropout"] = float(dropout)
    if arguments:
        given["arguments"] = json.dumps(arguments)
    return [word for name, value in given.items() for word in (f"--{name}", value)]


def main(words: Sequence[str] | None = None) -> int:
    """Train; returns the exit status."""
    from helpers.cli import main as run

    return run(["train", *train_words(sys.argv[1:] if words is None else words)])
