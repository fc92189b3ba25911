"""Workspaces: where folders are, and metrics that survive the way to disk."""

import numpy as np
import pytest

from brats_cohort.files import DataError
from helpers.workspace import REPOSITORY, load_metrics, open_workspace, save_metrics


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
    (tmp_path / "slices").mkdir()
    assert open_workspace("LGG", data=tmp_path / "slices", out=tmp_path / "out").cohort == "lgg"


@pytest.mark.parametrize("out", [".", "results"])
def test_results_among_the_cases_are_refused(tmp_path, out):
    """Notebook 03 writes phantoms, which the next run would divide among the patients, and 01 a copy of a case's file."""
    with pytest.raises(DataError, match=r"would be read as cases of .*; set OUT to a folder outside DATA"):
        open_workspace("brats2021", data=tmp_path, out=tmp_path / out)


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
