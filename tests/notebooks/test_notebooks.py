"""Every notebook from its first to its last cell on a tiny cohort of which the first, third and last case are bad, in order."""

import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as L
import monai
import nbformat
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai import data

from brats_cohort import check_cohort, convert_cohort, read_image, read_session
from brats_cohort.cases import discover
from brats_cohort.files import DataError
from glioma_phantom import PhantomSettings, write_cohort
from helpers.running import assign, execute_notebooks, key_figure, read_parameters, write_pages
from helpers.workspace import (
    REPOSITORY,
    VERSIONED,
    load_metrics,
    open_workspace,
)
from slice_viewer.widget import WIDGET_VIEW
from tests.policies import (
    load_policy,
    place_of,
    read_calls,
    refused,
)

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
TINY = {"COHORT": "phantom", "CASES": "9", "PHANTOM_SPACING": "4.0", "SPACING": "4.0", "SEED": "7", "WORKERS": "2"}
"""For every notebook that has the parameter."""

USABLE = 6
"""Cases that the three bad ones leave."""

OWN: dict[str, dict[str, str]] = {
    "03_train_unet": {
        "PATCH": "32",
        "STEPS": "4",
        "VALIDATE_EVERY": "4",
        "SMALL_STEPS": "2",
        "FOLDS": "1",
        "CHANNELS": "(8, 16, 32, 64)",
    },
    "04_train_swin_unetr": {"STEPS": "2", "TRIAL_STEPS": "2", "RATES": "(0.003,)"},
    "05_deploy_sagemaker": {"DEMO_CASES": "2", "DEMO_STEPS": "12", "TRIALS": "3", "COMPARED": "('ml.g5.xlarge',)"},
    "06_profile_gpu": {"PATCH": "32", "ROUNDS": "2", "COMPILE": "no"},
}
"""Further parameters by notebook name; each must exist in that notebook."""

AGAIN = {
    "01_explore_data": ("fb66242e",),
    "02_preprocess": ("5e63aef1", "78dda7e1", "0dc5a88f", "5abd24a7"),
    "06_profile_gpu": ("32c194cb", "698f4981", "d3abbe84"),
}
"""Cells that are executed twice in a row, as by a reader who changes something or measures once more."""

CALLS = "calls.jsonl"
ONLY_REHEARSED = {"iam:CreateRole", "iam:GetRole", "iam:PutRolePolicy"}
"""A rehearsal makes its own role; in a real account somebody else does."""

each_notebook = pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])


def tiny_parameters(folder: Path) -> dict[Path, dict[str, object]]:
    """Values for each notebook; `assign` refuses what the notebook does not have."""
    given = TINY | {"DATA": str(folder / "data"), "OUT": str(folder / "out")}
    parameters = {}
    for path in NOTEBOOKS:
        names = read_parameters(path)
        shared = {name: text for name, text in given.items() if name in names}
        parameters |= assign([path], shared | OWN.get(path.stem, {}))
    return parameters


def repeat_cells(path: Path, folder: Path) -> Path:
    """A copy of a notebook in which each cell of `AGAIN` stands twice."""
    notebook = nbformat.read(path, as_version=4)
    for cell in [each for each in notebook.cells if each.id in AGAIN.get(path.stem, ())]:
        notebook.cells.insert(notebook.cells.index(cell) + 1, nbformat.v4.new_code_cell(cell.source))
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / path.name)
    return folder / path.name


def cells_of(path: Path) -> dict[str, nbformat.NotebookNode]:
    """The cells of a notebook by their names."""
    return {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}


def record_in_kernels(path: Path) -> None:
    """Let every kernel write its calls of AWS to a file; the folder of IPython's settings is that of the tests."""
    startup = Path(os.environ["IPYTHONDIR"]) / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    lines = ("import sys", "from pathlib import Path", f"sys.path.append({str(REPOSITORY)!r})")
    lines += ("from tests.policies import record_calls",)
    lines += (f"_recording = record_calls(into=Path({str(path)!r}))", "_recording.__enter__()")
    (startup / "10-calls.py").write_text("\n".join(lines) + "\n")


def write_cohort_with_bad_cases(folder: Path) -> None:
    """Phantoms that notebook 01 finds there; the first has no reference, the third and the last have a damaged image."""
    settings = PhantomSettings(spacing=float(TINY["PHANTOM_SPACING"]), seed=int(TINY["SEED"]))
    write_cohort(folder, int(TINY["CASES"]), settings, workers=2, progress=False)
    cases = discover(folder)
    cases[0].label.unlink()
    flair = cases[2].images["flair"].path
    flair.write_bytes(flair.read_bytes()[:-2000])
    cases[-1].images["t1"].path.write_bytes(b"no image")


@pytest.fixture(scope="session")
def series(tmp_path_factory):
    """All notebooks, run once; the workspace and the run of each by name."""
    folder = tmp_path_factory.mktemp("notebooks")
    workspace = open_workspace("phantom", data=folder / "data", out=folder / "out")
    write_cohort_with_bad_cases(workspace.data)
    record_in_kernels(workspace.root / CALLS)
    parameters = {repeat_cells(path, folder / "copies"): own for path, own in tiny_parameters(folder).items()}
    runs = list(execute_notebooks(list(parameters), workspace.root / "run", parameters=parameters))
    write_pages(runs[:1], workspace, workspace.root / "run")
    return workspace, {run.name: run for run in runs}


@each_notebook
def test_notebook_runs(series, name):
    _, runs = series
    assert runs[name].status == "ok", runs[name].error


@each_notebook
def test_notebook_has_its_common_parameters(name):
    names = read_parameters(REPOSITORY / "notebooks" / f"{name}.ipynb")
    assert {"COHORT", "DATA", "OUT", "SEED"} <= set(names)


@each_notebook
def test_notebook_leaves_its_numbers(series, name):
    workspace, _ = series
    record = load_metrics(workspace, name)
    assert record["notebook"] == name
    assert record["cohort"] == "phantom"
    assert record["numbers"]
    assert set(VERSIONED) <= set(record["versions"])


@each_notebook
def test_viewers_of_a_notebook_are_live_and_leave_a_picture(series, name):
    """Below a kernel the widget, for a reader on the web the picture; one notebook's are scrolled in tests/browser."""
    workspace = series[0]
    for cell in nbformat.read(workspace.root / "run" / f"{name}.ipynb", as_version=4).cells:
        if cell.source.splitlines()[-1:] and cell.source.splitlines()[-1].startswith("SliceViewer("):
            assert {WIDGET_VIEW, "image/png"} <= set(cell.outputs[-1].data)


@each_notebook
def test_notebook_shows_its_key_figure(series, name):
    workspace, _ = series
    assert key_figure(workspace.root / "run" / f"{name}.ipynb")


def test_exploring_leaves_cohort_split_and_page(series):
    workspace, _ = series
    assert "mean" in (workspace.root / "run" / "pages" / "01_explore_data.html").read_text()
    split = json.loads(workspace.splits.read_text())
    assert len(split["patients"]) == USABLE and split["test"]


def test_exploring_shows_what_a_file_that_is_cut_short_looks_like(series):
    workspace, _ = series
    cell = cells_of(workspace.root / "run" / "01_explore_data.ipynb")["fb66242e"]
    assert "is truncated or damaged" in cell.outputs[0].text


def test_a_split_needs_three_patients_not_three_sessions(tmp_path):
    write_cohort(tmp_path, 3, PhantomSettings(spacing=4.0), workers=0, progress=False)
    cases = [replace(case, patient="A") for case in discover(tmp_path)]
    known = {"discover": lambda *_: cases, "check_cohort": check_cohort, "COHORT": "phantom", "WORKERS": 1}
    with pytest.raises(AssertionError, match="3 patients, found 1"):
        exec(cells_of(NOTEBOOKS[0])["11faa4c5"].source, known | {"workspace": open_workspace("phantom", out=tmp_path / "out")})


@pytest.mark.parametrize(("patch", "levels", "bf16"), [(32, 4, True), (32, 5, False), (64, 5, True)])
def test_a_network_with_a_small_grid_at_its_bottom_is_trained_in_32_bit(monkeypatch, patch, levels, bf16):
    """There PyTorch's gradients in bfloat16 hold numbers that nobody wrote (`helpers.models.networks.mend_layers`)."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    known = {"torch": torch, "device": "cpu", "PATCH": patch, "CHANNELS": (8,) * levels}
    exec(cells_of(REPOSITORY / "notebooks" / "03_train_unet.ipynb")["ce719bd4"].source, known)
    assert bool(known["fast"]) == bf16


def test_a_second_training_in_notebook_03_has_a_curve_of_its_own(monkeypatch, tmp_path):
    """A reader changes the learning rate and runs the cells from the trainer on again."""
    monkeypatch.setattr(L.loggers, "MLFlowLogger", lambda *_, **__: L.loggers.CSVLogger(tmp_path, name="mlflow"))

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, index):
            loss = self.layer(batch).square().mean()
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, index):
            self.log_dict({f"dice_{name}": 0.5 for name in ("TC", "WT", "ET", "mean")})

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    known = {"L": L, "torch": torch, "pd": pd, "results": tmp_path, "STEPS": 4, "VALIDATE_EVERY": 2, "EMA": 0.9}
    known |= {"device": "cpu", "fast": False, "REGIONS": ("TC", "WT", "ET")}
    cells = cells_of(REPOSITORY / "notebooks" / "03_train_unet.ipynb")
    patches, whole = (torch.utils.data.DataLoader(torch.ones(count, 1), 2) for count in (8, 1))
    exec(cells["75eb0e81"].source + "\n" + cells["eef75c1b"].source, known)
    for _ in range(2):
        exec(cells["4ac9fdf9"].source, known)
        known["trainer"].fit(Module(), patches, whole)
        exec(cells["f7f1b1e1"].source, known)
        assert known["loss"].index.tolist() == [0, 1, 2, 3]


def test_a_network_without_residual_units_goes_through_notebook_06():
    """Exercise 3 puts a network of one's own in the place of the U-Net."""
    known = {"torch": torch, "networks": monai.networks, "COMPILE": "block", "image": torch.zeros(1, 4, 8, 8, 8)}
    known |= {"unet": torch.nn.Conv3d(4, 3, 1), "clock": lambda work, image: work(image)}
    exec(cells_of(REPOSITORY / "notebooks" / "06_profile_gpu.ipynb")["bab010ec"].source, known)
    assert known["compiled"] is None


def test_patches_of_notebook_06_leave_a_grid_that_is_large_enough_for_bfloat16():
    with pytest.raises(DataError, match="32 or more"):
        assign([REPOSITORY / "notebooks" / "06_profile_gpu.ipynb"], {"PATCH": "16"})


def test_a_background_that_is_not_0_is_no_brain_in_notebook_06(tmp_path):
    write_cohort(tmp_path, 1, PhantomSettings(spacing=4.0), workers=0, progress=False)
    (case,) = discover(tmp_path)
    for path in case.channels:
        file = nib.load(path)
        volume = np.asarray(file.dataobj)
        nib.save(nib.Nifti1Image(np.where(volume == 0, -1, volume).astype(np.int16), file.affine), path)
    known = {"torch": torch, "np": np, "data": data, "case": case, "crop": abs, "prepare": abs}
    known |= {"read_session": read_session, "read_image": read_image}
    exec(cells_of(REPOSITORY / "notebooks" / "06_profile_gpu.ipynb")["f5224cee"].source, known)
    assert (known["FromFiles"]()[0] == 0).float().mean() > 0.5


@pytest.mark.parametrize("empty", [np.zeros((3, 2, 2, 2), bool), torch.zeros((3, 2, 2, 2), dtype=bool)])
def test_a_region_that_is_rightly_empty_scores_1_in_notebook_06(empty):
    known = {}
    exec(cells_of(REPOSITORY / "notebooks" / "06_profile_gpu.ipynb")["agreement"].source, known)
    assert (known["dice_score"](empty, empty) == 1).all()


def test_patches_of_notebook_04_are_drawn_around_every_region():
    """Also around the first of regions that do not lie in each other, which a project of one's own may have."""
    regions = torch.zeros(2, 64, 64, 64)
    regions[0, 8:20, 8:20, 8:20] = regions[1, 44:56, 44:56, 44:56] = 1
    known = {"monai": monai, "torch": torch, "keys": ("image", "regions"), "size": (16,) * 3}
    exec(cells_of(REPOSITORY / "notebooks" / "04_train_swin_unetr.ipynb")["79715ea9"].source, known)
    augment = known["augment"].set_random_state(0)
    patches = [augment({"image": torch.ones_like(regions), "regions": regions})[0]["regions"] for _ in range(60)]
    assert min(sum(bool(patch[number].any()) for patch in patches) for number in (0, 1)) > 15


@pytest.mark.parametrize("patients", [2, 3])
def test_two_test_patients_have_no_interval_and_no_p_value_above_one(capsys, patients):
    difference = pd.DataFrame(np.arange(3.0 * patients).reshape(3, -1), index=["TC", "WT", "ET"])
    known = {"np": np, "pd": pd, "SEED": 1, "display": str, "difference": difference}
    known |= {"p_values": np.ones(3), "corrected": np.ones(3)}
    cells = cells_of(REPOSITORY / "notebooks" / "04_train_swin_unetr.ipynb")
    for name in ("36093516", "9e87ea81"):
        exec(cells[name].source, known)
    assert known["table"][["low", "high"]].isna().all(axis=None) == (patients < 3)
    assert capsys.readouterr().out.endswith("no corrected one below 1.000\n" if patients < 3 else "below 0.750\n")


def test_the_request_of_a_case_whose_files_share_a_name_is_a_case(tmp_path):
    """T1/Case_1.nii.gz, T2/Case_1.nii.gz and so on."""
    write_cohort(tmp_path / "phantoms", 3, PhantomSettings(spacing=4.0), workers=0, progress=False)
    for case in discover(tmp_path / "phantoms"):
        for folder, path in {**{name: source.path for name, source in case.images.items()}, "seg": case.label}.items():
            (tmp_path / "cohort" / folder).mkdir(parents=True, exist_ok=True)
            path.rename(tmp_path / "cohort" / folder / f"{case.identifier}.nii.gz")
    workspace = open_workspace("named", data=tmp_path / "cohort", out=tmp_path / "out")
    names = [case.identifier for case in discover(workspace.data)]
    workspace.splits.write_text(json.dumps({"test": names[:1], "folds": [names[1:2], names[2:]]}))
    known = {"workspace": workspace, "COHORT": "named", "DEMO_CASES": 2, "results": workspace.root, "run": "run"}
    known |= {"json": json, "tarfile": tarfile, "discover": discover, "convert_cohort": convert_cohort}
    cells = cells_of(REPOSITORY / "notebooks" / "05_deploy_sagemaker.ipynb")
    for name in ("cell12", "15b97354"):
        exec(cells[name].source, known)
    with tarfile.open(workspace.root / "case.tar") as archive:
        archive.extractall(tmp_path / "received", filter="data")
    (case,) = discover(tmp_path / "received")
    assert (case.identifier, case.missing) == (names[0], ())


def test_preprocessing_leaves_one_file_a_case(series):
    workspace, _ = series
    assert len(list(workspace.prepared.rglob("*.safetensors"))) >= USABLE


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS if path.stem[:2] in {"03", "04"}])
def test_training_leaves_checkpoints_tied_to_its_numbers(series, name):
    workspace, _ = series
    weights = list(workspace.models.rglob("*.safetensors"))
    assert weights
    assert all(path.with_suffix(".json").is_file() for path in weights)
    assert len(load_metrics(workspace, name)["checkpoint_sha256"]) == 64
    assert list(workspace.predictions.rglob("*.nii.gz"))


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS if path.stem[:2] == "05"])
def test_every_call_of_aws_is_allowed_by_the_policy(series, name):
    workspace, runs = series
    assert runs[name].status == "ok"
    calls = read_calls(workspace.root / CALLS)
    place = place_of(calls, account="123456789012", region="us-east-1")
    assert {"CreateTrainingJob", "CreateEndpoint"} <= {call.operation for call in calls}
    assert len(place.prefix) >= 4, "the names of a run begin alike, so that a policy can name them"
    beyond = refused(calls, load_policy("caller", place), place)
    assert [need for need in beyond if need.partition(" ")[0] not in ONLY_REHEARSED] == []
