"""Write trained networks for other tools: ONNX Runtime, PyTorch without this package, MONAI and MONAI Label.

An ONNX file and a PyTorch program hold the network alone: prepared images in, region probabilities out, and the model card
beside them says how to prepare. A MONAI bundle holds everything from the image files to the label map that `predict` writes;
the steps that MONAI has no transform for (`helpers.evaluation.bundle`) come with it as source code.
"""

from __future__ import annotations

import copy
import importlib
import json
import shutil
import warnings
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from brats_cohort.files import DataError, require_writable, write_atomically
from brats_cohort.regions import CONVENTIONS, MODALITIES
from helpers.models.checkpoints import ModelCard
from helpers.models.networks import input_multiple
from helpers.workspace import REPOSITORY, versions

LONGEST = 1024
"""Edge in voxels up to which an exported network takes images."""
LEFT_OUT = ("cli", "cloud", "plots", "released", "running.py", "serve", "training", "__pycache__")
"""Folders of this package that a bundle does not need."""
REQUIRED = ("einops", "fire", "isal", "joblib", "nibabel", "pytorch-ignite", "safetensors", "scipy", "tqdm")
"""Packages that a bundle needs beside MONAI, PyTorch and NumPy."""
LABELS = "brats2021"
"""Label numbers that a bundle writes unless told otherwise."""


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
    with write_atomically(path) as temporary:
        partial = temporary.with_suffix(".pt2")  # torch insists on the ending
        torch.export.save(_program(network, card), partial, extra_files={"card.json": json.dumps(asdict(card))})
        partial.replace(temporary)
    return _write_card(path, card)


def export_onnx(path: Path, network: nn.Module, card: ModelCard) -> Path:
    """Write an ``.onnx`` file, which needs no PyTorch, and the card beside it and in the file's metadata."""
    _need("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about operators of torchvision, which is not needed
        program = torch.onnx.export(_program(network, card), dynamo=True, verbose=False)
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
        if type(module).__base__ is nn.Conv3d:  # what `keep_small_grids_exact` made depends on the size of the example
            module.__class__ = nn.Conv3d
    with torch.no_grad():
        return torch.export.export(Probabilities(network).eval(), (example,), dynamic_shapes={"image": shapes})


def export_bundle(folder: Path, network: nn.Module, card: ModelCard) -> Path:
    """Write a MONAI bundle: configs, weights and the source of this package that its transforms need.

    ``python -m monai.bundle run --config_file FOLDER/configs/inference.json --dataset_dir COHORT`` gives the label maps of
    `predict`, and MONAI Label serves the folder.
    """
    for name in ("fire", "ignite"):
        _need(name)
    folder = require_writable(folder)
    if any(folder.iterdir()):
        raise DataError(f"{folder} is not empty", "give the name of a new folder to --out")
    source = Path(__file__).parents[1]
    shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    contents = {"configs/metadata.json": _metadata(network, card), "configs/inference.json": _inference(card)}
    contents["models/model.json"] = asdict(card)
    for name, content in contents.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
    with write_atomically(folder / "models" / "model.pt") as temporary:
        torch.save(network.state_dict(), temporary)  # tensors only, which torch loads without unpickling anything else
    (folder / "docs").mkdir()
    for name, target in (("MODEL_CARD.md", "docs/README.md"), ("LICENSE", "LICENSE")):
        if (REPOSITORY / name).is_file():
            shutil.copyfile(REPOSITORY / name, folder / target)
    return folder


def _inference(card: ModelCard) -> dict[str, Any]:
    """The bundle's config, by the names that MONAI and MONAI Label look for."""
    bundle = "helpers.evaluation.bundle"
    settings = {"preprocessing": dict(card.preprocessing), "postprocessing": dict(card.postprocessing)}
    prepare = {"_target_": f"{bundle}.PrepareSessiond", "keys": "image", "settings": settings["preprocessing"]}
    to_labels = {"_target_": f"{bundle}.ToLabelMapd", "keys": "pred", "labels": "@labels", **settings}
    save = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": "", "resample": False}
    save |= {"separate_folder": False, "output_dtype": "$torch.uint8"}
    multiple = input_multiple(card.network, **card.arguments)
    items = {"_target_": f"{bundle}.list_sessions", "folder": "@dataset_dir"}
    steps = {name: f"@{name}" for name in ("device", "network", "inferer", "postprocessing")}
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "labels": LABELS,
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "helpers.models.networks.build_network", "name": card.network, **card.arguments},
        "network": "$@network_def.to(@device).eval()",
        "weights": "$torch.load(@bundle_root + '/models/model.pt', map_location=@device, weights_only=True)",
        "preprocessing": {"_target_": "Compose", "transforms": [prepare]},
        "dataset": {"_target_": "Dataset", "data": items, "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {"_target_": f"{bundle}.WindowInferer", "patch": card.patch, "multiple": multiple},
        "postprocessing": {"_target_": "Compose", "transforms": [to_labels, save]},
        "evaluator": {"_target_": "SupervisedEvaluator", "val_data_loader": "@dataloader", **steps},
        "run": ["$@network.load_state_dict(@weights)", "$@evaluator.run()"],  # only now the bundle is in Python's path
    }


def _metadata(network: nn.Module, card: ModelCard) -> dict[str, Any]:
    """The bundle's metadata: what it is, needs, takes and gives."""
    installed = versions()
    shape = [f"{input_multiple(card.network, **card.arguments)}*n"] * 3
    volume = {
        "type": "image",
        "modality": "MR",
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
    }
    channels = {str(number): name for number, name in enumerate(MODALITIES)}
    labels = {"0": "background", **{str(number): name for number, name in CONVENTIONS[LABELS].meanings.items()}}
    return {
        "version": installed["helpers"],
        "changelog": {installed["helpers"]: f"weights {card.weights_sha256}"},
        "monai_version": installed["monai"],
        "pytorch_version": installed["torch"].split("+")[0],
        "numpy_version": installed["numpy"],
        "required_packages_version": {name: metadata.version(name) for name in REQUIRED},
        "task": "Segmentation of gliomas in four MRI contrasts",
        "description": f"{card.network}, {sum(tensor.numel() for tensor in network.parameters()):,} parameters",
        "authors": "brain-tumour-segmentation",
        "copyright": "Apache-2.0",
        "intended_use": "Research and teaching, not clinical use",
        "network_data_format": {
            "inputs": {"image": {**volume, "format": "magnitude", "num_channels": len(MODALITIES), "channel_def": channels}},
            "outputs": {"pred": {**volume, "format": "segmentation", "num_channels": len(card.regions), "channel_def": labels}},
        },
    }


def _write_card(path: Path, card: ModelCard) -> Path:
    with write_atomically(path.with_name(f"{path.name}.json")) as temporary:
        temporary.write_text(json.dumps(asdict(card), indent=2) + "\n")
    return path


def _need(module: str) -> None:
    """Raise `DataError` if an optional package is not installed."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DataError(f"this needs {error.name}, which is not installed", 'pip install ".[export]"') from error
