"""Search the settings of a training with Optuna, in several workers that may die at any moment.

The study is one SQLite file, or lies in a database that several machines reach. Optuna's heartbeat tells every worker which
trials have lost theirs; such a trial is tried again with the same settings in the same folder, where its training resumes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from lightning import Callback
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from brats_cohort.files import DataError, write_atomically
from helpers.models.checkpoints import card_path
from helpers.training import Interrupted
from helpers.training.callbacks import History
from helpers.training.module import NonFiniteError
from helpers.training.settings import TrainSettings
from helpers.training.train import train

HEARTBEAT, GRACE = 10, 60
"""Seconds between signs of life of a worker, and without any after which its trial is taken over."""
RETRIES = 3
"""How often a trial is tried again: its workers may die of the trial itself, such as of its memory."""
STARTUP = 5
"""Trials that are drawn at random and not pruned, before TPE learns from them."""
SPACE: dict[str, tuple[float, float]] = {
    "learning_rate": (1e-4, 3e-2),
    "weight_decay": (1e-6, 1e-1),
    "foreground_probability": (0.0, 1.0),
}
"""Ranges that are searched unless others are given."""


class ReportTrial(Callback):
    """Tell Optuna the Dice of every validation, and end a training that is far behind the others.

    That it was pruned is kept with the trial: if the worker dies before Optuna stores the end, the training looks complete.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.known = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        row = History.of(trainer).rows[-1]
        if row["step"] not in self.known:  # else the worker before this one told it
            self.trial.report(row["dice_mean"], row["step"])
        if self.trial.should_prune():
            self.trial.set_user_attr("pruned", True)
            trainer.should_stop = True

    @property
    def pruned(self) -> bool:
        """Whether this worker or one before it pruned the trial."""
        return self.trial.user_attrs.get("pruned", False)


def search(
    settings: TrainSettings,
    training: Sequence[Path],
    validation: Sequence[Path],
    *,
    out: Path,
    space: Mapping[str, tuple[float, float]] = SPACE,
    trials: int = 20,
    worker: int = 0,
    split_hash: str = "",
    storage: str = "",
) -> optuna.Study:
    """Work on the study of a folder until `trials` have ended; several processes may, and one may go on after another died.

    Prints a line after every trial.

    Parameters
    ----------
    settings, training, validation, split_hash, storage
        As in `train` and `open_study`; the settings say what is not searched.
    out : Path
        For ``study.db`` and a folder for every trial.
    space : mapping from str to (float, float)
        Least and greatest value by setting; logarithmic if it begins above 0 and spans more than a factor of 10.
    trials : int
        Trials in all, pruned ones included.
    worker : int
        Number of this worker: each draws other settings.

    Raises
    ------
    DataError
        If the folder holds a study with other settings, or the space names what is no number of `TrainSettings` or goes
        beyond its limits.
    """
    check_space(settings, space)
    study, begun = open_study(out, storage), []
    fixed = {**settings.decisive, "split": split_hash, "space": {name: list(space[name]) for name in space}}
    names = json.dumps([[path.name for path in part] for part in (training, validation)])  # they carry a hash, also of the grid
    _check_fixed(study, {**fixed, "cases (--fold, --spacing)": hashlib.sha256(names.encode()).hexdigest()[:8]}, out)

    def objective(trial: Trial) -> float:
        begun.append(trial.number)
        seed = int(np.random.SeedSequence((settings.seed, worker, trial.number)).generate_state(1)[0])  # no other trial's
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, constant_liar=True)
        ranges = {name: {"low": low, "high": high, "log": low > 0 and high > 10 * low} for name, (low, high) in space.items()}
        changed = replace(settings, **{name: trial.suggest_float(name, **ranges[name]) for name in space})
        folder, watch = trial_folder(out, trial.study.get_trials(deepcopy=False)[trial.number]), ReportTrial(trial)
        try:
            result = train(changed, training, validation, out=folder, split_hash=split_hash, resume="auto", callbacks=[watch])
        except NonFiniteError as error:
            trial.set_user_attr("reason", str(error))
            raise optuna.TrialPruned from error
        if watch.pruned:
            raise optuna.TrialPruned
        return result.best_dice

    def conclude(study: optuna.Study, trial: FrozenTrial) -> None:
        shutil.rmtree(trial_folder(out, trial) / "checkpoints", ignore_errors=True)
        drawn = ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
        score = "pruned" if trial.state == TrialState.PRUNED else f"Dice {trial.value:.4f}"
        tqdm.write(f"trial {origin(trial)}, {len(ended_trials(study))} of {trials} ended: {score}; {drawn}")

    try:
        while len(ended_trials(study)) < trials:
            fail_stale_trials(study)
            states = [trial.state for trial in study.get_trials(deepcopy=False)]
            if TrialState.WAITING not in states and len(states) - states.count(TrialState.FAIL) >= trials:
                time.sleep(1)  # until the last trials of other workers have ended, or lost their workers
                continue
            try:
                study.optimize(objective, n_trials=1, callbacks=[conclude])
            except BaseException as error:  # a trial that failed is to be tried again by whoever goes on
                if begun and (trial := study.get_trials()[begun[-1]]).state == TrialState.FAIL:
                    _try_again(study, trial, counted=not isinstance(error, Interrupted | KeyboardInterrupt))
                raise
    except StorageInternalError as error:
        remedy = "make room, or look after the database in --storage; the same command goes on with the search"
        raise DataError(f"the study of {out} cannot be read or written", remedy) from error
    return study


def open_study(folder: Path, storage: str = "") -> optuna.Study:
    """Open the study of a folder; it is made if there is none.

    `storage` is the URL of a database in which it has the folder's name; empty for ``study.db`` in the folder.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the heartbeat and its retries
    options = {"heartbeat_interval": HEARTBEAT, "grace_period": GRACE, "heartbeat_stale_trial_callback": _retry()}
    try:
        if storage:
            name, opened = Path(folder).resolve().name, _open_storage(storage, **options)
        else:
            path, waiting = (Path(folder) / "study.db").absolute(), {"connect_args": {"timeout": 60}}
            name, opened = "search", _open_storage(f"sqlite:///{path}", engine_kwargs=waiting, **options)
    except ImportError as error:
        problem = "the driver of the database in --storage is not installed"
        raise DataError(problem, 'pip install ./packages/* ".[cluster]"') from error
    except (SQLAlchemyError, ValueError) as error:  # not quoted, for the URL may hold a password
        if not storage:
            problem = f"{path} cannot be opened as a study ({getattr(error, 'orig', error)})"
            raise DataError(problem, "make room or remove the file, or give another --out") from error
        raise DataError("the database in --storage cannot be opened", "check its URL, and that it takes connections") from error
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP)
    return optuna.create_study(study_name=name, storage=opened, direction="maximize", pruner=pruner, load_if_exists=True)


def _open_storage(url: str, **options: Any) -> RDBStorage:
    """Open a storage; of workers that start together on a new one, each but the first may fail to make its tables."""
    for _ in range(3):
        with contextlib.suppress(SQLAlchemyError):
            return RDBStorage(url, **options)
        time.sleep(1)
    return RDBStorage(url, **options)


def ended_trials(study: optuna.Study) -> list[FrozenTrial]:
    """List the trials that are complete or pruned, in the order in which they were first begun."""
    return sorted(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)), key=origin)


def origin(trial: FrozenTrial) -> int:
    """Return the number of the trial that this one is, or that it tries again; it names the folder."""
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if first is None else first


def trial_folder(folder: Path, trial: FrozenTrial) -> Path:
    """Return the folder in which a trial keeps its weights."""
    return Path(folder) / "trials" / f"{origin(trial):04d}"


def export_best(study: optuna.Study, folder: Path) -> Path:
    """Copy weights and card of the best trial to the folder of the search; returns the weights."""
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise DataError(f"no trial of the search in {folder} is complete", "let the search go on, with more trials")
    source, target = trial_folder(folder, study.best_trial) / "best.safetensors", Path(folder) / "best.safetensors"
    for each, copy in ((source, target), (card_path(source), card_path(target))):
        content = each.read_bytes()  # of another machine if the searches share a storage and no folder
        with write_atomically(copy) as temporary:
            temporary.write_bytes(content)
    return target


def _retry() -> RetryHeartbeatStaleTrialCallback:
    """Return what queues a trial again that lost its worker."""
    return RetryHeartbeatStaleTrialCallback(max_retry=RETRIES, inherit_intermediate_values=True)


def _try_again(study: optuna.Study, trial: FrozenTrial, *, counted: bool) -> None:
    """Queue a trial again; after a failure, which is `counted`, at most `RETRIES` times."""
    if counted:
        _retry()(study, trial)
        return
    trial.state, trial.datetime_complete = TrialState.WAITING, None
    trial.system_attrs.setdefault("failed_trial", trial.number)  # where `RetryHeartbeatStaleTrialCallback` keeps it
    study.add_trial(trial)


def check_space(settings: TrainSettings, space: Mapping[str, Any]) -> None:
    """Raise `DataError` unless the space has two numbers for each setting, between which the setting may lie."""
    for name, limits in space.items():
        pair = isinstance(limits, Sequence) and len(limits) == 2 and all(isinstance(limit, int | float) for limit in limits)
        if not isinstance(getattr(settings, name, None), float) or not pair or not -math.inf < limits[0] < limits[1] < math.inf:
            remedy = f"give the least and the greatest value of settings that are no whole numbers, such as {', '.join(SPACE)}"
            raise DataError(f"{name} cannot be searched over {limits}", remedy)
        for limit in limits:
            replace(settings, **{name: limit})


def _check_fixed(study: optuna.Study, fixed: Mapping[str, Any], folder: Path) -> None:
    """Refuse a study whose trainings differ in more than what is drawn."""
    wanted = json.loads(json.dumps(fixed))
    found = wanted | study.user_attrs.get("fixed", {})
    differing = [f"{name} {found.get(name)} there, {wanted[name]} here" for name in wanted if found.get(name) != wanted[name]]
    if differing:
        raise DataError(f"the search in {folder} has {'; '.join(differing)}", "give the settings of then, or another --out")
    study.set_user_attr("fixed", wanted)
