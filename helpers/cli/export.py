"""``python -m helpers export``: write a trained model for ONNX Runtime, PyTorch, MONAI or MONAI Label."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from brats_cohort.cases import refuse_to_overwrite
from brats_cohort.command import Target
from helpers.models.checkpoints import card_path, load_ensemble, released_files
from helpers.models.export import export_bundle, export_onnx, export_program

WRITERS = {"monai-bundle": export_bundle, "onnx": export_onnx, "torch": export_program}


def run(*, out: Target, format: Literal[*WRITERS], checkpoint: tuple[Path, ...] = ()) -> int:
    """Write a trained model in a form that other tools open.

    Parameters
    ----------
    out
        File to write, such as model.onnx or model.pt2; for a MONAI bundle a new folder.
    format
        monai-bundle: from the files of a session to the label map, for MONAI and MONAI Label. onnx: the network alone, for
        ONNX Runtime. torch: the network alone, for torch.export.load.
    checkpoint
        Weights (.safetensors) with their card (.json) beside them, several for their ensemble; else the released model.
    """
    refuse_to_overwrite(out, [file for path in checkpoint for file in (path, card_path(path))])
    network, card = load_ensemble(checkpoint or released_files())
    print(WRITERS[format](out, network, card))
    return 0
