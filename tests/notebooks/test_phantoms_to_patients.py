"""The extra notebook on phantoms and patients, on phantoms and on a folder of cases given as REAL."""

import pytest

from glioma_phantom import PhantomSettings
from helpers.data.phantoms import write_cohort
from helpers.running.execute import assign, execute_notebooks
from helpers.workspace import REPOSITORY, load_metrics, open_workspace

NOTEBOOK = REPOSITORY / "notebooks" / "extras" / "phantoms_to_patients.ipynb"
TINY = {"CASES": "3", "SIZES": "[1]", "STEPS": "1", "PATCH": "32", "WORKERS": "1", "SEED": "7"}


@pytest.mark.parametrize("given", [False, True], ids=["phantoms", "cases"])
def test_it_runs_and_leaves_its_numbers(tmp_path, given):
    parameters = TINY | {"OUT": str(tmp_path / "out")}
    if given:
        write_cohort(tmp_path / "cases", 2, PhantomSettings(spacing=4.0), workers=0, progress=False)
        parameters["REAL"] = str(tmp_path / "cases")
    workspace = open_workspace("phantom", out=tmp_path / "out")
    quiet = {"report": lambda progress: None, "finished": lambda run: None}
    (run,) = execute_notebooks([NOTEBOOK], workspace.root / "run", parameters=assign([NOTEBOOK], parameters), **quiet)
    assert run.status == "ok", run.error
    numbers = load_metrics(workspace, "phantoms_to_patients")["numbers"]
    assert numbers["cases"] == (2 if given else 3)
    assert 0 <= numbers["mean Dice"] <= 1
