"""The study of a search: one SQLite file, a folder for every trial, and locks on files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from helpers.models.checkpoints import card_path
from helpers.workspace import DataError

STUDY, TRIALS, BEST = "study.db", "trials", "best.safetensors"
STARTUP = 5
"""Trials that are complete before any is ended early, unless something else is asked for."""


def open_study(folder: Path, *, startup: int = STARTUP) -> optuna.Study:
    """The study of a folder, made where there is none yet."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_optuna():
        storage = RDBStorage(f"sqlite:///{(folder / STUDY).absolute()}", engine_kwargs={"connect_args": {"timeout": 60}})
        pruner = optuna.pruners.MedianPruner(n_startup_trials=startup)
        return optuna.create_study(
            storage=storage, study_name="search", direction="maximize", pruner=pruner, load_if_exists=True
        )


def origin(trial: FrozenTrial) -> int:
    """Number of the trial that this one is, or that it goes on with; it names the folder."""
    return trial.system_attrs.get("failed_trial", trial.number)


def trial_folder(folder: Path, trial: FrozenTrial) -> Path:
    """Where a trial keeps its weights."""
    return Path(folder) / TRIALS / f"{origin(trial):04d}"


def ended_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that came to an end, complete or ended early, in the order in which they were first begun."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return sorted(ended, key=origin)


def export_best(study: optuna.Study, folder: Path) -> Path:
    """Copy weights and card of the best trial to the folder of the search; returns the weights.

    Raises
    ------
    DataError
        If no trial is complete.
    """
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise DataError(f"no trial of {Path(folder) / STUDY} is complete", "let the search go on, with more trials")
    source, target = trial_folder(folder, study.best_trial) / BEST, Path(folder) / BEST
    shutil.copyfile(source, target)
    shutil.copyfile(card_path(source), card_path(target))
    return target


def check_fixed(study: optuna.Study, fixed: Mapping[str, Any], folder: Path) -> None:
    """Scores of trainings that differ in more than what was drawn cannot be compared."""
    wanted = json.loads(json.dumps(dict(fixed)))
    found = study.user_attrs.setdefault("fixed", wanted)
    differing = [name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)]
    if differing:
        what = "; ".join(f"{name} {found.get(name)} there, {wanted.get(name)} here" for name in sorted(differing))
        raise DataError(f"{folder / STUDY} is a search with other settings ({what})", "give those of then, or another folder")
    study.set_user_attr("fixed", wanted)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[Callable[[], None]]:
    """Hold a lock on a file, waiting for it; yields what gives it back before the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield partial(fcntl.flock, stream, fcntl.LOCK_UN)


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock on a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Hold back Optuna's log and its notes on functions that may still change."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(level)
