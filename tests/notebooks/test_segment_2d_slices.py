"""The extra notebook on slices, on phantoms and on the real patients for development where they are."""

import pytest

from helpers.running.execute import assign, execute_notebooks
from helpers.workspace import REPOSITORY, load_metrics, open_workspace
from tests.cases import REAL_CASES

NOTEBOOK = REPOSITORY / "notebooks" / "extras" / "segment_2d_slices.ipynb"
TINY = {"CASES": "4", "PHANTOM_SPACING": "4.0", "EDGE": "32", "PATCH": "32", "FILTERS": "4", "STEPS": "2", "SEED": "7"}
TINY |= {"TRIALS": "2", "TRIAL_STEPS": "2", "TRIAL_FILTERS": "(4,)"}
REAL = REAL_CASES / "lgg"


@pytest.mark.parametrize("real", [False, True], ids=["phantoms", "patients"])
def test_it_runs_and_leaves_its_numbers(tmp_path, real):
    if real and not REAL.is_dir():
        pytest.skip("the real cases for development are not on this machine")
    parameters, cohort = TINY | {"OUT": str(tmp_path / "out")}, "lgg" if real else "phantom"
    if real:
        parameters |= {"COHORT": cohort, "DATA": str(REAL)}
    workspace = open_workspace(cohort, data=REAL if real else "", out=tmp_path / "out")
    quiet = {"report": lambda progress: None, "finished": lambda run: None}
    (run,) = execute_notebooks([NOTEBOOK], workspace.root / "run", parameters=assign([NOTEBOOK], parameters), **quiet)
    assert run.status == "ok", run.error
    record = load_metrics(workspace, "segment_2d_slices")
    assert (record["numbers"]["trials"], record["numbers"]["kind of patients"]) == (2, "real" if real else "phantoms")
    assert 0 <= record["numbers"]["test Dice by patient"] <= 1
    assert len(record["checkpoint_sha256"]) == 64
