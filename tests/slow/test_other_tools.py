"""The tools that a cohort or a model is written for open it themselves: nnU-Net, the BIDS validator, MONAI Label."""

import importlib
import json
import multiprocessing.dummy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import SaveImaged

from brats_cohort.nifti import read_volume
from brats_cohort.testing import write_case
from helpers.cli import main
from tests.slow.test_export import export, model  # noqa: F401

TOOLS = Path(sys.prefix) / "tools"
"""Where ``make tools`` installs tools that would change the environment if they were part of it."""


@pytest.fixture
def tool(monkeypatch):
    """Function that makes the packages of a tool importable; without them the test is skipped, in CI it fails."""

    def use(name: str, module: str):
        monkeypatch.syspath_prepend(str(TOOLS / name))
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            message = f"{error.name} is not installed (make tools)"
            pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)

    return use


@pytest.fixture
def cohort(tmp_path):
    """Two patients, one with two sessions; the last has no reference."""
    for number, name in enumerate(("BraTS-GLI-02060-100", "BraTS-GLI-02060-101", "BraTS-GLI-02061-100")):
        case = write_case(tmp_path / "cohort", name, "brats2023", seed=number)
    case.label.unlink()
    return tmp_path / "cohort"


def convert(cohort, format, out):
    assert main(["convert", str(cohort), "--to", format, "--out", str(out)]) == 0
    return out


def test_nnunet_accepts_the_dataset(cohort, tmp_path, tool, monkeypatch, capsys):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path))
    check = tool("nnunet", "nnunetv2.experiment_planning.verify_dataset_integrity")
    threads = multiprocessing.dummy  # a process would import for seconds
    monkeypatch.setattr(check.multiprocessing, "get_context", lambda kind: threads)
    folder = convert(cohort, "nnunet", tmp_path / "Dataset501_Gliomas")
    check.verify_dataset_integrity(str(folder), 1)
    said = capsys.readouterr().out
    assert "verify_dataset_integrity Done" in said and "Warning" not in said and "Error" not in said
    next(folder.glob("imagesTr/*_0003.nii.gz")).unlink()
    with pytest.raises(RuntimeError, match="Some images have errors"):
        check.verify_dataset_integrity(str(folder), 1)


def test_the_bids_validator_finds_no_fault_in_images(cohort, tmp_path):
    folder = convert(cohort, "bids", tmp_path / "bids")
    faults = [issue for issue in bids_issues(folder) if issue["severity"] == "error"]
    assert faults == []
    image = next(folder.glob("sub-*/ses-*/anat/*_T2w.nii.gz"))
    image.rename(image.with_name("t2.nii.gz"))
    assert any(issue["severity"] == "error" for issue in bids_issues(folder)), "the validator looks at images"


def bids_issues(folder):
    command = [Path(sys.executable).with_name("bids-validator-deno"), "--json", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True)
    return json.loads(ended.stdout)["issues"]["issues"]


def test_monai_label_finds_what_it_reads_from_a_bundle(model, tmp_path):  # noqa: F811
    """The steps of its BundleInferTask 0.8.5, by MONAI's own parser: MONAI Label cannot be installed beside pydicom 3."""
    write_case(tmp_path / "cohort", "Case_000")
    words = ["--checkpoint", *model, "--device", "cpu"]
    assert main(["predict", str(tmp_path / "cohort"), "--out", str(tmp_path / "wanted"), *words]) == 0
    image = convert(tmp_path / "cohort", "msd", tmp_path / "msd") / "imagesTr" / "Case_000.nii.gz"
    bundle = export(model, "monai-bundle", tmp_path / "glioma")
    described = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    assert [*described["inputs"]] == ["image"] and len(described["inputs"]["image"]["spatial_shape"]) == 3
    labels = {"0": "background", "1": "non-enhancing core", "2": "oedema", "4": "enhancing tumour"}
    assert described["outputs"]["pred"]["channel_def"] == labels
    config = ConfigParser()
    config.read_config(bundle / "configs" / "inference.json")
    config.config |= {"bundle_root": str(bundle), "device": "cpu"}
    network, before, inferer, after = (
        config.get_parsed_content(name, instantiate=True)
        for name in ("network_def", "preprocessing", "inferer", "postprocessing")
    )
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    data = before({"image": str(image)})
    with torch.no_grad():
        data["pred"] = inferer(data["image"][None], network.eval())[0]
    for step in after.transforms:
        data = data if isinstance(step, SaveImaged) else step(data)
    wanted, affine = read_volume(tmp_path / "wanted" / "Case_000.nii.gz")
    assert len(np.unique(wanted)) == 4 and np.array_equal(data["pred"][0], wanted)
    assert tuple(data["image"].meta["spatial_shape"]) == wanted.shape, "else it resizes the label map"
    assert np.allclose(data["image"].meta["original_affine"], affine)
