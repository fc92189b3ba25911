"""A search for settings that survives the loss of its workers: Optuna's TPE and pruning over a study in one SQLite file.

Every trial has a folder of its own, in which its training keeps the state that it goes on from, and on which its worker holds a
lock. The system drops the lock when the worker dies, whatever it died of: whoever looks next finds a running trial that nobody
holds, takes it over with the same parameters and in the same folder, and so goes on from the last state. (Optuna's heartbeats
would tell the same only after a time of silence, and would take a machine that slept for dead.)

Any number of workers may work on one study. What must not happen twice, beginning a trial and taking one over, happens in turn.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState

from helpers.training.before.guard import NonFiniteError
from helpers.training.before.study import (
    BEST,
    STARTUP,
    check_fixed,
    ended_trials,
    is_free,
    lock,
    open_study,
    origin,
    quiet_optuna,
    trial_folder,
)
from helpers.workspace import DataError

TURN, HELD = "turn.lock", "worker.lock"

TAKEN_OVER = 20
"""How often a trial is taken over before it is given up: its workers die of the trial itself, such as of its memory."""

PAUSE = 0.5
"""Seconds between looks at trials of other workers, when there is none left to begin."""

Suggest = Callable[[Trial], Mapping[str, Any]]
"""Draws the parameters of a trial."""


@dataclass(frozen=True)
class Attempt:
    """One trial as the training that tries it needs it.

    Attributes
    ----------
    parameters : mapping
        As they were drawn.
    folder : Path
        Of the trial; holds what an earlier worker left, if it was taken over.
    watch : callable
        To be told step and score after every validation; returns True where the trial is so far behind that it should end.
    """

    parameters: Mapping[str, Any]
    folder: Path
    watch: Callable[[int, float], bool]


Train = Callable[[Attempt], float | None]
"""Carries out a trial; returns its score, higher is better, or None where `Attempt.watch` ended it."""


@dataclass(frozen=True)
class TuneSettings:
    """How a search goes about it.

    Attributes
    ----------
    trials : int
        Trials in all, ended early or not.
    startup : int
        Trials that are drawn at random, before TPE learns from them, and that are complete before any is ended early.
    seed : int
        With one worker, the same seed draws the same trials, whether the search was interrupted or not.
    """

    trials: int = 20
    startup: int = STARTUP
    seed: int = 2021

    def __post_init__(self) -> None:
        """Refuse a search that cannot be."""
        for name in ("trials", "startup"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}", "it must be at least 1")


def work(
    folder: Path,
    settings: TuneSettings,
    *,
    suggest: Suggest,
    train: Train,
    fixed: Mapping[str, Any] | None = None,
    report: Callable[[str], None] | None = None,
) -> optuna.Study:
    """Work on the study of a folder until it has all its trials; several processes may, and one may go on after another died.

    Parameters
    ----------
    folder : Path
        For ``study.db`` and the trials. Workers on several machines need a file system with locks, as SQLite does.
    settings : TuneSettings
        Equal in all workers; `trials` may be raised later.
    suggest, train : callable
        Draw the parameters of a trial, and try them. A `NonFiniteError` ends the trial as one that leads nowhere; any other
        exception ends this worker, and its trial is taken over by whoever looks next.
    fixed : mapping, optional
        What is equal in all trials, of numbers and text; a study of other values is refused.
    report : callable, optional
        Called with a line of text after every trial, such as `print`.

    Raises
    ------
    DataError
        If the folder holds a study whose trials were trained in another way.
    """
    folder = Path(folder)
    with quiet_optuna():
        with lock(folder / TURN):
            study = open_study(folder, startup=settings.startup)
            check_fixed(study, fixed or {}, folder)
        while True:
            with lock(folder / TURN) as end_turn:
                _recover(study, folder)
                number = _next(study, settings)
                if number is not None and number >= 0:
                    _set_sampler(study, settings, number)
                    objective = partial(_try, folder=folder, suggest=suggest, train=train, begun=end_turn)
                    study.optimize(objective, n_trials=1, callbacks=[partial(_conclude, folder=folder, report=report)])
            if number is None:
                return study
            if number < 0:
                time.sleep(PAUSE)


def _try(trial: Trial, *, folder: Path, suggest: Suggest, train: Train, begun: Callable[[], None]) -> float:
    """One trial, as Optuna calls it; `begun` lets the next worker begin its own."""
    parameters = suggest(trial)
    frozen = trial.study.get_trials(deepcopy=False)[trial.number]
    known = set(frozen.intermediate_values)
    own = trial_folder(folder, frozen)

    def watch(step: int, score: float) -> bool:
        if step not in known:  # the worker before this one may have told before it died
            trial.report(score, step)
        return trial.should_prune()

    with lock(own / HELD):
        begun()
        try:
            score = train(Attempt(parameters, own, watch))
        except NonFiniteError as error:
            trial.set_user_attr("reason", str(error))
            score = None
    if score is None:
        raise optuna.TrialPruned
    return score


def _recover(study: optuna.Study, folder: Path) -> None:
    """Give every trial whose worker died, or was told to stop, back to be taken over."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if is_free(trial_folder(folder, trial) / HELD):
            study.tell(trial.number, state=TrialState.FAIL)
    taken = {number for trial in study.get_trials(deepcopy=False) for number in trial.system_attrs.get("retry_history", ())}
    again = RetryHeartbeatStaleTrialCallback(max_retry=TAKEN_OVER, inherit_intermediate_values=True)
    for trial in study.get_trials(states=(TrialState.FAIL,)):
        if trial.number not in taken:
            again(study, trial)


def _next(study: optuna.Study, settings: TuneSettings) -> int | None:
    """Which trial to begin, counted from 0 without repetitions; -1 to wait for other workers; None where all have ended."""
    trials = study.get_trials(deepcopy=False)
    begun = sorted({origin(trial) for trial in trials})
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
    if waiting:
        return begun.index(origin(waiting[0]))
    if len(begun) < settings.trials:
        return len(begun)
    return -1 if any(trial.state == TrialState.RUNNING for trial in trials) else None


def _set_sampler(study: optuna.Study, settings: TuneSettings, number: int) -> None:
    """Give the study a sampler whose draws depend on the seed, the trial's number and the trials before, not on the process."""
    seed = int(np.random.SeedSequence((settings.seed, number)).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=settings.startup, constant_liar=True)


def _conclude(study: optuna.Study, trial: FrozenTrial, *, folder: Path, report: Callable[[str], None] | None) -> None:
    """Drop what an ended trial no longer needs, and say how it ended."""
    own = trial_folder(folder, trial)
    shutil.rmtree(own / "checkpoints", ignore_errors=True)
    if trial.state == TrialState.PRUNED:
        (own / BEST).unlink(missing_ok=True)
    if report is None:
        return
    ended = ended_trials(study)
    complete = [each.value for each in ended if each.state == TrialState.COMPLETE]
    how = f"score {trial.value:.4f}" if trial.value is not None and trial.state == TrialState.COMPLETE else "ended early"
    best = f", best so far {max(complete):.4f}" if complete else ""
    drawn = ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
    report(f"trial {origin(trial)}, {len(ended)} ended: {how}{best}; {drawn}")
