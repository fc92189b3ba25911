"""What preparation does to the voxels of an image: find the brain, resample it, bring its intensities to one scale."""

from __future__ import annotations

import numpy as np
import torch

from helpers.data.files import DataError
from helpers.data.grids import regrid
from helpers.data.prepared import PreprocessSettings


def brain_box(image: np.ndarray, margin: int, identifier: str) -> tuple[slice, slice, slice]:
    """The smallest box around the voxels that are not 0 in some modality, grown by `margin` within the volume."""
    # On integers one "or" over the modalities is several times as fast as comparing each with 0.
    brain = np.bitwise_or.reduce(image) != 0 if image.dtype.kind in "iu" else (image != 0).any(0)
    box = []
    for axis, length in enumerate(brain.shape):
        found = np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis})))
        if not len(found):
            raise DataError(f"case {identifier or '(unnamed)'} has no voxel different from 0 in any modality; check its files")
        box.append(slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + 1 + margin, length)))
    return tuple(box)


def resample_brain(image: np.ndarray, affine: np.ndarray, grid: dict) -> np.ndarray:
    """Resample images linearly within the brain: float32 (4, X, Y, Z).

    A plain average would mix the zeros outside into the border of the brain, and a little brain into the air around it. Each
    value is therefore divided by the share of brain in it, and is 0 where that share is less than half.
    """
    brain = (image != 0).any(0).astype(np.float32)
    share = regrid(brain, affine, **grid, mode="linear")
    values = regrid(image.astype(np.float32), affine, **grid, mode="linear")
    return np.where(share >= 0.5, values / np.maximum(share, 0.5), 0)


def normalise(channel: np.ndarray, settings: PreprocessSettings) -> np.ndarray:
    """Bring one modality to the scale of the settings: float16; 0 stays exactly 0."""
    values = torch.from_numpy(np.ascontiguousarray(channel, dtype=np.float32))
    brain = values != 0
    count = max(int(brain.sum()), 1)
    if settings.normalise == "zscore":
        values = (values - values.sum(dtype=torch.float64).item() / count) * brain
        deviation = float(torch.linalg.vector_norm(values, dtype=torch.float64)) / count**0.5
        values = values / (deviation or 1.0)
    else:
        low, high = np.percentile(values[brain].numpy(), settings.percentiles) if count > 1 else (0.0, 0.0)
        values = ((values - low) / ((high - low) or 1.0)).clip_(0, 1) * brain
    return values.to(torch.float16).numpy()
