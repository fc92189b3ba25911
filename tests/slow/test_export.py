"""Exported models give the numbers of `predict` in the tools that they are for."""

import json
import os
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch

from brats_cohort.nifti import read_volume
from brats_cohort.testing import write_case
from helpers.cli import main
from helpers.data.preprocess import PreprocessSettings, preprocess_case
from helpers.evaluation.predict import predict_prepared
from helpers.models.checkpoints import ModelCard, load_ensemble, save_checkpoint
from helpers.models.networks import build_network

TINY = {"unet": {"channels": (4, 8), "num_res_units": 1}, "swin_unetr": {"feature_size": 12}}
PREPROCESSING = {"spacing": (0.75, 0.75, 0.75), "normalise": "zscore"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Checkpoints of a U-Net and a SwinUNETR with random weights, whose ensemble gives a label map of every class."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    for name, arguments in TINY.items():
        card = ModelCard(name, arguments, PREPROCESSING, (32, 64, 32))
        save_checkpoint(folder / f"{name}.safetensors", build_network(name, **arguments), card)
    return [str(folder / f"{name}.safetensors") for name in TINY]


def export(model, format, out):
    assert main(["export", "--checkpoint", *model, "--format", format, "--out", str(out)]) == 0
    return out


def test_monai_runs_the_bundle_without_this_package_and_gets_the_label_maps_of_predict(model, tmp_path):
    for number in range(2):
        write_case(tmp_path / "cohort", f"Case_{number:03}", "msd", seed=number)
    words = ["--checkpoint", *model, "--device", "cpu"]
    assert main(["predict", str(tmp_path / "cohort"), "--out", str(tmp_path / "wanted"), *words]) == 0
    bundle = export(model, "monai-bundle", tmp_path / "bundle")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--bundle_root", "."]
    command += ["--dataset_dir", str(tmp_path / "cohort"), "--output_dir", str(tmp_path / "found"), "--device", "cpu"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # the last digit of a convolution depends on it
    ended = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for number in range(2):
        wanted, found = (read_volume(tmp_path / name / f"Case_{number:03}.nii.gz") for name in ("wanted", "found"))
        assert len(np.unique(wanted[0])) == 4 and np.array_equal(found[0], wanted[0])
        assert np.allclose(found[1], wanted[1])
    assert main(["export", "--format", "monai-bundle", "--checkpoint", *model, "--out", str(bundle)]) == 1, "not empty"


def test_onnx_runtime_and_pytorch_alone_give_the_same_probabilities(model, tmp_path):
    model = model[:1]  # tracing a SwinUNETR with free edges takes PyTorch more than ten minutes
    network, card = load_ensemble(model)
    prepared = preprocess_case(write_case(tmp_path / "cohort"), PreprocessSettings(**card.preprocessing))
    image = np.pad(prepared.image.astype(np.float32), [(0, 0), *((0, -edge % 32) for edge in prepared.shape)])
    wanted = predict_prepared(network, card, image)
    session = onnxruntime.InferenceSession(export(model, "onnx", tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": image[None]})
    assert np.abs(found[0] - wanted).max() < 1e-3
    kept = session.get_modelmeta().custom_metadata_map["card"]
    assert json.loads(kept) == json.loads((tmp_path / "model.onnx.json").read_text())
    assert json.loads(kept)["weights_sha256"] == card.weights_sha256
    program = torch.export.load(export(model, "torch", tmp_path / "model.pt2")).module()
    with torch.no_grad():
        assert np.abs(program(torch.from_numpy(image)[None]).numpy()[0] - wanted).max() < 1e-3
