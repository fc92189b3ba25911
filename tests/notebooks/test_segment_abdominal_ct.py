"""The extra notebook on abdominal CT, on phantoms and on a folder of one scan given as DATA."""

import pytest

from glioma_phantom.abdomen import CtPhantomSettings
from helpers.extras.ct.phantom import write_ct_phantoms
from helpers.running.execute import assign, execute_notebooks
from helpers.workspace import REPOSITORY, load_metrics, open_workspace

NOTEBOOK = REPOSITORY / "notebooks" / "extras" / "segment_abdominal_ct.ipynb"
TINY = {"CASES": "3", "PHANTOM_SPACING": "(7, 7, 8)", "SPACING": "(9, 9, 10)", "STEPS": "1", "WORKERS": "1", "SEED": "7"}


@pytest.mark.parametrize("given", [False, True], ids=["phantoms", "a scan"])
def test_it_runs_and_leaves_its_numbers(tmp_path, given):
    parameters = TINY | {"OUT": str(tmp_path / "out")}
    if given:
        write_ct_phantoms(tmp_path / "scans", 1, CtPhantomSettings(spacing=(8, 8, 8)), workers=1)
        parameters["DATA"] = str(tmp_path / "scans")
    workspace = open_workspace("phantom", out=tmp_path / "out")
    quiet = {"report": lambda progress: None, "finished": lambda run: None}
    (run,) = execute_notebooks([NOTEBOOK], workspace.root / "run", parameters=assign([NOTEBOOK], parameters), **quiet)
    assert run.status == "ok", run.error
    numbers = load_metrics(workspace, "segment_abdominal_ct")["numbers"]
    assert numbers["scans held out"] == 1
    assert 0 <= numbers["mean Dice"] <= 1
    assert list(workspace.predictions.rglob("img*.nii.gz"))
