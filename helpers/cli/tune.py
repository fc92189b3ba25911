"""``python -m helpers tune``: search the settings of a training, in several workers and across interruptions."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import distributed

from brats_cohort.command import Target
from brats_cohort.files import DataError
from helpers.cli.train import CohortOptions, check_settings, open_cohort, parts_of
from helpers.training import EXIT_STATUS, Interrupted
from helpers.training.settings import TrainSettings
from helpers.training.tune import SPACE, check_space, export_best, search


def run(
    *,
    source: CohortOptions,
    out: Target,
    fold: int = 0,
    trials: int = 20,
    search_workers: int = 1,
    storage: str = "",
    space: Mapping[str, Any] = SPACE,
    settings: TrainSettings,
) -> int:
    """Search the settings of a training with Optuna; the same command goes on after any interruption.

    Parameters
    ----------
    source : CohortOptions
        Cases to train on.
    out : Path
        Folder for the split, the prepared cases, the study, its trials and the best model.
    fold : int
        Which fold is the validation part.
    trials : int
        Trials in all; more may be asked for later.
    search_workers : int
        Processes that work on the study here.
    storage : str
        Database for the study, such as postgresql+psycopg://me@host/name, so that several machines can work on it.
    space : mapping
        Least and greatest value by setting, as JSON.
    settings : TrainSettings
        What is not searched.
    """
    if min(trials, search_workers) < 1:
        raise DataError(f"--trials is {trials} and --search-workers is {search_workers}", "give 1 or more for both")
    if distributed.is_torchelastic_launched():  # its processes would train one network with the settings of two trials
        raise DataError("torchrun trains one network, a search trains many", "leave it out; --search-workers shares a search")
    check_space(settings, space)
    check_settings(source, settings, work=out, folds=(fold,), begun=(out / "trials").is_dir())
    _, manifest, prepared = open_cohort(source, settings, work=out)
    training, validation = parts_of(manifest, prepared, fold)
    options = {"out": out, "trials": trials, "split_hash": manifest.sha256, "space": dict(space), "storage": storage}
    context = multiprocessing.get_context("spawn")
    words = (search_workers, settings, training, validation, options)
    others = [context.Process(target=_work_in_process, args=(number, *words)) for number in range(1, search_workers)]
    with _interruptible():
        try:
            for process in others:
                process.start()
            study = _work(0, *words)
            for process in others:
                process.join()
        except BaseException:  # else the others would go on
            running = [process for process in others if process.is_alive()]
            for process in running:
                process.terminate()  # it saves its training first
            for process in running:
                process.join()
            raise
    best = export_best(study, out)
    drawn = ", ".join(f"{name} {value:.3g}" for name, value in study.best_params.items())
    print(f"best mean validation Dice {study.best_value:.4f} with {drawn}\n{best}")
    failed = [f"worker {number} with status {process.exitcode}" for number, process in enumerate(others, 1) if process.exitcode]
    if failed:
        raise DataError(f"the search is complete, but {' and '.join(failed)} died on the way", "look at what it printed above")
    return 0


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Raise `Interrupted` at SIGTERM or Ctrl-C between trainings too, such as while other workers end their trials."""
    sentence = "stopped as told; the same command goes on with the search"

    def stop(*_: Any) -> None:
        raise Interrupted(sentence)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(sentence, signal.SIGINT) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _work_in_process(*words: Any) -> None:
    """Work on the study in a process of its own, which ends without a traceback when it is told to stop."""
    try:
        with _interruptible():
            _work(*words)
    except Interrupted:
        sys.exit(EXIT_STATUS)


def _work(number: int, workers: int, settings: TrainSettings, training: list, validation: list, options: Mapping) -> Any:
    """Work on the study; the threads of the machine are shared out among all workers."""
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    return search(settings, training, validation, worker=number, **options)
