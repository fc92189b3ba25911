"""A search whose workers are killed loses no trial: real processes, real trainings, SIGKILL at random moments."""

import multiprocessing
import os
import random
import signal

import pytest
import torch

from helpers.extras.lgg.cohort import find_slices
from helpers.extras.lgg.search import SearchSpace, SliceTrial, slice_settings
from helpers.extras.lgg.slices import SlicePreparation
from helpers.models.checkpoints import load_checkpoint
from helpers.training.before.study import (
    ended_trials,
    export_best,
    open_study,
    origin,
)
from helpers.training.before.tune import TuneSettings, work
from tests.unit.test_lgg import write_patient

TRIALS = 6
KILLS = 6


def search(cohort, folder):
    """One worker on the study of `folder`, as the command line starts it."""
    torch.set_num_threads(1)
    patients = find_slices(cohort)
    names = list(patients)
    settings = slice_settings(levels=3, patch=32, steps=8, validate_every=2, save_every=1, device="cpu")
    parts = [{name: patients[name] for name in chosen} for chosen in (names[:2], names[2:])]
    trial = SliceTrial(settings, SlicePreparation(32, (130.0,) * 3, (70.0,) * 3), *parts)
    space = SearchSpace(filters=(4, 8), learning_rate=(1e-3, 1e-1), batch=(4, 8))
    work(folder, TuneSettings(TRIALS, startup=3), suggest=space.suggest, train=trial)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for number in range(3):
        write_patient(folder, f"TCGA_AA_{number}", tumour=4900, count=4)
    return folder


@pytest.fixture(scope="module")
def start(cohort):
    """Start a worker on the study of a folder."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__, "torch.utils.tensorboard", "optuna", "alembic", "sqlalchemy.dialects.sqlite"])

    def start(folder):
        process = server.Process(target=search, args=(cohort, folder))
        process.start()
        return process

    return start


def table(folder):
    trials = ended_trials(open_study(folder))
    return [(origin(trial), trial.params, trial.value, trial.state, trial.intermediate_values) for trial in trials]


def test_a_worker_that_is_killed_again_and_again_ends_with_the_search_of_one_that_is_not(start, tmp_path):
    whole = start(tmp_path / "whole")
    whole.join(120)
    assert whole.exitcode == 0
    generator, deaths = random.Random(3), 0
    while deaths < KILLS:
        worker = start(tmp_path / "cut")
        worker.join(generator.uniform(0.6, 2.5))
        if worker.exitcode is not None:
            break
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        deaths += 1
    assert deaths, "nothing was killed"
    last = start(tmp_path / "cut")
    last.join(120)
    assert last.exitcode == 0
    ends = [[row[1:] for row in table(tmp_path / name)] for name in ("whole", "cut")]
    assert len(ends[0]) == TRIALS
    assert ends[0] == ends[1]
    export_best(open_study(tmp_path / "cut"), tmp_path / "cut")
    assert load_checkpoint(tmp_path / "cut" / "best.safetensors", glioma=False)[1].metrics["dice_mean"] > 0


def test_of_two_workers_the_other_one_takes_over(start, tmp_path):
    first, second = start(tmp_path / "two"), start(tmp_path / "two")
    first.join(2.5)
    os.kill(first.pid, signal.SIGKILL)
    second.join(120)
    assert second.exitcode == 0
    rows = table(tmp_path / "two")
    assert len({row[0] for row in rows}) == len(rows) == TRIALS
