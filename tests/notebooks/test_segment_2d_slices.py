"""The extra notebook on slices: on phantoms beside patients, and on a cohort with a bad patient; real ones if there are any."""

import hashlib

import nbformat
import optuna
import pytest
from monai import networks

from glioma_phantom import PhantomSettings
from glioma_phantom.slices import write_phantom_slices
from helpers.running import assign, execute_notebooks
from helpers.workspace import REPOSITORY, load_metrics, open_workspace
from tests.cases import REAL_CASES

NOTEBOOK = REPOSITORY / "notebooks" / "extras" / "segment_2d_slices.ipynb"
TINY = {"CASES": "4", "PHANTOM_SPACING": "4.0", "EDGE": "32", "PATCH": "32", "FILTERS": "4", "STEPS": "2", "SEED": "7"}
TINY |= {"TRIALS": "2", "TRIAL_STEPS": "2", "TRIAL_FILTERS": "(4,)"}
REAL = REAL_CASES / "lgg"


@pytest.mark.parametrize("cohort", ["phantom", "lgg"])
def test_it_runs_and_leaves_its_numbers(tmp_path, cohort):
    parameters, folder = TINY | {"OUT": str(tmp_path / "out")}, tmp_path / "slices"
    if cohort == "phantom" and REAL.is_dir():
        parameters |= {"REAL_CASES": str(REAL)}
    if cohort == "lgg":
        (bad, *_) = write_phantom_slices(folder, 1 if REAL.is_dir() else 4, PhantomSettings(spacing=4.0))
        next(bad.glob("*_2.tif")).write_bytes(b"no picture")
        for patient in REAL.glob("TCGA*"):
            (bad.parent / patient.name).symlink_to(patient)
        parameters |= {"COHORT": "lgg", "DATA": str(folder)}
    workspace = open_workspace(cohort, data=folder if cohort == "lgg" else "", out=tmp_path / "out")
    (run,) = execute_notebooks([NOTEBOOK], workspace.root / "run", parameters=assign([NOTEBOOK], parameters))
    assert run.status == "ok", run.error
    record = load_metrics(workspace, "segment_2d_slices")
    assert (record["numbers"]["trials"], record["numbers"]["kind of patients"]) == (
        2,
        "real" if cohort == "lgg" else "phantoms",
    )
    assert 0 <= record["numbers"]["test Dice by patient"] <= 1
    assert len(record["checkpoint_sha256"]) == 64


def test_another_network_gets_another_search(tmp_path):
    """Exercise 2 replaces the normalisation; the trials of the network before say nothing about the new one."""
    cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells}
    known = {"networks": networks, "optuna": optuna, "hashlib": hashlib, "results": tmp_path, "facts": ["A", "B"]}
    known |= {"EDGE": 32, "PATCH": 32, "TRIAL_STEPS": 2, "TRIAL_RATES": (1e-2, 1e-1), "TRIAL_FILTERS": (4,), "SEED": 7}
    names = []
    for norm in ("batch", "batch", "instance"):
        exec(cells["c25"].replace("batch", norm), known)
        exec(cells["ed7e0b9c"], known)
        names.append(known["study"].study_name)
    assert names[0] == names[1] != names[2]
