"""The extra notebook on phantoms and patients: without patients, and with a folder of cases of which the first is broken."""

import pytest

from brats_cohort.cases import discover
from glioma_phantom import PhantomSettings, write_cohort
from helpers.running import assign, execute_notebooks
from helpers.workspace import REPOSITORY, load_metrics, open_workspace

NOTEBOOK = REPOSITORY / "notebooks" / "extras" / "phantoms_to_patients.ipynb"
TINY = {"CASES": "4", "SIZES": "[1]", "STEPS": "1", "PATCH": "32", "SEED": "7"}


@pytest.mark.parametrize("given", [False, True], ids=["phantoms", "cases"])
def test_it_runs_and_leaves_its_numbers(tmp_path, given):
    parameters = TINY | {"OUT": str(tmp_path / "out")}
    if given:
        write_cohort(tmp_path / "cases", 3, PhantomSettings(spacing=4.0), workers=0, progress=False)
        discover(tmp_path / "cases")[0].images["t2"].path.write_bytes(b"no image")
        parameters["REAL_CASES"] = str(tmp_path / "cases")
    workspace = open_workspace("phantom", out=tmp_path / "out")
    (run,) = execute_notebooks([NOTEBOOK], workspace.root / "run", parameters=assign([NOTEBOOK], parameters))
    assert run.status == "ok", run.error
    numbers = load_metrics(workspace, "phantoms_to_patients")["numbers"]
    assert numbers["phantoms: cases"] == 4 and numbers.get("patients: cases") == (2 if given else None)
    assert 0 <= numbers["phantoms: WT"] <= 1
