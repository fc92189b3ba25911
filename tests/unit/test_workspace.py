"""Workspaces: where folders are, and metrics that survive the way to disk."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.workspace import (
    REPOSITORY,
    DataError,
    load_metrics,
    open_workspace,
    require_writable,
    save_metrics,
    write_atomically,
)


def test_folders_follow_the_cohort(tmp_path):
    workspace = open_workspace("phantom", out=tmp_path / "results")
    assert workspace.root == tmp_path / "results"
    assert workspace.root.is_dir()
    assert workspace.data == REPOSITORY / "data" / "phantom"
    inside = [workspace.splits, workspace.prepared, workspace.models, workspace.predictions]
    assert len(set(inside)) == 4
    assert all(path.parent == workspace.root for path in inside)


def test_relative_folders_become_absolute(tmp_path, monkeypatch):
    (tmp_path / "cohort").mkdir()
    monkeypatch.chdir(tmp_path)
    workspace = open_workspace("BraTS2021", data="cohort", out="results")
    assert workspace.cohort == "brats2021"
    assert workspace.data == tmp_path / "cohort"
    assert workspace.root == tmp_path / "results"


def test_cohorts_of_the_extra_notebooks_have_workspaces(tmp_path):
    assert open_workspace("LGG", data=tmp_path, out=tmp_path / "out").cohort == "lgg"


@pytest.mark.parametrize(
    ("cohort", "data", "sentence"),
    [
        ("ct", "no/such/folder", "set DATA"),
        ("brats2021", "no/such/folder", "does not exist"),
        ("msd", "no/such/folder", "set DATA"),
        ("brats1999", "", "was not given"),
    ],
)
def test_real_cohorts_need_their_folder(tmp_path, cohort, data, sentence):
    with pytest.raises(DataError, match=sentence):
        open_workspace(cohort, data=data, out=tmp_path)


def test_results_need_a_folder_that_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="set OUT"):
        open_workspace("phantom", out=tmp_path / "file" / "results")


def test_metrics_come_back_as_plain_numbers(tmp_path):
    workspace = open_workspace("phantom", out=tmp_path)
    numbers = {"Dice WT": np.float32(0.5), "cases": np.int64(12), "p": float("nan"), "network": "unet"}
    path = save_metrics(workspace, "03_train_unet", numbers, checkpoint="ab" * 32)
    assert path == tmp_path / "03_train_unet" / "metrics.json"
    record = load_metrics(workspace, "03_train_unet")
    assert record["numbers"] == {"Dice WT": 0.5, "cases": 12, "p": None, "network": "unet"}
    assert list(record["numbers"]) == list(numbers)
    assert record["checkpoint_sha256"] == "ab" * 32
    assert (record["notebook"], record["cohort"]) == ("03_train_unet", "phantom")
    assert {"python", "helpers", "torch", "monai"} <= set(record["versions"])
    assert [entry.name for entry in path.parent.iterdir()] == ["metrics.json"]


def test_metrics_refuse_what_json_cannot_hold(tmp_path):
    with pytest.raises(TypeError, match="not list"):
        save_metrics(open_workspace("phantom", out=tmp_path), "01_explore_data", {"volumes": [1, 2]}, checkpoint=None)


def test_an_error_has_a_problem_and_a_remedy_that_travel_between_processes():
    error = pickle.loads(pickle.dumps(DataError("a; b is wrong", "mend it")))
    assert (error.problem, error.remedy, str(error)) == ("a; b is wrong", "mend it", "a; b is wrong; mend it")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    with write_atomically(path, durable=True) as temporary:
        temporary.write_text("first")
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as temporary:
        temporary.write_text("sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_writers_of_one_file_do_not_meet(tmp_path):
    def write(number):
        with write_atomically(tmp_path / "file") as temporary:
            temporary.write_text(str(number) * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set((tmp_path / "file").read_text())) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_target_that_cannot_be_written_is_named_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        require_writable(tmp_path / "file" / "below")
    assert require_writable(tmp_path / "new") == tmp_path / "new"
    assert list((tmp_path / "new").iterdir()) == []
