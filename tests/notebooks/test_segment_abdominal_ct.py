"""The extra notebook on abdominal CT: on three scans given as DATA of which one is bad."""

from glioma_phantom.abdomen import CtPhantomSettings, write_ct_phantoms
from helpers.running import assign, execute_notebooks
from helpers.workspace import REPOSITORY, load_metrics, open_workspace

NOTEBOOK = REPOSITORY / "notebooks" / "extras" / "segment_abdominal_ct.ipynb"
TINY = {"CASES": "2", "PHANTOM_SPACING": "(7, 7, 8)", "SPACING": "(9, 9, 10)", "STEPS": "1", "SEED": "7"}
TINY |= {"ROI": "(40, 32, 16)", "RANDCROP": "(40, 32, 16)"}


def test_it_runs_on_given_scans_of_which_one_is_bad_and_leaves_its_numbers(tmp_path):
    """Without DATA the notebook takes the phantoms that it draws in any case."""
    write_ct_phantoms(tmp_path / "scans", 3, CtPhantomSettings(spacing=(8, 8, 8)), workers=1)
    (tmp_path / "scans" / "imagesTr" / "img0001.nii.gz").write_bytes(b"no image")
    parameters = TINY | {"OUT": str(tmp_path / "out"), "DATA": str(tmp_path / "scans")}
    workspace = open_workspace("phantom", out=tmp_path / "out")
    (run,) = execute_notebooks([NOTEBOOK], workspace.root / "run", parameters=assign([NOTEBOOK], parameters))
    assert run.status == "ok", run.error
    numbers = load_metrics(workspace, "segment_abdominal_ct")["numbers"]
    assert numbers["scans held out"] == 1
    assert numbers["mean Dice, released"] > 0.4, "it is run in the voxels that it has learnt from, whatever SPACING is"
    assert "Dice liver, this run" in numbers, "of scans that are given, the network that learnt from them is shown"
    assert list(workspace.predictions.rglob("img*.nii.gz"))
