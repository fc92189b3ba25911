"""A search in this process: how many trials, which parameters, and what happens to those that fail."""

import json
from dataclasses import dataclass, field

import pytest
from optuna.trial import TrialState

from helpers.extras.lgg.search import SearchSpace
from helpers.training.before.guard import NonFiniteError
from helpers.training.before.study import (
    ended_trials,
    export_best,
    open_study,
    origin,
    trial_folder,
)
from helpers.training.before.tune import Attempt, TuneSettings, work
from helpers.workspace import DataError

SETTINGS = TuneSettings(trials=8, startup=3, seed=5)
SPACE = SearchSpace()


@dataclass
class Hill:
    """A training whose score is best at a dropout of 0.2 and grows over three validations; dies at the given calls."""

    dies: tuple[int, ...] = ()
    calls: list = field(default_factory=list)

    def __call__(self, attempt: Attempt):
        self.calls.append(attempt)
        attempt.folder.mkdir(parents=True, exist_ok=True)
        for step in (1, 2, 3):
            score = step / 3 - abs(attempt.parameters["dropout"] - 0.2)
            if len(self.calls) in self.dies and step == 2:
                raise RuntimeError("the machine is gone")
            if attempt.watch(step, score) and step < 3:
                return None
        (attempt.folder / "best.safetensors").write_text(str(attempt.parameters["dropout"]))
        (attempt.folder / "best.json").write_text("{}")
        return score


def search(folder, train, settings=SETTINGS, **options):
    return work(folder, settings, suggest=SPACE.suggest, train=train, **options)


def table(study):
    return [(trial.params, trial.value, trial.state, trial.intermediate_values) for trial in ended_trials(study)]


def test_draws_lie_in_the_space_and_the_best_is_exported(tmp_path):
    lines = []
    study = search(tmp_path, Hill(), report=lines.append)
    assert len(study.trials) == len(lines) == 8
    for trial in study.trials:
        assert 0 <= trial.params["dropout"] <= 0.5 and 1e-6 <= trial.params["learning_rate"] <= 1e-1
        assert trial.params["batch"] in (16, 32) and trial.params["filters"] in (8, 16, 32)
    assert {TrialState.COMPLETE, TrialState.PRUNED} == {trial.state for trial in study.trials}
    path = export_best(study, tmp_path)
    assert float(path.read_text()) == study.best_params["dropout"]
    assert json.loads(path.with_suffix(".json").read_text()) == {}


def test_a_search_that_dies_again_and_again_draws_what_an_undisturbed_one_does(tmp_path):
    whole, train = search(tmp_path / "whole", Hill()), Hill(dies=(1, 4, 5))
    for _ in train.dies:
        with pytest.raises(RuntimeError):
            search(tmp_path / "cut", train)
    cut = search(tmp_path / "cut", train)
    assert table(cut) == table(whole)
    assert len(train.calls) == 8 + 3
    assert train.calls[0].folder == train.calls[1].folder != train.calls[2].folder


def test_more_trials_may_be_asked_for_and_a_complete_search_does_nothing(tmp_path):
    train = Hill()
    search(tmp_path, train, TuneSettings(trials=3, seed=5))
    search(tmp_path, train, TuneSettings(trials=3, seed=5))
    assert len(train.calls) == 3
    assert len(ended_trials(search(tmp_path, train, TuneSettings(trials=5, seed=5)))) == len(train.calls) == 5


def test_a_training_that_is_not_finite_ends_its_trial_only(tmp_path):
    def explode(attempt):
        raise NonFiniteError("step 3: the loss is not finite", "lower the learning rate")

    study = search(tmp_path, explode, TuneSettings(trials=2))
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED] * 2
    assert "not finite" in study.trials[0].user_attrs["reason"]
    with pytest.raises(DataError, match="no trial of"):
        export_best(study, tmp_path)


def test_a_trial_that_kills_its_workers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.training.before.tune.TAKEN_OVER", 2)
    train, one = Hill(dies=(1, 2, 3)), TuneSettings(trials=1)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            search(tmp_path, train, one)
    assert ended_trials(search(tmp_path, train, one)) == []
    assert len(train.calls) == 3


def test_a_study_of_other_trainings_is_refused(tmp_path):
    search(tmp_path, Hill(), TuneSettings(trials=1), fixed={"steps": 100})
    search(tmp_path, Hill(), TuneSettings(trials=1), fixed={"steps": 100})
    with pytest.raises(DataError, match="steps 100 there, 200 here"):
        search(tmp_path, Hill(), TuneSettings(trials=1), fixed={"steps": 200})


def test_trials_keep_their_folder_when_taken_over(tmp_path):
    with pytest.raises(RuntimeError):
        search(tmp_path, Hill(dies=(1,)), TuneSettings(trials=1))
    study = search(tmp_path, Hill(), TuneSettings(trials=1))
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert {origin(trial) for trial in open_study(tmp_path).trials} == {0}
    assert len({trial_folder(tmp_path, trial) for trial in study.trials}) == 1
