"""The state that an interrupted training goes on from: one file, whole at every moment, that never unpickles.

It holds tensors and plain numbers, and is opened with ``weights_only``. What random numbers need is not in it: patch n and
the noise of step k are pure functions of the seed and of n and k.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from helpers.models.checkpoints import ModelCard
from helpers.training.before.settings import TrainSettings
from helpers.workspace import DataError

VERSION = 1
FREE = frozenset({"workers", "cache", "save_every", "logger"})
"""Settings that do not change the result, so a training may go on with others."""


def identity(settings: TrainSettings, card: ModelCard) -> dict[str, Any]:
    """What must be equal for a training to go on, as JSON knows it."""
    decisive = {name: value for name, value in asdict(settings).items() if name not in FREE}
    facts = {**decisive, "cohort_hash": card.cohort_hash, "split_hash": card.split_hash, "training_cases": card.training_cases}
    return json.loads(json.dumps(facts))


def check_identity(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Raise `DataError` naming what differs between a state and the training that is to go on from it."""
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        words = {"cohort_hash": "the cases", "split_hash": "the split", "training_cases": "the training part"}
        what = "; ".join(words.get(name) or f"{name} {found.get(name)} there, {wanted[name]} here" for name in differing)
        raise DataError(
            f"{path} is of another training ({what})",
            "give the settings of then or another folder, or start afresh with --resume never",
        )


def write_state(path: Path, content: Mapping[str, Any]) -> None:
    """Write a state so that at every moment the file is either the one before or this one, also when power fails."""
    stream = io.BytesIO()
    torch.save({"version": VERSION, **content}, stream)
    write_durably(path, stream.getvalue())


def read_state(path: Path) -> dict[str, Any] | None:
    """The state at `path`, on the CPU; None where there is no file. Raises `DataError` if it is none."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["version"] != VERSION:
            raise DataError(f"{path} is of another version of this package", "start afresh with --resume never")
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path} is not a state of a training ({error})", "start afresh with --resume never") from error
    return state


def write_durably(path: Path, payload: bytes) -> None:
    """Write a file under a temporary name, wait until the disk has it, and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as stream:
        stream.write(payload)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    with contextlib.suppress(OSError):  # some network file systems know no such thing as a folder on disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
