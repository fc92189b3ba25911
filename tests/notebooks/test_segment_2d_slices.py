"""The extra notebook on slices: on phantoms, beside patients if some are there, with a bad patient, and on real patients."""

import pytest

from glioma_phantom import PhantomSettings
from glioma_phantom.slices import write_phantom_slices
from helpers.running import assign, execute_notebooks
from helpers.workspace import REPOSITORY, load_metrics, open_workspace
from tests.cases import REAL_CASES

NOTEBOOK = REPOSITORY / "notebooks" / "extras" / "segment_2d_slices.ipynb"
TINY = {"CASES": "4", "PHANTOM_SPACING": "4.0", "EDGE": "32", "PATCH": "32", "FILTERS": "4", "STEPS": "2", "SEED": "7"}
TINY |= {"TRIALS": "2", "TRIAL_STEPS": "2", "TRIAL_FILTERS": "(4,)"}
REAL = REAL_CASES / "lgg"


@pytest.mark.parametrize("data", ["phantoms", "a bad patient of four", "patients"])
def test_it_runs_and_leaves_its_numbers(tmp_path, data):
    if data == "patients" and not REAL.is_dir():
        pytest.skip("the real cases for development are not on this machine")
    parameters, folder = TINY | {"OUT": str(tmp_path / "out")}, tmp_path / "slices"
    if data == "a bad patient of four":
        (bad, *_) = write_phantom_slices(folder, 4, PhantomSettings(spacing=4.0))
        next(bad.glob("*_2.tif")).write_bytes(b"no picture")
    given = {"a bad patient of four": folder, "patients": REAL}.get(data, "")
    if given:
        parameters |= {"COHORT": "lgg", "DATA": str(given)}
    if data == "phantoms" and REAL.is_dir():
        parameters |= {"REAL_CASES": str(REAL)}
    workspace = open_workspace("lgg" if given else "phantom", data=given, out=tmp_path / "out")
    (run,) = execute_notebooks([NOTEBOOK], workspace.root / "run", parameters=assign([NOTEBOOK], parameters))
    assert run.status == "ok", run.error
    record = load_metrics(workspace, "segment_2d_slices")
    assert (record["numbers"]["trials"], record["numbers"]["kind of patients"]) == (2, "real" if given else "phantoms")
    assert 0 <= record["numbers"]["test Dice by patient"] <= 1
    assert len(record["checkpoint_sha256"]) == 64
