"""What a command does not need is not imported: MONAI would bring plotting, tables and a grammar along."""

import json
import subprocess
import sys

from brats_cohort.testing import write_case
from helpers.workspace import REPOSITORY

NEVER = {"lightning", "matplotlib", "mlflow", "nilearn", "pandas", "pydicom", "rfc3987_syntax", "skimage", "sklearn"}
NEVER |= {"tensorboard", "tifffile"}
PREDICT = """
import contextlib, io, json, runpy, sys
sys.argv = ["helpers", "predict", {case!r}, "--out", {out!r}, "--device", "cpu"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    runpy.run_module("helpers", run_name="__main__", alter_sys=True)
print(json.dumps(list(sys.modules)))
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


def test_prediction_imports_neither_plots_nor_tables_nor_trainers(tmp_path):
    case, out = write_case(tmp_path / "cohort").images["t1"].path.parent, tmp_path / "seg.nii.gz"
    found = set(json.loads(run(PREDICT.format(case=str(case), out=str(out)))))
    assert out.exists()
    assert {"torch", "monai", "nibabel", "helpers.evaluation.predict"} <= found
    assert not found & (NEVER | {"scipy.stats"})


def test_what_monai_did_without_can_be_imported_afterwards():
    """To find a module is enough: what is blocked cannot be found, and building that grammar takes seconds."""
    names = "[name for name in NEVER if importlib.util.find_spec(name)]"
    assert json.loads(
        run(f"import importlib.util, json; from helpers.data.monai_first import NEVER; print(json.dumps({names}))")
    )
