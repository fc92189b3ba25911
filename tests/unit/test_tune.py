"""A search: how many trials, which settings, what happens to trials that fail and to those whose workers die."""

import json
import math
import multiprocessing
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from optuna import Study
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from brats_cohort.files import DataError
from brats_cohort.testing import write_case
from helpers.cli import main
from helpers.models.checkpoints import load_checkpoint
from helpers.training import Interrupted, tune
from helpers.training.module import NonFiniteError
from helpers.training.settings import TrainSettings
from helpers.training.tune import ended_trials, export_best, open_study, origin, search, trial_folder

SETTINGS = TrainSettings(seed=5)
SPACE = {"learning_rate": (1e-4, 1e-1), "foreground_probability": (0.0, 1.0)}


class Hill:
    """A training whose Dice is best at a foreground probability of 0.2 and grows over three validations; dies at some calls."""

    def __init__(self, dies=()):
        self.dies, self.calls, self.death = dies, [], RuntimeError("the machine is gone")

    def __call__(self, settings, training, validation, *, out, callbacks, **options):
        self.calls.append((settings, out))
        number = len(self.calls)
        out.mkdir(parents=True, exist_ok=True)
        for step in (1, 2, 3):
            dice = step / 3 - abs(settings.foreground_probability - 0.2)
            history = SimpleNamespace(rows=[{"step": step, "dice_mean": dice}])
            trainer = SimpleNamespace(callbacks=[history], should_stop=False)
            if number in self.dies and step == 2:
                raise self.death
            callbacks[0].on_validation_end(trainer, None)
            if trainer.should_stop:
                break
        (out / "best.safetensors").write_text(str(settings.foreground_probability))
        (out / "best.json").write_text("{}")
        return SimpleNamespace(best_dice=dice)


@pytest.fixture
def hill(monkeypatch):
    hill = Hill()
    monkeypatch.setattr(tune, "train", hill)
    monkeypatch.setattr(tune.History, "of", lambda trainer: trainer.callbacks[0])
    monkeypatch.setattr(tune, "STARTUP", 3)
    return hill


def run(out, trials=8, **options):
    return search(SETTINGS, [], [], out=out, space=SPACE, trials=trials, **options)


def table(study):
    return [(trial.params, trial.value, trial.state, trial.intermediate_values) for trial in ended_trials(study)]


def test_draws_lie_in_the_space_and_the_best_is_exported(hill, tmp_path, capsys):
    study = run(tmp_path)
    assert len(study.trials) == len(capsys.readouterr().out.splitlines()) == 8
    for settings, _ in hill.calls:
        assert all(low <= getattr(settings, name) <= high for name, (low, high) in SPACE.items())
    assert {TrialState.COMPLETE, TrialState.PRUNED} == {trial.state for trial in study.trials}
    path = export_best(study, tmp_path)
    assert float(path.read_text()) == study.best_params["foreground_probability"]
    assert json.loads(path.with_suffix(".json").read_text()) == {}
    (trial_folder(tmp_path, study.best_trial) / "best.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=str(trial_folder(tmp_path, study.best_trial))):
        export_best(study, tmp_path)


def test_a_trial_that_fails_is_tried_again_in_its_folder_and_given_up_after_some_times(hill, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "RETRIES", 2)
    hill.dies = (2, 4, 5, 6)
    for _ in hill.dies:
        with pytest.raises(RuntimeError):
            run(tmp_path, trials=4)
    study = run(tmp_path, trials=4)
    assert [origin(trial) for trial in study.trials[1:3]] == [1, 1] and hill.calls[1] == hill.calls[2]
    assert len({trial_folder(tmp_path, trial) for trial in study.trials}) == 5, "one was given up"
    assert len(ended_trials(study)) == 4


@pytest.mark.parametrize("death", [Interrupted("stopped as told"), KeyboardInterrupt()])
def test_a_trial_that_is_told_to_stop_is_tried_again_however_often(death, hill, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "RETRIES", 1)
    hill.dies, hill.death = (2, 3, 4), death
    for _ in hill.dies:
        with pytest.raises(type(death)):
            run(tmp_path, trials=2)
    hill.dies, hill.death = (5,), RuntimeError("the machine is gone")
    with pytest.raises(RuntimeError):
        run(tmp_path, trials=2)
    study = run(tmp_path, trials=2)
    assert [origin(trial) for trial in study.trials] == [0, 1, 1, 1, 1, 1]
    assert len({settings.learning_rate for settings, _ in hill.calls[1:]}) == 1
    assert [trial.state for trial in study.trials[1:]] == [TrialState.FAIL] * 4 + [TrialState.COMPLETE]
    assert list(study.trials[-1].intermediate_values) == [1, 2, 3]


def test_a_trial_whose_worker_died_once_it_was_pruned_stays_pruned(tmp_path, monkeypatch):
    calls = []

    def finished_then_dead(settings, training, validation, *, out, callbacks, **options):
        calls.append(out)
        if len(calls) == 1:
            trainer = SimpleNamespace(callbacks=[SimpleNamespace(rows=[{"step": 1, "dice_mean": 0.1}])], should_stop=False)
            callbacks[0].on_validation_end(trainer, None)
            assert trainer.should_stop
            raise RuntimeError("the machine is gone")
        return SimpleNamespace(best_dice=0.1)

    monkeypatch.setattr(tune, "train", finished_then_dead)
    monkeypatch.setattr(tune.History, "of", lambda trainer: trainer.callbacks[0])
    monkeypatch.setattr("optuna.trial.Trial.should_prune", lambda trial: True)
    with pytest.raises(RuntimeError):
        run(tmp_path, trials=1)
    assert [trial.state for trial in run(tmp_path, trials=1).trials] == [TrialState.FAIL, TrialState.PRUNED]
    assert len(set(calls)) == 1


def test_more_trials_may_be_asked_for_and_a_complete_search_does_nothing(hill, tmp_path):
    for trials, calls in ((3, 3), (3, 3), (5, 5)):
        run(tmp_path, trials=trials)
        assert len(hill.calls) == calls
    assert len({tuple(trial.params.values()) for trial in open_study(tmp_path).trials}) == 5, "a draw came twice"


def test_a_training_that_is_not_finite_ends_its_trial_only(tmp_path, monkeypatch):
    def explode(*arguments, **options):
        raise NonFiniteError("step 3: the loss is not finite", "lower the learning rate")

    monkeypatch.setattr(tune, "train", explode)
    study = run(tmp_path, trials=2)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED] * 2
    assert "not finite" in study.trials[0].user_attrs["reason"]
    with pytest.raises(DataError, match=f"no trial of the search in {tmp_path} is complete"):
        export_best(study, tmp_path)


def test_a_study_with_other_settings_is_refused(hill, tmp_path):
    run(tmp_path, trials=1)
    with pytest.raises(DataError, match=f"the search in {tmp_path} has steps 600 there, 7 here"):
        search(TrainSettings(seed=5, steps=7), [], [], out=tmp_path, space=SPACE, trials=1)


def test_a_study_of_another_fold_or_grid_is_refused(hill, tmp_path):
    one, other = tmp_path / "case_1-aaaa.safetensors", tmp_path / "case_2-bbbb.safetensors"
    for training, validation in (([one], [other]), ([one], [other]), ([other], [one]), ([one], [tmp_path / "case_2-cccc"])):
        options = {"out": tmp_path / "search", "space": SPACE, "trials": len(hill.calls) + 1}
        if hill.calls[1:]:
            with pytest.raises(DataError, match=r"has cases \(--fold, --spacing\) \w+ there, \w+ here"):
                search(SETTINGS, training, validation, **options)
        else:
            search(SETTINGS, training, validation, **options)
    assert len(hill.calls) == 2


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"network": (0.0, 1.0)}, "network cannot be searched"),
        ({"learning_rate": (1.0, 0.1)}, "learning_rate cannot be searched"),
        ({"nonsense": (0.0, 1.0)}, "nonsense cannot be searched"),
        ({"learning_rate": 0.1}, "learning_rate cannot be searched over 0.1"),
        ({"learning_rate": ["a", "b"]}, "learning_rate cannot be searched"),
        ({"learning_rate": [0.1, math.inf]}, "learning_rate cannot be searched"),
        ({"learning_rate": [0, 0.1]}, "learning_rate is 0; give a number greater than 0"),
        ({"warmup": [0.5, 2.0]}, "warmup is 2.0; give a number between 0 and 1"),
    ],
)
def test_spaces_that_cannot_be_are_refused_before_the_first_trial(space, words, hill, tmp_path):
    with pytest.raises(DataError, match=words):
        search(SETTINGS, [], [], out=tmp_path, space=space)
    assert not hill.calls and not list(tmp_path.iterdir())


def test_a_worker_that_is_slow_to_store_its_result_keeps_its_trial(hill, tmp_path, monkeypatch):
    """Another worker once took a finished trial for dead before its result was stored, and trained it again."""
    original = RDBStorage.set_trial_state_values

    def slow(storage, trial_id, state, values=None):
        if state == TrialState.COMPLETE:
            time.sleep(1)
        return original(storage, trial_id, state, values)

    open_study(tmp_path)
    monkeypatch.setattr(RDBStorage, "set_trial_state_values", slow)
    failures = []

    def work(number):
        try:
            run(tmp_path, trials=4, worker=number)
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    trials = open_study(tmp_path).trials
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(hill.calls) == len(trials) <= 5, "no trial was trained twice"


def test_a_trial_whose_worker_died_is_taken_over_by_heartbeat(hill, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "HEARTBEAT", 1)
    monkeypatch.setattr(tune, "GRACE", 2)
    worker = multiprocessing.get_context("fork").Process(target=_hang, args=(tmp_path,))
    worker.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.1)
    worker.kill()
    worker.join()
    time.sleep(3)
    study = run(tmp_path, trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert origin(study.trials[1]) == 0 and study.trials[1].params == study.trials[0].params


def _hang(folder):
    def train(*arguments, **options):
        (folder / "begun").touch()
        time.sleep(60)

    tune.train = train
    run(folder, trials=1)


def test_the_command_searches_with_real_trainings_and_tells_of_dead_workers(tmp_path, capsys, monkeypatch):
    for number in range(4):
        write_case(tmp_path / "cohort", f"Case_{number:03}", seed=number)
    words = ["tune", "--cohort", str(tmp_path / "cohort"), "--out", str(tmp_path / "out"), "--trials", "2"]
    words += [
        "--arguments",
        '{"channels": [4, 8]}',
        "--patch",
        "16",
        "--steps",
        "2",
        "--validate-every",
        "2",
        "--device",
        "cpu",
    ]
    assert main(words) == 0
    assert "best mean validation Dice" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "out" / "best.safetensors")[1].training["steps"] == 2
    dead = SimpleNamespace(start=lambda: None, join=lambda: None, exitcode=-9)
    context = SimpleNamespace(Process=lambda target, args: dead)
    real = multiprocessing.get_context
    monkeypatch.setattr("multiprocessing.get_context", lambda kind=None: context if kind else real())
    assert main([*words, "--search-workers", "2"]) == 1
    assert "worker 1 with status -9 died" in capsys.readouterr().err


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_first_worker_stops_the_others_too(number, tmp_path, monkeypatch, capfd):
    def work(worker, *_):
        if worker == 0:
            while not (tmp_path / "other").exists():
                time.sleep(0.05)
            os.kill(os.getpid(), number)
        (tmp_path / "other").touch()
        time.sleep(60)

    context = multiprocessing.get_context("fork")
    monkeypatch.setattr("helpers.cli.tune.multiprocessing.get_context", lambda kind: context)
    monkeypatch.setattr("helpers.cli.tune.open_cohort", lambda *arguments, **options: (None, SimpleNamespace(sha256=""), None))
    monkeypatch.setattr("helpers.cli.tune.parts_of", lambda *arguments: ([], []))
    monkeypatch.setattr("helpers.cli.tune._work", work)
    before = signal.getsignal(signal.SIGTERM)
    status = main(["tune", "--cohort", str(tmp_path), "--out", str(tmp_path / "out"), "--search-workers", "2"])
    assert status == {signal.SIGTERM: 75, signal.SIGINT: 130}[number]
    assert not multiprocessing.active_children() and signal.getsignal(signal.SIGTERM) == before
    said = capfd.readouterr().err
    assert "Traceback" not in said and "the same command goes on with the search" in said


def test_a_worker_whose_tables_another_one_is_making_waits_for_them(tmp_path, monkeypatch):
    def busy(*arguments, **options):
        monkeypatch.setattr(tune, "RDBStorage", RDBStorage)
        raise OperationalError("CREATE TABLE studies", {}, Exception("table studies already exists"))

    monkeypatch.setattr(tune, "RDBStorage", busy)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert open_study(tmp_path).trials == []


def test_two_machines_that_count_the_trials_at_once_draw_different_settings(hill, tmp_path, monkeypatch):
    optimise, other = Study.optimize, []

    def later(study, *arguments, **options):  # than the trial that another machine begins after this one has looked
        if not other:
            other.append(study)
            run(tmp_path, trials=1)
        optimise(study, *arguments, **options)

    monkeypatch.setattr(Study, "optimize", later)
    trials = run(tmp_path, trials=1).trials
    assert len(trials) == len({tuple(trial.params.values()) for trial in trials}) == 2


def test_a_study_that_is_no_database_is_named_with_its_file(tmp_path):
    (tmp_path / "study.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(DataError, match=r"study\.db cannot be opened as a study \(file is not a database\)"):
        open_study(tmp_path)


def test_a_search_under_torchrun_would_mix_two_trials_and_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert main(["tune", "--cohort", str(tmp_path), "--out", str(tmp_path / "search")]) == 1
    assert "torchrun trains one network, a search trains many; leave it out" in capsys.readouterr().err


def test_a_study_that_is_lost_on_the_way_is_one_sentence(hill, tmp_path, monkeypatch):
    def train(*words, out, **options):
        result = hill(*words, out=out, **options)
        (tmp_path / "study.db").write_bytes(b"rubbish" * 1000)  # as a disk that is full, it cannot be written
        return result

    monkeypatch.setattr(tune, "train", train)
    with pytest.raises(DataError, match=r"the study of .* cannot be read or written; make room"):
        run(tmp_path)
