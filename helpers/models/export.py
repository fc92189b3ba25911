"""Write trained networks for other tools: ONNX Runtime, PyTorch without this package, MONAI and MONAI Label.

An ONNX file and a PyTorch program hold the network alone: prepared images in, region probabilities out, and the model card
beside them says how to prepare. A MONAI bundle holds everything from the image files to the label map that `predict` writes;
the steps that MONAI has no transform for (`helpers.evaluation.bundle`) come with it as source code.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import shutil
import warnings
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

import brats_cohort
from brats_cohort.files import DataError, require_writable, write_atomically
from helpers.models.checkpoints import ModelCard
from helpers.models.networks import input_multiple
from helpers.workspace import REPOSITORY, versions

LONGEST = 1024
"""Edge in voxels up to which an exported network takes images."""
LEFT_OUT = ("cli", "cloud", "plots", "released", "running.py", "serve", "training", "__pycache__")
"""Folders of this package that a bundle does not need."""
REQUIRED = ("einops", "fire", "isal", "joblib", "nibabel", "pytorch-ignite", "safetensors", "scipy", "tqdm")
"""Packages that a bundle needs beside MONAI, PyTorch and NumPy."""


class Probabilities(nn.Module):
    """A network whose output is region probabilities instead of logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute probabilities (1, 3, X, Y, Z) of TC, WT, ET from a prepared image (1, 4, X, Y, Z)."""
        return self.network(image).sigmoid()


def export_program(path: Path, network: nn.Module, card: ModelCard) -> Path:
    """Write a ``.pt2`` file of torch.export, which `torch.export.load` reads without this package, and the card beside it."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found")  # of weights that lie channels last
        torch.export.save(_program(network, card), content, extra_files={"card.json": json.dumps(asdict(card))})
    _write_bytes(path, content)
    return _write_card(path, card)


def export_onnx(path: Path, network: nn.Module, card: ModelCard) -> Path:
    """Write an ``.onnx`` file, which needs no PyTorch, and the card beside it and in the file's metadata."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    registration.addFilter(lambda record: "torchvision" not in record.msg)  # no network here has its operators
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about operators of torchvision, which is not needed
            program = torch.onnx.export(_program(network, card), dynamo=True, verbose=False)
    except ModuleNotFoundError as error:
        raise DataError(f"this needs {error.name}, which is not installed", 'pip install ./packages/* ".[export]"') from error
    program.model.metadata_props["card"] = json.dumps(asdict(card))
    with write_atomically(path) as temporary:
        program.save(temporary)
    return _write_card(path, card)


def _program(network: nn.Module, card: ModelCard) -> ExportedProgram:
    """Trace a network for one image at a time, of any edges that are multiples of what the network can halve."""
    multiple = input_multiple(card.network, **card.arguments)
    example = torch.zeros(1, len(card.modalities), *(multiple * count for count in (2, 3, 4)))
    shapes: dict[int, Any] = {2 + axis: multiple * Dim(f"n{axis}", max=LONGEST // multiple) for axis in range(3)}
    network = copy.deepcopy(network).cpu().eval()
    for module in network.modules():
        if type(module).__base__ is nn.Conv3d:  # what `mend_layers` made depends on the size of the example
            module.__class__ = nn.Conv3d
    with torch.no_grad():
        return torch.export.export(Probabilities(network).eval(), (example,), dynamic_shapes={"image": shapes})


def export_bundle(folder: Path, network: nn.Module, card: ModelCard) -> Path:
    """Write a MONAI bundle: configs, weights and the source of the packages that its transforms need.

    ``python -m monai.bundle run --config_file FOLDER/configs/inference.json --dataset_dir COHORT`` gives the label maps of
    `predict`, and MONAI Label serves the folder.
    """
    try:
        required = {name: metadata.version(name) for name in REQUIRED}
    except metadata.PackageNotFoundError as error:
        raise DataError(f"this needs {error.name}, which is not installed", 'pip install ./packages/* ".[export]"') from error
    folder = require_writable(folder)
    if any(folder.iterdir()):
        raise DataError(f"{folder} is not empty", "give the name of a new folder to --out")
    for source in (Path(__file__).parents[1], Path(brats_cohort.__file__).parent):
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    shutil.copytree(Path(__file__).with_name("bundle"), folder / "configs")
    described = json.loads((folder / "configs" / "metadata.json").read_text())
    installed = versions()
    described |= {
        "version": installed["helpers"],
        "changelog": {installed["helpers"]: f"weights {card.weights_sha256}"},
        "monai_version": installed["monai"],
        "pytorch_version": installed["torch"].split("+")[0],
        "numpy_version": installed["numpy"],
        "required_packages_version": required,
        "description": f"{card.network}, {sum(tensor.numel() for tensor in network.parameters()):,} parameters",
    }
    shape = [f"{input_multiple(card.network, **card.arguments)}*n"] * 3
    for part, name in (("inputs", "image"), ("outputs", "pred")):
        described["network_data_format"][part][name]["spatial_shape"] = shape
    (folder / "configs" / "metadata.json").write_text(json.dumps(described, indent=2) + "\n")
    (folder / "models").mkdir()
    (folder / "models" / "model.json").write_text(json.dumps(asdict(card), indent=2) + "\n")
    content = io.BytesIO()
    torch.save(network.state_dict(), content)  # tensors only: torch loads them with weights_only
    _write_bytes(folder / "models" / "model.pt", content)
    (folder / "docs").mkdir()
    for name, target in (("MODEL_CARD.md", "docs/README.md"), ("LICENSE", "LICENSE")):
        if (REPOSITORY / name).is_file():
            shutil.copyfile(REPOSITORY / name, folder / target)
    return folder


def _write_bytes(path: Path, content: io.BytesIO) -> None:
    """Write what torch has saved in memory: if it writes to a disk that is full, it raises a RuntimeError of its own."""
    with write_atomically(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def _write_card(path: Path, card: ModelCard) -> Path:
    with write_atomically(path.with_name(f"{path.name}.json")) as temporary:
        temporary.write_text(json.dumps(asdict(card), indent=2) + "\n")
    return path
