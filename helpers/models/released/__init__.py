"""The model that comes with the package: trained on randomised phantoms only, never on a patient.

For research and teaching, not for clinical use. ``MODEL_CARD.md`` says how it was made and what it scores.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from helpers.data.files import DataError
from helpers.models.checkpoints import ModelCard, card_path, load_checkpoint, save_checkpoint
from helpers.models.ensemble import load_ensemble

RELEASED = Path(__file__).parent / "phantom.safetensors"
"""Weights in half precision, with their card beside them."""

LIMIT = 6_000_000
"""Most bytes that the weights may have: every clone of the repository carries them."""


def load_released(*, device: str | torch.device = "cpu") -> tuple[nn.Module, ModelCard]:
    """Load the released model as `helpers.models.checkpoints.load_checkpoint` loads any other.

    Raises
    ------
    DataError
        If this copy of the package came without the weights, or as `load_checkpoint`.
    """
    if not RELEASED.is_file():
        raise DataError("this copy of the package came without its released model; name a checkpoint, or install it again")
    return load_checkpoint(RELEASED, device=device)


def release_checkpoints(paths: Sequence[Path], *, folder: Path = RELEASED.parent) -> Path:
    """Put a trained checkpoint, or several as an ensemble, in the place of the released model, in half precision.

    Parameters
    ----------
    paths : sequence of Path
        Weights with their cards beside them, as a training leaves them.
    folder : Path
        Where the released model lies.

    Raises
    ------
    DataError
        If a checkpoint cannot be loaded, they do not fit together, or in half precision they have more than `LIMIT` bytes.
        Nothing is changed then.
    """
    network, card = load_ensemble(paths)
    target = Path(folder) / RELEASED.name
    unfinished = target.with_name(f"unfinished-{target.name}")
    try:
        save_checkpoint(unfinished, network, card, half=True)
        size = unfinished.stat().st_size
        if size > LIMIT:
            names = " and ".join(map(str, paths))
            raise DataError(f"{names}: {size:,} bytes in half precision, at most {LIMIT:,} can be released; train smaller")
        shutil.move(card_path(unfinished), card_path(target))
        shutil.move(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
        card_path(unfinished).unlink(missing_ok=True)
    return target
